"""What the page does with a visitor's videos: the same functions as the command line, on clips short enough to wait for.

Letters: n frames of a video, h x w the model's picture.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import ceil, prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidtwin.demo.folder import new_file
from vidtwin.frames.clips import Geometry, content, from_clip
from vidtwin.frames.panels import LABEL_HEIGHT, side_by_side
from vidtwin.generation.pipeline import VidTwinPipeline
from vidtwin.inference import edit
from vidtwin.inference.decode import Decoded, Decoder
from vidtwin.inference.encode import encode_stream, plan_header, source_windows
from vidtwin.inference.engine import Engine
from vidtwin.latents.file import LatentVideo, LatentWriter
from vidtwin.latents.stream import Header, Identity, Window, grouped
from vidtwin.metrics import frame_psnr
from vidtwin.model.cards import Quality
from vidtwin.model.latents import Latents
from vidtwin.model.vidtwin import Part
from vidtwin.threads import Behind
from vidtwin.video.read.reader import VideoInfo, frame_count, probe
from vidtwin.video.write.encoding import Encoding
from vidtwin.video.write.writer import VideoWriter

Progress = Callable[[float, str], object]  # share that is done, and what of
FAST = Encoding(fast=True)
RATE, PIXELS, FILES = 60, 2**33, 20  # limits: frames a second, pixels of a video, files as large as one may be in all
DECODES: dict[str, Part | None] = {"reconstruction": None, "structure only": "structure", "dynamics only": "dynamics"}


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for: megabytes (10^6 bytes) of a file, seconds of a video, pixels of its longer side.

    And what follows: frames, as 60 a second are; pixels of all frames together.
    """

    megabytes: int = 100
    seconds: float = 20.0
    side: int = 4096

    @property
    def frames(self) -> int:
        return ceil(RATE * self.seconds)

    @property
    def total(self) -> float:
        """Bytes of all visitors' files together."""
        return FILES * self.megabytes * 1e6

    def check(self, path: Path) -> tuple[VideoInfo, int]:
        """What a file says of itself, and its frames. Raises ValueError beyond a limit, and as `probe` for what is no video."""
        size = path.stat().st_size / 1e6
        if size > self.megabytes:
            raise ValueError(
                f"the file has {size:.0f} MB, the limit here is {self.megabytes}; make it smaller, or use the command line"
            )
        info = probe(path)
        if max(info.width, info.height, *info.stored_size) > self.side:
            raise ValueError(
                f"the video is {info.width}x{info.height}, the limit here is {self.side} pixels a side; make it smaller, or use "
                "the command line"
            )
        self._check_seconds(info.duration or 0.0)
        count = info.frames or frame_count(path)
        self._check_seconds(float(count / info.fps) if info.fps else 0.0)
        self.check_frames(count, info)
        return info, count

    def _check_seconds(self, seconds: float) -> None:
        if seconds > self.seconds:
            raise ValueError(
                f"the video is {seconds:.0f} seconds long, the limit here is {self.seconds:g}; cut it, or use the command line"
            )

    def check_frames(self, count: int, info: VideoInfo) -> None:
        """Raise ValueError for more frames, or pixels of all of them, than the limits; also for frames that no header told of."""
        most = min(self.frames, PIXELS // max(info.width * info.height, prod(info.stored_size)))
        if count > most:
            raise ValueError(
                f"the video has {count} frames or more, the limit here is {most} of {info.width}x{info.height}; cut it, make it "
                "smaller or its frame rate lower, or use the command line"
            )


@dataclass(frozen=True)
class Clip:
    """A visitor's video, encoded: names of its files, the one that was given and its latents. The pixels are in the former."""

    name: str
    path: Path
    latents: Path
    frames: int

    @cached_property
    def _read(self) -> LatentVideo:
        return LatentVideo.load(self.latents)

    @property
    def header(self) -> Header:
        return self._read.header

    @property
    def windows(self) -> list[Window]:
        """All of them, read now: a few numbers for each frame."""
        return [self._read.window(index) for index in range(self._read.window_count)]

    @property
    def fps(self) -> Fraction:
        return self.header.fps

    @property
    def geometry(self) -> Geometry:
        return geometry_of(self.header)

    def pixels(self) -> Iterator[Tensor]:
        """Of each window, (3, n, h, w) in [-1, 1], read again."""
        return (window.pixels for window in source_windows(self.path, self.header))


def geometry_of(header: Header) -> Geometry:
    assert isinstance(header.geometry, Geometry)
    return header.geometry


@dataclass(frozen=True, eq=False)
class Shown:
    """What the page shows of a video: facts by name, and PSNR in dB of each frame."""

    clip: Clip
    facts: dict[str, str]
    psnr: tuple[float, ...]


@dataclass(frozen=True)
class Facts:
    """What the page must know of a studio.

    Attributes:
        width, height: of the model's picture. weights, quality: which they are, and what their card says of them. classes: of the
            generator, if there is one.
    """

    width: int
    height: int
    weights: Identity
    quality: Quality
    classes: tuple[str, ...] | None


class Studio:
    """The model, and a generator if there is one, at the service of one visitor at a time."""

    def __init__(
        self,
        engine: Engine,
        identity: Identity,
        limits: Limits | None = None,
        generator: VidTwinPipeline | None = None,
        quality: Quality | None = None,
    ):
        self.engine, self.identity, self.limits, self.generator = engine, identity, limits or Limits(), generator
        self.quality = quality or Quality()

    def facts(self) -> Facts:
        config, classes = self.engine.config, None if self.generator is None else tuple(self.generator.classes)
        return Facts(config.width, config.height, self.identity, self.quality, classes)

    def encode(self, path: Path, name: str, progress: Progress) -> Clip:
        """Write the latents of a video.

        Raises OSError or ValueError, one line for people, for what is no video, or beyond the limits.
        """
        latents, (info, count) = new_file("latents.vidtwin"), self.limits.check(path)
        header = plan_header(self.engine, info, self.identity)
        for window in self._encoded(info, count, header, latents):
            progress(min(1.0, (window.index + 1) / header.windows(count)), "encoding")
        return Clip(name, path, latents, LatentVideo.load(latents).frames)

    def _encoded(self, info: VideoInfo, count: int, header: Header, latents: Path) -> Iterator[Window]:
        """Windows with their pixels, as they are written to a file of latents."""
        frames = 0
        with LatentWriter(latents, header) as file:
            for window in encode_stream(self.engine, info.path, header, keep_pixels=True).windows:
                frames += len(window.ticks)
                self.limits.check_frames(frames, info)  # whatever the file says of itself
                file.write(window)
                yield window

    def decode(self, clip: Clip, windows: Iterable[Window], only: Part | None = None) -> Iterator[Tensor]:
        """Windows with the header of `clip`, each (3, n, h, w) in [-1, 1]."""
        decoder = Decoder(self.engine, clip.header, only)
        for group in grouped(iter(windows), self.engine.windows_at_once(1)):
            for decoded in decoder(group):
                yield _clip(decoded)

    def rebuild(self, path: Path, name: str, video: Path, latents: Path, progress: Progress) -> Shown:
        """Write original, reconstruction, Structure alone and Dynamics alone as one video, and the latents; and measure.

        Raises as `encode`.
        """
        begun, (info, count) = time.perf_counter(), self.limits.check(path)
        header, psnr, frames = plan_header(self.engine, info, self.identity), list[Tensor](), 0
        geometry, decoders = geometry_of(header), {name: Decoder(self.engine, header, only) for name, only in DECODES.items()}
        windows = grouped(self._encoded(info, count, header, latents), self.engine.windows_at_once(1))
        with warnings.catch_warnings(record=True) as noted, grid_writer(video, header.fps, [geometry] * 4) as write:
            warnings.simplefilter("always")
            for group in windows:
                decodes = [decoder(group) for decoder in decoders.values()]
                for window, *decoded in zip(group, *decodes, strict=True):
                    clips = [_clip(one) for one in decoded]
                    write({"original": _pixels(window)} | dict(zip(DECODES, clips, strict=True)))
                    psnr.append(frame_psnr(content(clips[0], geometry), content(_pixels(window), geometry)))
                    frames += len(window.ticks)
                    progress(min(1.0, frames / count), "encoding and decoding")
        number, (H, W), (h, w) = len(psnr), geometry.source, geometry.output_size
        facts = {
            "weights": str(self.identity),
            "video": f"{frames} frames at {float(header.fps):.4g} a second, {W}x{H}, shown as {w}x{h}",
            "PSNR": f"{torch.cat(psnr).mean():.2f} dB, the mean over frames",
            "rate": f"{header.config.compression_rate:.2%} of the values: {number * sum(map(prod, header.shapes)):,} for "
            f"{number} window{'s' * (number != 1)}",
            "size": f"{latents.stat().st_size / 1e3:,.0f} kB of latents, {path.stat().st_size / 1e3:,.0f} kB of video file",
            "time": f"{time.perf_counter() - begun:.1f} s to decode three ways, reading, encoding and writing included",
        }
        if noted:
            facts["note"] = "; ".join(str(note.message).removeprefix(f"{path}: ") for note in noted)
        return Shown(Clip(name, path, latents, frames), facts, tuple(torch.cat(psnr).tolist()))

    def swap(self, a: Clip, b: Clip, video: Path, progress: Progress) -> None:
        """Write both videos and both swaps as one video, as long as the shorter of the two."""
        left, pairs = min(a.frames, b.frames), list(zip(a.windows, b.windows, strict=False))
        swaps = self.decode(a, mixed(a, b, 0.0, 1.0)), self.decode(b, mixed(b, a, 0.0, 1.0))
        originals = a.pixels(), b.pixels()
        with grid_writer(video, a.fps, [a.geometry, b.geometry] * 2) as write:
            for number in range(len(pairs)):
                panels = {"A": next(originals[0]), "B": next(originals[1])}
                panels |= {"Structure of A, Dynamics of B": next(swaps[0]), "Structure of B, Dynamics of A": next(swaps[1])}
                count = min(left, *(clip.shape[1] for clip in panels.values()))
                write({name: clip[:, :count] for name, clip in panels.items()})
                left -= count
                progress((number + 1) / len(pairs), "swapping")

    def edit(self, a: Clip, motion: float, slowed: int, video: Path, progress: Progress) -> None:
        """Write a video beside what `vidtwin edit` makes of it. Raises ValueError for more frames than the limit."""
        if a.frames * slowed > self.limits.frames:
            raise ValueError(
                f"{slowed} times as long the video has {a.frames * slowed} frames, the limit here is {self.limits.frames}; slow it "
                "less, or use the command line"
            )
        edited = edit.edit(LatentVideo.load(a.latents).stream(), motion, slowed)
        decoded, done = self.decode(a, edited.windows), 0
        with grid_writer(video, a.fps, [a.geometry] * 2) as write:
            for pixels in a.pixels():
                clip = torch.cat([next(decoded) for _ in range(ceil(pixels.shape[1] * slowed / a.header.config.frames))], dim=1)
                write({"original": pixels.repeat_interleave(slowed, dim=1), "edited": clip})
                done += clip.shape[1]
                progress(done / (a.frames * slowed), "decoding")

    def between(self, a: Clip, b: Clip, structure: float, dynamics: float, video: Path, progress: Progress) -> None:
        """Write the decode of latents on the way from A (0) to B (1), a way for each of the two."""
        windows, left = mixed(a, b, structure, dynamics), min(a.frames, b.frames)
        with VideoWriter(video, a.fps, a.geometry.output_size, FAST) as writer:
            for number, clip in enumerate(self.decode(a, windows)):
                writer.write(from_clip(clip[:, :left], a.geometry))
                left -= clip.shape[1]
                progress((number + 1) / len(windows), "decoding")

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
        frames = made.videos[0].numpy()
        fps = Fraction(self.generator.fps).limit_denominator(1001)
        with VideoWriter(video, fps, (frames.shape[1], frames.shape[2]), FAST) as writer:  # H.264, which browsers play
            writer.write(frames)


def _pixels(window: Window) -> Tensor:
    assert isinstance(window.pixels, Tensor)
    return window.pixels


def _clip(decoded: Decoded) -> Tensor:
    assert decoded.clip is not None
    return decoded.clip


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
