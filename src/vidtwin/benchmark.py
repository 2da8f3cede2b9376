"""How near to its machine's limit a model runs: counted FLOPs, seconds, and the share of the rate of a large matrix product.

rows = [*measure(VidTwin(preset("tiny")), "tiny", torch.float32, batch=1)]
print(table(rows))
print(split(Engine(model), "in.mp4").table())
"""

import contextlib
import copy
import ctypes
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vidtwin.inference.encode import encode_stream, plan_header
from vidtwin.inference.engine import Engine, precisions
from vidtwin.inference.stages import Split as Split
from vidtwin.inference.stages import split as split
from vidtwin.losses.objective import LossWeights, autoencoder_loss
from vidtwin.model.checkpoint import Uninitialized
from vidtwin.model.config import VidTwinConfig
from vidtwin.model.latents import Latents
from vidtwin.model.vidtwin import VidTwin
from vidtwin.video import probe

PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices whose product is the machine's limit
PRODUCT_SECONDS = 0.2  # that one of them may take: bfloat16 is emulated on some CPUs
INFERENCE = ("encode", "decode", "reconstruct")
TRAINING = ("train", "train, checkpointing")
STEPS = INFERENCE + TRAINING
PATIENCE = 30.0  # seconds of calls after which no further one is begun


@dataclass(frozen=True)
class Row:
    """One step, measured.

    `flops` are counted (2 for a multiplication and an addition) and `seconds` the median of `calls`, both of a whole batch. `limit`
    is the FLOP/s of a large matrix product in the same dtype, and `share` the median of what each call reached of it, compared
    with the products just before and just after it: machines are shared, and their speed changes. What training computes again
    to save memory is not counted. `peak_mib`: what the step takes besides the weights and its input; None where it cannot be
    measured.
    """

    model: str
    step: str
    dtype: str
    batch: int
    flops: int
    seconds: float
    calls: int
    limit: float
    share: float
    peak_mib: float | None

    @property
    def rate(self) -> float:
        """FLOP/s."""
        return self.flops / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with the rate."""
        return asdict(self) | {"rate": self.rate}


def count_flops(config: VidTwinConfig, batch: int = 1) -> dict[str, int]:
    """FLOPs of each step on `batch` clips, counted operator by operator on tensors without data."""
    with torch.device("meta"), Uninitialized():
        model = VidTwin(config).eval()
        clip = torch.empty(batch, *config.clip_shape)
        latents = Latents(*(torch.empty(batch, *shape) for shape in config.latent_shapes))
    with torch.no_grad():
        encode = _counted(lambda: _heads(model, model.encoder(clip)))
        decode = _counted(lambda: model.decoder(model.u_S(latents) + model.u_D(latents)))
    train = _counted(lambda: _backward(model.train(), clip, latents))
    both = encode + decode
    return {"encode": encode, "decode": decode, "reconstruct": both} | dict.fromkeys(TRAINING, train)


def _counted(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _heads(model: VidTwin, z: Tensor) -> list[Tensor]:
    return [model.structure_encoder(z), *model.dynamics_encoder(z)]


def _backward(model: VidTwin, clip: Tensor, latents: Latents) -> None:
    """Both halves forward and backward; what lies between them, which has no matrix product, is left out."""
    moments = _heads(model, model.encoder(clip))
    x_hat = model.decoder(model.u_S(latents) + model.u_D(latents))
    torch.autograd.backward([x_hat.sum(), *(moment.sum() for moment in moments if moment.numel())])


class Product:
    """A large matrix product, smaller than `PRODUCT_SIDE` where one takes over `PRODUCT_SECONDS`: the machine's limit."""

    def __init__(self, dtype: torch.dtype, device: torch.device):
        self._device = device
        side, largest = 256, PRODUCT_SIDE.get(device.type, PRODUCT_SIDE["cpu"])
        self._matrix = torch.rand(side, side, device=device).to(dtype)
        self.rate()
        while side < largest and 16 * side**3 / self.rate() < PRODUCT_SECONDS:
            side *= 2
            self._matrix = torch.rand(side, side, device=device).to(dtype)
            self.rate()

    def rate(self, seconds: float = 0.0) -> float:
        """FLOP/s of the median of as many products as take so many seconds; of one at least."""
        times: list[float] = []
        while not times or sum(times) < seconds:
            times.append(_seconds(lambda: self._matrix @ self._matrix, self._device))
        return 2 * len(self._matrix) ** 3 / statistics.median(times)


