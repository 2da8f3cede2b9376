"""Where the time of `reconstruct` goes: stage by stage, and all of them side by side."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vidtwin.inference.decode import Output, decode_windows, write_decoded
from vidtwin.inference.encode import encode_windows, plan_header, source_windows
from vidtwin.inference.engine import Engine
from vidtwin.inference.reconstruct import reconstruct
from vidtwin.inference.report import Tally
from vidtwin.latents.stream import LatentStream, grouped
from vidtwin.threads import cores
from vidtwin.video.read.reader import probe


@dataclass(frozen=True)
class Time:
    """What a stage took: seconds by the clock, and of the processors in all threads."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Split:
    """Where the time of `reconstruct` goes: each stage alone, one after the other, and all of them side by side on `cores`."""

    frames: int
    cores: int
    stages: dict[str, Time]
    whole: Time

    @property
    def overhead(self) -> float:
        """Of the whole over its slowest stage: 0.15 is 15 % more."""
        return self.whole.wall / max(stage.wall for stage in self.stages.values()) - 1

    @property
    def busy(self) -> float:
        """Share of the cores' time that was used; 1 is all. What is missing was waited for."""
        return self.whole.cpu / self.whole.wall / self.cores

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with `overhead` and `busy`."""
        return asdict(self) | {"overhead": self.overhead, "busy": self.busy}

    def table(self) -> str:
        """As aligned lines."""
        rows = {**self.stages, "together": self.whole}
        lines = [
            f"{name:10}{time.wall:8.2f} s{time.cpu:8.2f} s of processors{self.frames / time.wall:9.1f} frames per second"
            for name, time in rows.items()
        ]
        ends = f"{self.overhead:.0%} over the slowest stage; {self.cores} processors {self.busy:.0%} busy"
        return "\n".join([*lines, ends])


def split(engine: Engine, path: str | Path, stop: int = 500) -> Split:
    """Reconstruct frames 0..stop-1 of a video twice, into a temporary folder: stage by stage, and as it is done.

    Stages: "read" (decoding, resizing), "encode", "decode" (the model), "score" (PSNR, SSIM), "write" (compressing). All frames go
    through a stage before the next begins, and stay in memory: 2 MiB each for a model of 224x224.

    Raises:
        OSError, ValueError: as `reconstruct`.
    """
    identity = engine.identity()
    header, output, tally = plan_header(engine, probe(path), identity), Output(), Tally()
    stages: dict[str, Time] = {}

    @contextlib.contextmanager
    def timed(stage: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        stages[stage] = Time(time.perf_counter() - wall, time.process_time() - cpu)

    with tempfile.TemporaryDirectory() as folder:
        with timed("read"):
            sources = list(source_windows(path, header, stop))
        groups = list(grouped(sources, engine.windows_at_once(header.tiles)))
        with timed("encode"):
            windows = [window for group in groups for window in encode_windows(engine, header, group, keep_pixels=True)]
        with timed("decode"):
            decoded = list(decode_windows(engine, LatentStream(header, iter(windows))))
        with timed("score"):
            for window, frames in zip(windows, decoded, strict=True):
                tally.add(window, frames, header.geometry)
        with timed("write"):
            with output.writer(Path(folder, "stages.mp4"), header, header.geometry.output_size, from_start=True) as writer:
                for frames in decoded:
                    write_decoded(writer, frames)
        del sources, groups, windows, decoded
        with timed("together"):
            reconstruct(engine, path, Path(folder, "whole.mp4"), stop=stop, weights=identity)
    whole = stages.pop("together")
    return Split(tally.frames, cores(), stages, whole)
