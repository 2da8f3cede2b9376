"""How near to its machine's limit a model runs: counted FLOPs, seconds, and the share of the rate of a large matrix product.

rows = [*measure(VidTwin(preset("tiny")), "tiny", torch.float32, batch=1)]
print(table(rows))
print(split(Engine(model), "in.mp4").table())
"""

import contextlib
import copy
import ctypes
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vidtwin.inference.decode import Decoder, Output
from vidtwin.inference.encode import encode_windows, plan_header, source_windows
from vidtwin.inference.engine import Engine
from vidtwin.inference.latent_stream import Identity
from vidtwin.inference.reconstruct import Tally, reconstruct
from vidtwin.model.config import VidTwinConfig
from vidtwin.model.latents import Latents
from vidtwin.model.vidtwin import VidTwin
from vidtwin.video.read import probe

PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices whose product is the machine's limit
PRODUCT_SECONDS = 0.2  # that one of them may take: bfloat16 is emulated on some CPUs
STEPS = ("encode", "decode", "reconstruct")


@dataclass(frozen=True)
class Row:
    """One step, measured.

    `flops` are counted (2 for a multiplication and an addition), `seconds` the median of a call, both of a whole batch. `share` is
    of `limit`, the FLOP/s of a large matrix product in the same dtype, measured before and after the calls. `peak_mib`: what
    the step takes besides the weights and its input; None where it cannot be measured.
    """

    model: str
    step: str
    dtype: str
    batch: int
    flops: int
    seconds: float
    limit: float
    peak_mib: float | None

    @property
    def rate(self) -> float:
        """FLOP/s."""
        return self.flops / self.seconds

    @property
    def share(self) -> float:
        """Of the machine's limit; 1 is all."""
        return self.rate / self.limit

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with rate and share."""
        return asdict(self) | {"rate": self.rate, "share": self.share}


def count_flops(config: VidTwinConfig, batch: int = 1) -> dict[str, int]:
    """FLOPs of encoding and decoding `batch` clips, counted operator by operator on tensors without data."""
    with torch.device("meta"):
        model = VidTwin(config).eval()
        clip = torch.empty(batch, *config.clip_shape)
        latents = Latents(*(torch.empty(batch, *shape) for shape in config.latent_shapes))
    calls = {
        "encode": lambda: _heads(model, model.encoder(clip)),
        "decode": lambda: model.decoder(model.u_S(latents) + model.u_D(latents)),
    }
    counted = {}
    for step, call in calls.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call()
        counted[step] = counter.get_total_flops()
    return counted | {"reconstruct": sum(counted.values())}


def _heads(model: VidTwin, z: Tensor) -> None:
    model.structure_encoder(z)
    model.dynamics_encoder(z)


def product_rate(dtype: torch.dtype, device: torch.device, repeats: int = 5) -> float:
    """FLOP/s of a large matrix product: the median of some. Smaller than `PRODUCT_SIDE` where one takes over PRODUCT_SECONDS."""
    side, largest = 256, PRODUCT_SIDE.get(device.type, PRODUCT_SIDE["cpu"])
    a = torch.rand(side, side, device=device).to(dtype)
    while side < largest and 8 * min(_timed(lambda: a @ a, device, 1)) < PRODUCT_SECONDS:  # noqa: B023
        side *= 2
        a = torch.rand(side, side, device=device).to(dtype)
    return 2 * side**3 / statistics.median(_timed(lambda: a @ a, device, repeats))


def measure(
    model: VidTwin,
    name: str,
    dtype: torch.dtype = torch.float32,
    batch: int = 1,
    repeats: int = 5,
    steps: tuple[str, ...] = STEPS,
) -> Iterator[Row]:
    """Rows of a model's steps on its device, on random clips; the model is copied if its dtype is another.

    Raises:
        ValueError: a step that is none of `STEPS`; fewer than 1 repeat or clip.
    """
    if unknown := set(steps) - set(STEPS):
        raise ValueError(f"step {min(unknown)!r} is unknown; choose of {', '.join(STEPS)}")
    if repeats < 1:
        raise ValueError(f"{repeats} repeats: give at least 1")
    if batch < 1:
        raise ValueError(f"a batch of {batch} clips: give at least 1")
    config, device = model.config, next(model.parameters()).device
    model = (model if next(model.parameters()).dtype == dtype else copy.deepcopy(model).to(dtype)).eval()
    flops = count_flops(config, batch)
    generator = torch.Generator().manual_seed(0)
    clip = (torch.rand(batch, *config.clip_shape, generator=generator) * 2 - 1).to(device, dtype)
    with torch.inference_mode():
        latents = model.encode(clip)
        calls: dict[str, Callable[[], Any]] = {
            "encode": lambda: model.encode(clip),
            "decode": lambda: model.decode(latents),
            "reconstruct": lambda: model(clip),
        }
        for step in steps:
            yield _row(calls[step], device, repeats, name, step, dtype, batch, flops[step])


def _row(
    call: Callable[[], Any], device: torch.device, repeats: int, name: str, step: str, dtype: torch.dtype, batch: int, flops: int
) -> Row:
    before = product_rate(dtype, device)
    peak = _peak_mib(call, device)
    seconds = statistics.median(_timed(call, device, repeats))
    limit = statistics.median([before, product_rate(dtype, device)])
    return Row(name, step, str(dtype).removeprefix("torch."), batch, flops, seconds, limit, peak)


def _timed(call: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each call, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return times[1:]


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
    head = ("model", "step", "dtype", "batch", "GFLOP", "s", "GFLOP/s", "of limit", "MiB")
    cells = [
        (
            row.model,
            row.step,
            row.dtype,
            str(row.batch),
            f"{row.flops / 1e9:.1f}",
            f"{row.seconds:.3f}",
            f"{row.rate / 1e9:.1f}",
            f"{row.share:.1%}",
            "-" if row.peak_mib is None else f"{row.peak_mib:.0f}",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *cells))
    return "\n".join(line.rstrip() for line in lines)


@dataclass(frozen=True)
class Split:
    """Where the time of `reconstruct` goes: seconds of each stage, one after the other, and of all of them side by side."""

    frames: int
    stages: dict[str, float]
    whole: float

    @property
    def overhead(self) -> float:
        """Of the whole over its slowest stage: 0.15 is 15 % more."""
        return self.whole / max(self.stages.values()) - 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with the overhead."""
        return asdict(self) | {"overhead": self.overhead}

    def table(self) -> str:
        """As aligned lines."""
        lines = [
            f"{stage:10}{seconds:8.2f} s{self.frames / seconds:9.1f} frames per second" for stage, seconds in self.stages.items()
        ]
        lines.append(f"{'together':10}{self.whole:8.2f} s{self.frames / self.whole:9.1f} frames per second")
        return "\n".join(
            [*lines, f"{self.overhead:.0%} over the slowest stage, {self.whole / sum(self.stages.values()):.0%} of their sum"]
        )


