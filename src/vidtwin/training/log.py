"""What a run writes about itself: log.jsonl, TensorBoard, Weights & Biases (if installed and asked for), reconstruction videos."""

import io
import json
import math
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vidtwin.checked import build, parse_json
from vidtwin.files import atomic_output, check_regular, in_line
from vidtwin.video.write.writer import VideoWriter

MOST_LOG = 2**28  # bytes
LOG, VIDEOS, TENSORBOARD = "log.jsonl", "videos", "tensorboard"


class Means:
    """Means of named values over the steps since they were last taken."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] += value
            self.counts[name] += 1

    def take(self) -> dict[str, float]:
        """The means; counting starts anew."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.__init__()  # type: ignore[misc]
        return means


class Clock:
    """Wall time of named stretches of the loop, and of all of it."""

    def __init__(self) -> None:
        self.since, self.steps = time.perf_counter(), 0
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - begin

    def take(self, clips: int) -> dict[str, float]:
        """Steps of `clips` clips since last time: clips per second, and each stretch's share of the time."""
        elapsed = time.perf_counter() - self.since
        shares = {f"{name}_share": seconds / elapsed for name, seconds in self.seconds.items()}
        rate = {"clips_per_second": self.steps * clips / elapsed}
        self.__init__()  # type: ignore[misc]
        return rate | shares


@dataclass(frozen=True)
class _Record:
    """What every record has."""

    step: int


class RunLog:
    """The log of a run in folder `out`, going on after `step` steps: later lines of an earlier process are dropped.

    Every line of log.jsonl is one JSON object with `step`. TensorBoard's files are written if the package tensorboard is
    installed, Weights & Biases if `wandb` names a project.

    Raises:
        ValueError: `wandb` is given and the package is missing; a log.jsonl with lines that are no records of a run.
    """

    def __init__(self, out: Path, step: int, recipe: Mapping[str, Any], wandb: str | None = None):
        self.out = out
        if (out / LOG).exists():
            kept = "".join(line + "\n" for line, of in _lines(out / LOG) if of <= step)
            with atomic_output(out / LOG) as partial:
                partial.write_text(kept)
        self.file = (out / LOG).open("a")
        self.writer: Any = None
        try:
            from torch.utils.tensorboard.writer import SummaryWriter

            self.writer = SummaryWriter(str(out / TENSORBOARD), purge_step=step + 1)
        except ImportError:
            pass
        self.run: Any = None
        if wandb is not None:
            try:
                import wandb as package
            except ImportError:
                raise ValueError(f"wandb={wandb!r}: the package is not installed; pip install wandb, or leave it out") from None
            self.run = package.init(
                project=wandb,
                name=out.name,
                dir=out,
                id=f"{out.name}-{zlib.crc32(str(out.resolve()).encode()):08x}",
                resume="allow",
            )
            self.run.config.update(dict(recipe), allow_val_change=True)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One record; non-finite values are written as null."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.file.write(json.dumps({"step": step} | finite) + "\n")
        self.file.flush()
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)
        if self.run is not None:
            self.run.log(finite, step=step)

    def video(self, step: int, frames: np.ndarray, fps: int = 8) -> None:
        """Frames uint8 (F, H, W, 3): videos/step-N.mp4, and an animation in TensorBoard and Weights & Biases."""
        (self.out / VIDEOS).mkdir(exist_ok=True)
        path = self.out / VIDEOS / f"step-{step:08}.mp4"
        with VideoWriter(path, Fraction(fps), (frames.shape[1], frames.shape[2])) as writer:
            writer.write(frames)
        if self.writer is not None:
            from tensorboard.compat.proto.summary_pb2 import Summary

            image = Summary.Image(height=frames.shape[1], width=frames.shape[2], colorspace=3)
            image.encoded_image_string = _gif(frames, fps)
            summary = Summary(value=[Summary.Value(tag="reconstruction", image=image)])
            self.writer._get_file_writer().add_summary(summary, step)
        if self.run is not None:
            import wandb as package

            self.run.log({"reconstruction": package.Video(str(path))}, step=step)

    def close(self) -> None:
        self.file.close()
        if self.writer is not None:
            self.writer.close()
        if self.run is not None:
            self.run.finish()


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    """The records of a log.jsonl as they are written, and their steps; what a kill cut short is left out.

    Raises:
        OSError: a pipe or a device. ValueError: a line that is no record of a run, or more than MOST_LOG bytes.
    """
    check_regular(path, MOST_LOG)
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.endswith(b"}"):
            continue
        try:
            yield line.decode(), build(_Record, parse_json(line), more=True).step
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is not a record of a run ({in_line(error, 200)}); delete the line") from None


def _gif(frames: np.ndarray, fps: int) -> bytes:
    images = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
    return buffer.getvalue()
