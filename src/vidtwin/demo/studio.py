"""What the page does with a visitor's videos: the same functions as the command line, on clips short enough to wait for.

Letters: n frames of a video, h x w the model's picture.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidtwin.frames.clips import Geometry, content, from_clip
from vidtwin.frames.panels import LABEL_HEIGHT, side_by_side
from vidtwin.generation.pipeline import VidTwinPipeline
from vidtwin.inference.decode import Decoder
from vidtwin.inference.encode import encode_stream, plan_header
from vidtwin.inference.engine import Engine
from vidtwin.latents.file import LatentWriter
from vidtwin.latents.stream import Header, Identity, Window, grouped
from vidtwin.metrics import frame_psnr
from vidtwin.model.latents import Latents
from vidtwin.model.vidtwin import Part
from vidtwin.threads import Behind
from vidtwin.video.read.reader import VideoInfo, frame_count, probe
from vidtwin.video.write.encoding import Encoding
from vidtwin.video.write.writer import VideoWriter

Progress = Callable[[float, str], object]  # share that is done, and what of
FAST = Encoding(fast=True)
DECODES: dict[str, Part | None] = {"reconstruction": None, "structure only": "structure", "dynamics only": "dynamics"}


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for: megabytes (10^6 bytes) of a file, seconds of a video, pixels of its longer side."""

    megabytes: int = 100
    seconds: float = 20.0
    side: int = 4096

    def check(self, path: Path) -> tuple[VideoInfo, int]:
        """What a file says of itself, and its frames. Raises ValueError beyond a limit, and as `probe` for what is no video."""
        size = path.stat().st_size / 1e6
        if size > self.megabytes:
            raise ValueError(
                f"the file has {size:.0f} MB, the limit here is {self.megabytes}; make it smaller, or use the command line"
            )
        info = probe(path)
        if max(info.width, info.height) > self.side:
            raise ValueError(
                f"the video is {info.width}x{info.height}, the limit here is {self.side} pixels a side; make it smaller, or use "
                "the command line"
            )
        count = info.frames or frame_count(path)
        seconds = max(info.duration or 0.0, float(count / info.fps) if info.fps else 0.0)
        if seconds > self.seconds:
            raise ValueError(
                f"the video is {seconds:.0f} seconds long, the limit here is {self.seconds:g}; cut it, or use the command line"
            )
        return info, count


@dataclass(frozen=True, eq=False)
class Clip:
    """A visitor's video, encoded: the header, its windows with their pixels, and what encoding took."""

    name: str
    header: Header
    windows: tuple[Window, ...]
    bytes: int
    seconds: float

    @property
    def frames(self) -> int:
        return sum(len(window.ticks) for window in self.windows)

    @property
    def fps(self) -> Fraction:
        return self.header.fps

    @property
    def geometry(self) -> Geometry:
        assert isinstance(self.header.geometry, Geometry)
        return self.header.geometry


def _pixels(window: Window) -> Tensor:
    assert isinstance(window.pixels, Tensor)
    return window.pixels


@dataclass(frozen=True, eq=False)
class Shown:
    """What the page shows of a video: facts by name, and PSNR in dB of each frame."""

    facts: dict[str, str]
    psnr: tuple[float, ...]