def measure(
    model: VidTwin,
    name: str,
    dtype: torch.dtype = torch.float32,
    batch: int = 1,
    repeats: int = 5,
    steps: tuple[str, ...] = INFERENCE,
    compile: bool = False,
) -> Iterator[Row]:
    """Rows of a model's steps on its device, on random clips; the model is copied where it would be changed.

    Training is a step of AdamW on L1 and KL; in a lower `dtype`, with weights in float32 and autocast. `repeats` are the most
    calls of a row; fewer where they take over `PATIENCE`. With `compile` the blocks are compiled.

    Raises:
        ValueError: a step that is none of `STEPS`; fewer than 1 repeat or clip.
    """
    if unknown := set(steps) - set(STEPS):
        raise ValueError(f"step {min(unknown)!r} is unknown; choose of {', '.join(STEPS)}")
    if repeats < 1:
        raise ValueError(f"{repeats} repeats: give at least 1")
    if batch < 1:
        raise ValueError(f"a batch of {batch} clips: give at least 1")
    config, device = model.config, model.device
    flops, product = count_flops(config, batch), Product(dtype, device)
    generator = torch.Generator().manual_seed(0)
    clip = (torch.rand(batch, *config.clip_shape, generator=generator) * 2 - 1).to(device)

    def row(step: str, call: Callable[[], object]) -> Row:
        return _row(call, product, device, repeats, name, step, dtype, batch, flops[step])

    if wanted := [step for step in INFERENCE if step in steps]:
        plain = model if model.dtype == dtype and not compile else copy.deepcopy(model).to(dtype)
        plain.eval()
        if compile:
            _compile(plain)
        with torch.inference_mode():
            x = clip.to(dtype)
            latents = plain.encode(x)
            calls: dict[str, Callable[[], object]] = {
                "encode": lambda: plain.encode(x),
                "decode": lambda: plain.decode(latents),
                "reconstruct": lambda: plain(x),
            }
            for step in wanted:
                yield row(step, calls[step])
    for step in TRAINING:
        if step in steps:
            yield row(step, _training_step(copy.deepcopy(model).float(), clip, dtype, step == TRAINING[1], compile))


@torch.inference_mode()
def automatic(model: VidTwin, video: str | Path) -> list[str]:
    """What dtype="auto" chooses for a model here: each half's precision, and what the check of the first clip of `video` found."""
    engine = Engine(model, encode_dtype="auto", dtype="auto")
    info = probe(video)
    first = next(iter(encode_stream(engine, info.path, plan_header(engine, info, engine.identity())).windows))
    list(engine.decode(first.latents))
    return [precisions(engine.plan.encode_dtype, engine.plan.dtype), *engine.notes]


def _compile(model: VidTwin) -> None:
    for transformer in (model.encoder.transformer, model.decoder.transformer):
        transformer.compile_blocks()


def _training_step(model: VidTwin, clip: Tensor, dtype: torch.dtype, checkpointing: bool, compile: bool) -> Callable[[], object]:
    model.train()
    for transformer in (model.encoder.transformer, model.decoder.transformer):
        transformer.checkpointing = checkpointing
    if compile:
        _compile(model)
    optimizer, weights = torch.optim.AdamW(model.parameters(), lr=1e-6), LossWeights()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(clip.device.type, dtype, enabled=dtype != torch.float32):
            x_hat, posterior = model(clip)
        autoencoder_loss(clip, x_hat.float(), posterior.to(clip.device, torch.float32), weights)["total"].backward()
        optimizer.step()

    step()  # the optimizer's state is not counted as memory of a step
    return step


def _row(
    call: Callable[[], object],
    product: Product,
    device: torch.device,
    repeats: int,
    name: str,
    step: str,
    dtype: torch.dtype,
    batch: int,
    flops: int,
) -> Row:
    begun, peak = time.perf_counter(), _peak_mib(call, device)
    between = (time.perf_counter() - begun) / 5  # seconds of products after each call: enough to tell how fast the machine is then
    times: list[float] = []
    limits, begun = [product.rate(between)], time.perf_counter()
    while len(times) < repeats and (not times or time.perf_counter() - begun < PATIENCE):
        times.append(_seconds(call, device))
        limits.append(product.rate(between))
    shares = [flops / t / statistics.mean(pair) for t, pair in zip(times, itertools.pairwise(limits), strict=True)]
    return Row(
        model=name,
        step=step,
        dtype=str(dtype).removeprefix("torch."),
        batch=batch,
        flops=flops,
        seconds=statistics.median(times),
        calls=len(times),
        limit=statistics.median(limits),
        share=statistics.median(shares),
        peak_mib=peak,
    )


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def _peak_mib(call: Callable[[], object], device: torch.device) -> float | None:
    """What a call takes at most, in MiB, above what is there before: of the GPU, or resident, as Linux counts it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with contextlib.suppress(OSError, KeyError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls left is not there any more
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before = resident_kib("VmRSS")
        call()
        return (resident_kib("VmHWM") - before) / 2**10
    return None


def resident_kib(entry: str = "VmHWM") -> int:
    """KiB of this process: VmRSS now, VmHWM at most. Raises OSError or KeyError where there is no /proc."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[entry].split()[0])


def table(rows: list[Row]) -> str:
    """The rows as aligned text."""
    head = ("model", "step", "dtype", "batch", "GFLOP", "s", "GFLOP/s", "limit", "share", "MiB")
    cells = [
        (
            row.model,
            row.step,
            row.dtype,
            str(row.batch),
            f"{row.flops / 1e9:.1f}",
            f"{row.seconds:.3f}",
            f"{row.rate / 1e9:.1f}",
            f"{row.limit / 1e9:.1f}",
            f"{row.share:.1%}",
            "-" if row.peak_mib is None else f"{row.peak_mib:.0f}",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *cells))
    return "\n".join(line.rstrip() for line in lines)
