"""The model at work: each half in its own precision, as many clips at a time as memory holds, and nothing that is not finite.

Letters: N clips; F, h, w frames, height and width of a clip.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor

from vidtwin.latents.stream import Identity
from vidtwin.metrics import clip_psnr
from vidtwin.model.config import VidTwinConfig
from vidtwin.model.latents import Latents, Posterior
from vidtwin.model.vidtwin import Part, VidTwin
from vidtwin.onnx.model import OnnxModel

T = TypeVar("T")

CHECK_DB = 40.0  # of the first clip in a lower precision against float32; below it the work is refused
Precision = torch.dtype | Literal["auto"] | None
MOST_CLIPS = {"cpu": 1, "cuda": 16}  # at a time; more is not faster
MEMORY_SHARE = 0.5  # of the free memory that activations may take; the rest is for frames
ENCODER, DECODER = ("encoder", "structure_encoder", "dynamics_encoder"), ("decoder", "structure_decoder", "dynamics_decoder")


class PrecisionWarning(UserWarning):
    """What was computed is right, but not as it was asked for: in another precision, or in smaller batches."""


@dataclass(frozen=True)
class Plan:
    """How clips go through the model.

    Attributes:
        batch: clips at a time. encode_dtype, dtype: of the two halves.
        clip_bytes, free_bytes: estimated memory of a clip, and what was free; None if it is not known.
        runtime: what runs them if it is not torch ("onnx int8").
    """

    batch: int
    encode_dtype: torch.dtype
    dtype: torch.dtype
    clip_bytes: int
    free_bytes: int | None
    runtime: str | None = None

    def describe(self) -> str:
        """One line for people."""
        memory = f"about {self.batch * self.clip_bytes / 2**30:.2f} GiB"
        free = "" if self.free_bytes is None else f" of {self.free_bytes / 2**30:.1f} free"
        return f"{self.batch} at a time, {self.runtime or precisions(self.encode_dtype, self.dtype)}, {memory}{free}"


class Engine:
    """Encodes and decodes clips with a model.

    Args:
        model: its weights, as they are, are what other precisions are made of. Give it in float32. Or an exported one, which has
            the precision that it was exported in; of int8, `check_db` is held against what was found then.
        encode_dtype, dtype: of the matrix products of the two halves. "auto" is the fastest here: bfloat16 where the GPU or CPU
            (AMX, AVX512_BF16) has such products, but float32 if the first clip falls below check_db. None is float32 if a clip of
            it fits in memory, else bfloat16 (on CUDA). Weights that come in a lower precision keep that.
        batch: clips at a time; None is one on a CPU, on a GPU as many as half of the free memory holds, at most 16.
        check_db: the first clip of a half that is not in float32 is also computed in float32; if the PSNR between the two is
            below this, in dB, the work is refused, or goes on in float32 if the dtype was "auto". 0 does not check.
        compile: compile the transformers' blocks, those of `model` itself where it has the precision wanted.

    A result with NaN or infinite values is computed again in float32; running out of memory halves the batch. Both are said
    once, as a `PrecisionWarning`. `notes` has what the checks found.

    Raises:
        ValueError: a batch below 1, or a negative check_db; a dtype for an exported model, or one below check_db.
    """

    def __init__(
        self,
        model: VidTwin | OnnxModel,
        *,
        encode_dtype: Precision = None,
        dtype: Precision = None,
        batch: int | None = None,
        check_db: float = CHECK_DB,
        compile: bool = False,
    ):
        if batch is not None and batch < 1:
            raise ValueError(f"batch={batch}: give at least 1 clip at a time")
        if check_db < 0:
            raise ValueError(f"check_db={check_db:g}: give a PSNR in dB, or 0 for no check")
        if isinstance(model, OnnxModel) and not {encode_dtype, dtype} <= {None, "auto"}:
            raise ValueError("dtype and encode_dtype are not for an exported model; leave them out, or export it otherwise")
        if isinstance(model, OnnxModel) and compile:
            raise ValueError("compile=True: is not for an exported model; leave it out")
        self.device, own = model.device, model.dtype
        self.model, self.config = model, model.config
        free = free_memory(self.device)
        chosen = own if own != torch.float32 or fits(self.config, own, free) or self.device.type != "cuda" else torch.bfloat16
        fastest = fastest_dtype(self.device) if own == torch.float32 and isinstance(model, VidTwin) else own
        self._auto = {name for name, given in (("encode_dtype", encode_dtype), ("dtype", dtype)) if given == "auto"}
        encode_dtype, dtype = (fastest if given == "auto" else given or chosen for given in (encode_dtype, dtype))
        clip_bytes = clip_memory(self.config, max(encode_dtype, dtype, key=lambda kind: kind.itemsize))
        if batch is None:
            most = MOST_CLIPS.get(self.device.type, 1)
            batch = most if free is None else max(1, min(most, int(MEMORY_SHARE * free) // clip_bytes))
        self.plan = Plan(batch, encode_dtype, dtype, clip_bytes, free, model.runtime if isinstance(model, OnnxModel) else None)
        self.batch = batch
        self.notes: list[str] = model.check(check_db) if isinstance(model, OnnxModel) else []
        self._said: set[str] = set()
        self._encoder = model if isinstance(model, OnnxModel) or encode_dtype == own else half(model, ENCODER, encode_dtype)
        self._decoder = model if isinstance(model, OnnxModel) or dtype == own else half(model, DECODER, dtype)
        if compile:
            assert isinstance(self._encoder, VidTwin) and isinstance(self._decoder, VidTwin)
            self._encoder.encoder.transformer.compile_blocks()
            self._decoder.decoder.transformer.compile_blocks()
        self._float32: VidTwin | OnnxModel | None = model if own == torch.float32 else None
        # Weights that came in a lower precision have nothing better to be checked against.
        self._check_db = check_db if own == torch.float32 else 0.0
        self._encode_checked = self._decode_checked = False
        self._known: tuple[Latents, Tensor] | None = None  # latents of a clip, and what float32 makes of them

    @classmethod
    def of(cls, model: "VidTwin | Engine") -> "Engine":
        """An engine as it is; a model in its own precision."""
        return model if isinstance(model, Engine) else cls(model)

    @torch.inference_mode()
    def encode(self, count: int, clip: Callable[[int], Tensor]) -> Posterior:
        """Posterior of clips 0..count-1, each (3, F, h, w) in [-1, 1], made by `clip` when it is needed. float32 on the CPU.

        Raises:
            ValueError: it is not finite, even in float32; the check failed. MemoryError: a single clip does not fit.
        """
        parts = list(self._batches(count, lambda start, stop: self._encode(torch.stack([clip(i) for i in range(start, stop)]))))
        mean, logvar = (Latents.cat(list(tensors)) for tensors in zip(*((p.mean, p.logvar) for p in parts), strict=True))
        return Posterior(mean, logvar)

    @torch.inference_mode()
    def decode(self, latents: Latents, only: Part | None = None, times: Tensor | None = None) -> Iterator[Tensor]:
        """Clips (3, F, h, w), clamped to [-1, 1], float32 on the CPU, one by one; arguments as of `VidTwin.decode`.

        Raises:
            ValueError: as `encode`; latents of another config; times for an exported model. MemoryError: as `encode`.
        """
        if times is not None and isinstance(self.model, OnnxModel):
            raise ValueError("an exported model cannot edit Structure in time; use part='dynamics', or weights as they were")

        def decoded(start: int, stop: int) -> Tensor:
            return self._decode(latents[start:stop], only, None if times is None else times[start:stop])

        for clips in self._batches(len(latents), decoded):
            yield from clips

    def windows_at_once(self, tiles: int) -> int:
        """Windows of so many clips each that go through the model together."""
        return max(1, self.plan.batch // tiles)

    def _batches(self, count: int, function: Callable[[int, int], T]) -> Iterator[T]:
        """function(start, stop) over the clips, in smaller batches from when memory runs out."""
        start = 0
        while start < count:
            stop = min(start + self.batch, count)
            try:
                result = function(start, stop)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.batch == 1:
                    w, h, f = self.config.width, self.config.height, self.config.frames
                    raise MemoryError(
                        f"a clip of {f}x{h}x{w} does not fit in memory; use dtype=torch.bfloat16, or smaller weights"
                    ) from None
                self.batch = max(1, min(self.batch, stop - start) // 2)
                self._say(f"memory ran out; from here on {self.batch} clips at a time")
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            yield result
            start = stop

    def _encode(self, x: Tensor) -> Posterior:
        posterior = self._posterior(self._encoder, x)
        if not is_finite(posterior) and self.plan.encode_dtype != torch.float32:
            self._say(f"encoding in {name(self.plan.encode_dtype)} gave values that are not finite; computed again in float32")
            posterior = self._posterior(self._in_float32(), x)
        if not is_finite(posterior):
            raise ValueError("latents have NaN or infinite values; use dtype=torch.float32, or other weights")
        if not self._encode_checked and self._must_check(self.plan.encode_dtype):
            exact = self._posterior(self._in_float32(), x[:1])
            clips = [self._clips(self._in_float32(), z) for z in (posterior.mean[:1], exact.mean)]
            self._known = posterior.mean[:1], clips[0]
            if not self._is_close("encoded", "encode_dtype", *clips):
                self._encoder = self._in_float32()
                posterior = self._posterior(self._encoder, x)
        self._encode_checked = True
        return posterior

    def _decode(self, latents: Latents, only: Part | None, times: Tensor | None) -> Tensor:
        clips = self._clips(self._decoder, latents, only, times)
        if not torch.isfinite(clips).all() and self.plan.dtype != torch.float32:
            self._say(f"decoding in {name(self.plan.dtype)} gave values that are not finite; computed again in float32")
            clips = self._clips(self._in_float32(), latents, only, times)
        check_decoded(clips)
        if not self._decode_checked and self._must_check(self.plan.dtype):
            exact = self._exact(latents[:1], only, None if times is None else times[:1])
            if not self._is_close("decoded", "dtype", clips[:1], exact):
                self._decoder = self._in_float32()
                clips = self._clips(self._decoder, latents, only, times)
        self._decode_checked = True
        return clips.clamp(-1, 1)

    def _exact(self, latents: Latents, only: Part | None, times: Tensor | None) -> Tensor:
        """Decoded in float32; not again if the check of encoding has."""
        known, self._known = self._known, None
        if known and only is None and times is None and all(map(torch.equal, known[0].tensors, latents.tensors)):
            return known[1]
        return self._clips(self._in_float32(), latents, only, times)

    def _posterior(self, model: VidTwin | OnnxModel, x: Tensor) -> Posterior:
        device = model.device
        if device.type == "cuda":
            x = x.pin_memory()  # then the copy does not wait, and nobody for it
        return model.posterior(x.to(device, non_blocking=True)).to("cpu", torch.float32)

    def _clips(self, model: VidTwin | OnnxModel, latents: Latents, only: Part | None = None, times: Tensor | None = None) -> Tensor:
        more = {} if times is None else {"times": times}
        return model.decode(latents.to(model.device), only=only, **more).to("cpu", torch.float32)

    def _in_float32(self) -> VidTwin | OnnxModel:
        if self._float32 is None:
            assert isinstance(self.model, VidTwin)
            self._float32 = copy.deepcopy(self.model).float()
        return self._float32

    def identity(self) -> Identity:
        """Which weights the model has; of a model that was cast to a lower precision, those it has now."""
        return self.model.identity if isinstance(self.model, OnnxModel) else Identity.of(self.model)

    def _must_check(self, dtype: torch.dtype) -> bool:
        return self._check_db > 0 and dtype != torch.float32

    def _is_close(self, done: str, option: str, clips: Tensor, exact: Tensor) -> bool:
        """Whether the first clip is as near to float32 as asked; if not, and `option` was "auto", the plan is float32 from now."""
        check_decoded(exact)
        dtype = getattr(self.plan, option)
        decibels = clip_psnr(clips[0].clamp(-1, 1), exact[0].clamp(-1, 1))
        text = f"the first clip {done} in {name(dtype)} is {decibels:.1f} dB from float32"
        close = decibels >= self._check_db
        if not close and option not in self._auto:
            raise ValueError(f"{text}, below check_db={self._check_db:g}; use {option}=torch.float32, or a lower limit")
        if not close:
            text += f", below {self._check_db:g}: float32 is used"
            self.plan = replace(self.plan, **{option: torch.float32})  # type: ignore[arg-type]
        self.notes.append(text)
        return close

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            warnings.warn(text, PrecisionWarning, stacklevel=2)


def only(model: VidTwin, parts: tuple[str, ...]) -> VidTwin:
    """A model without the other parts, which shares these with the one given."""
    twin = copy.copy(model)
    twin._modules = {key: module for key, module in model._modules.items() if key in parts}
    return twin


def half(model: VidTwin, parts: tuple[str, ...], dtype: torch.dtype) -> VidTwin:
    """A copy with only these parts, in another precision."""
    return copy.deepcopy(only(model, parts)).to(dtype)


def fastest_dtype(device: torch.device) -> torch.dtype:
    """In which matrix products are fastest: bfloat16 on a GPU or CPU that has instructions for them, else float32."""
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bfloat16 = device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if has_bfloat16 else torch.float32


def is_finite(posterior: Posterior) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in (*posterior.mean.tensors, *posterior.logvar.tensors))


def check_decoded(clips: Tensor) -> None:
    """Raise a ValueError for clips with NaN or infinite values."""
    if not torch.isfinite(clips).all():
        raise ValueError("latents decode to NaN or infinite values; use dtype=torch.float32, or other weights")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python says that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(words in str(error) for words in ("can't allocate memory", "not enough memory", "out of memory"))


def clip_memory(config: VidTwinConfig, dtype: torch.dtype) -> int:
    """Bytes of activations that a clip takes at most, in either half, measured: 24 features z and 4 clips."""
    (h, w), pixels = config.grid, prod(config.clip_shape)
    return dtype.itemsize * (24 * config.frames * h * w * config.hidden + 4 * pixels)


def fits(config: VidTwinConfig, dtype: torch.dtype, free: int | None) -> bool:
    return free is None or clip_memory(config, dtype) <= MEMORY_SHARE * free


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be allocated: of the GPU, or of this machine or container by what Linux says; None where it does not."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit, used = (int(Path("/sys/fs/cgroup", name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return available
    return min(available, limit - used)


def precisions(encode_dtype: torch.dtype, dtype: torch.dtype) -> str:
    """Both dtypes, or the one that they share: "float32", "encode float32, decode bfloat16"."""
    if encode_dtype == dtype:
        return name(dtype)
    return f"encode {name(encode_dtype)}, decode {name(dtype)}"


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