def split(engine: Engine, path: str | Path, stop: int | None = None) -> Split:
    """Reconstruct frames 0..stop-1 (default: all) of a video twice, into a temporary folder: stage by stage, and as it is done.

    Stages: "read" (decoding, resizing), "encode", "decode" (the model), "score" (PSNR, SSIM), "write" (compressing). Their own
    threads go on while others are timed, so that they may be a little longer than they seem.

    Raises:
        OSError, ValueError: as `reconstruct`.
    """
    info, identity = probe(path), Identity.of(engine.model)
    header = plan_header(engine, info, identity)
    seconds = dict.fromkeys(("read", "encode", "decode", "score", "write"), 0.0)

    @contextlib.contextmanager
    def timed(stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        seconds[stage] += time.perf_counter() - begun

    tally, output = Tally(), Output()
    with tempfile.TemporaryDirectory() as folder:
        writer = output.writer(Path(folder, "stages.mp4"), header, header.geometry.output_size, from_start=True)
        with writer:
            windows, decoder = source_windows(path, header, stop), Decoder(engine, header)
            while True:
                with timed("read"):
                    source = next(windows, None)
                if source is None:
                    break
                with timed("encode"):
                    (window,) = encode_windows(engine, header, [source], keep_pixels=True)
                with timed("decode"):
                    (decoded,) = decoder([window])
                with timed("score"):
                    tally.add(window, decoded, header.geometry)
                with timed("write"):
                    writer.write(decoded.frames, decoded.ticks)
            begun = time.perf_counter()
        seconds["write"] += time.perf_counter() - begun
        report = reconstruct(engine, path, Path(folder, "whole.mp4"), stop=stop, weights=identity)
    return Split(tally.frames, seconds, report.seconds)