class Studio:
    """The model, and a generator if there is one, at the service of one visitor at a time."""

    def __init__(self, engine: Engine, identity: Identity, limits: Limits | None = None, generator: VidTwinPipeline | None = None):
        self.engine, self.identity, self.limits, self.generator = engine, identity, limits or Limits(), generator

    def encode(self, path: Path, name: str, progress: Progress) -> Clip:
        """Raises OSError or ValueError, one line for people, for what is no video, or beyond the limits."""
        begun, (info, count) = time.perf_counter(), self.limits.check(path)
        header = plan_header(self.engine, info, self.identity)
        windows: list[Window] = []
        total = count / header.config.frames
        for window in encode_stream(self.engine, path, header, keep_pixels=True).windows:
            windows.append(window)
            progress(min(1.0, len(windows) / max(1.0, total)), "encoding")
        return Clip(name, header, tuple(windows), path.stat().st_size, time.perf_counter() - begun)

    def decode(self, clip: Clip, windows: Sequence[Window], only: Part | None = None) -> Iterator[Tensor]:
        """Windows with the header of `clip`, each (3, n, h, w) in [-1, 1]."""
        decoder = Decoder(self.engine, clip.header, only)
        for group in grouped(iter(windows), self.engine.windows_at_once(1)):
            for decoded in decoder(group):
                assert decoded.clip is not None
                yield decoded.clip

    def rebuild(self, clip: Clip, video: Path, latents: Path, progress: Progress) -> Shown:
        """Write original, reconstruction, Structure alone and Dynamics alone as one video, and the latents; and measure."""
        begun, geometry, psnr = time.perf_counter(), clip.geometry, list[Tensor]()
        decodes = {name: self.decode(clip, clip.windows, only) for name, only in DECODES.items()}
        with grid_writer(video, clip.fps, [geometry] * 4) as write:
            for number, window in enumerate(clip.windows):
                panels = {"original": _pixels(window)} | {name: next(clips) for name, clips in decodes.items()}
                write(panels)
                rebuilt, original = (content(panels[name], geometry) for name in ("reconstruction", "original"))
                psnr.append(frame_psnr(rebuilt, original))
                progress((number + 1) / len(clip.windows), "decoding")
        with LatentWriter(latents, clip.header) as file:
            for window in clip.windows:
                file.write(window)
        seconds = time.perf_counter() - begun
        values = len(clip.windows) * sum(map(prod, clip.header.shapes))
        (H, W), (h, w) = geometry.source, geometry.output_size
        facts = {
            "video": f"{clip.frames} frames at {float(clip.fps):.4g} a second, {W}x{H}, shown as {w}x{h}",
            "PSNR": f"{torch.cat(psnr).mean():.2f} dB, the mean over frames",
            "rate": f"{clip.header.config.compression_rate:.2%} of the values: {values:,} for {len(clip.windows)} windows",
            "size": f"{latents.stat().st_size / 1e3:,.0f} kB of latents, {clip.bytes / 1e3:,.0f} kB of video file",
            "time": f"{clip.seconds:.1f} s to read and encode, {seconds:.1f} s to decode three ways and to write",
        }
        return Shown(facts, tuple(torch.cat(psnr).tolist()))

    def swap(self, a: Clip, b: Clip, video: Path, progress: Progress) -> None:
        """Write both videos and both swaps as one video, as long as the shorter of the two."""
        left, pairs = min(a.frames, b.frames), list(zip(a.windows, b.windows, strict=False))
        swaps = self.decode(a, mixed(a, b, 0.0, 1.0)), self.decode(b, mixed(b, a, 0.0, 1.0))
        with grid_writer(video, a.fps, [a.geometry, b.geometry] * 2) as write:
            for number, (first, second) in enumerate(pairs):
                panels = {"A": _pixels(first), "B": _pixels(second)}
                panels |= {"Structure of A, Dynamics of B": next(swaps[0]), "Structure of B, Dynamics of A": next(swaps[1])}
                count = min(left, *(clip.shape[1] for clip in panels.values()))
                write({name: clip[:, :count] for name, clip in panels.items()})
                left -= count
                progress((number + 1) / len(pairs), "swapping")

    def between(self, a: Clip, b: Clip, structure: float, dynamics: float, video: Path, progress: Progress) -> None:
        """Write the decode of latents on the way from A (0) to B (1), a way for each of the two."""
        windows, clips = mixed(a, b, structure, dynamics), []
        for clip in self.decode(a, windows):
            clips.append(clip)
            progress(len(clips) / len(windows), "decoding")
        write_video(video, from_clip(torch.cat(clips, dim=1)[:, : min(a.frames, b.frames)], a.geometry), a.fps)

    def generate(self, label: str | None, seed: int, guidance: float, steps: int, video: Path, progress: Progress) -> None:
        """Write a sample of the generator's."""
        assert self.generator is not None
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            progress(done / steps, "sampling")

        made = self.generator(
            label,
            generator=torch.Generator().manual_seed(seed),
            guidance_scale=guidance,
            num_inference_steps=steps,
            progress=count,
        )
        write_video(video, made.videos[0].numpy(), Fraction(self.generator.fps).limit_denominator(1001))


def mixed(a: Clip, b: Clip, structure: float, dynamics: float) -> list[Window]:
    """Windows of A whose latents are moved towards B's, as many as both have."""
    found = []
    pairs = list(zip(a.windows, b.windows, strict=False))
    for number, (first, second) in enumerate(pairs):
        x, s = first.latents.lerp(second.latents, dynamics), first.latents.lerp(second.latents, structure)
        window = Window(
            first.index, Latents(s.structure, x.dynamics_x, x.dynamics_y), None, first.ticks, first.cuts, number + 1 == len(pairs)
        )
        found.append(window)
    return found


@contextmanager
def grid_writer(path: Path, fps: Fraction, geometries: Sequence[Geometry]) -> Iterator[Callable[[dict[str, Tensor]], None]]:
    """A function that writes clips by name, (3, n, h, w) in [-1, 1], two beside each other, in rows, under their names.

    Each becomes a picture by its geometry, and all pictures have one size; made and compressed beside the model's work.
    """
    height, width = geometries[0].output_size
    size = (ceil(len(geometries) / 2) * (height + LABEL_HEIGHT), 2 * width)

    def write(writer: VideoWriter, clips: dict[str, Tensor]) -> None:
        panels = [(name, from_clip(clip, geometry)) for (name, clip), geometry in zip(clips.items(), geometries, strict=True)]
        writer.write(np.concatenate([side_by_side(dict(panels[i : i + 2])) for i in range(0, len(panels), 2)], axis=1))

    with VideoWriter(path, fps, size, FAST) as writer, Behind() as later:
        yield lambda clips: later(write, writer, clips)


def write_video(path: Path, frames: np.ndarray, fps: Fraction) -> None:
    """H.264, which browsers play."""
    with VideoWriter(path, fps, (frames.shape[1], frames.shape[2]), FAST) as writer:
        writer.write(frames)
