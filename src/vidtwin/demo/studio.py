"""What the page does with a visitor's videos: the same functions as the command line, on clips short enough to wait for.

Letters: n frames of a video, h x w the model's picture.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidtwin.evaluation.metrics import frame_psnr
from vidtwin.generation.pipeline import VidTwinPipeline
from vidtwin.inference.decode import Decoder
from vidtwin.inference.encode import encode_stream, plan_header
from vidtwin.inference.engine import Engine
from vidtwin.inference.latent_stream import Header, Identity, Window, grouped
from vidtwin.inference.latent_video import LatentWriter
from vidtwin.model.latents import Latents
from vidtwin.model.vidtwin import Part
from vidtwin.video.clips import Geometry, content, from_clip
from vidtwin.video.panels import side_by_side
from vidtwin.video.read import VideoInfo, frame_count, probe
from vidtwin.video.write import VideoWriter

Progress = Callable[[float, str], object]  # share that is done, and what of
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

    def pictures(self) -> np.ndarray:
        """uint8 (n, h, w, 3), what was encoded."""
        assert isinstance(self.header.geometry, Geometry)
        return np.concatenate([from_clip(_pixels(window), self.header.geometry) for window in self.windows])


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

    def decode(self, header: Header, windows: Sequence[Window], only: Part | None, done: Callable[[], object]) -> Tensor:
        """(3, n, h, w) in [-1, 1]."""
        decoder, clips = Decoder(self.engine, header, only), []
        for group in grouped(iter(windows), self.engine.windows_at_once(1)):
            for decoded in decoder(group):
                assert decoded.clip is not None
                clips.append(decoded.clip)
                done()
        return torch.cat(clips, dim=1)

    def rebuild(self, clip: Clip, video: Path, latents: Path, progress: Progress) -> Shown:
        """Write original, reconstruction, Structure alone and Dynamics alone as one video, and the latents; and measure."""
        assert isinstance(clip.header.geometry, Geometry)
        begun, steps = time.perf_counter(), _Steps(progress, len(DECODES) * len(clip.windows), "decoding")
        decoded = {name: self.decode(clip.header, clip.windows, only, steps) for name, only in DECODES.items()}
        seconds = time.perf_counter() - begun
        geometry = clip.header.geometry
        original = torch.cat([_pixels(window) for window in clip.windows], dim=1)
        psnr = frame_psnr(content(decoded["reconstruction"], geometry).clamp(-1, 1), content(original, geometry))
        panels = {"original": clip.pictures()} | {name: from_clip(x, geometry) for name, x in decoded.items()}
        write_grid(video, panels, clip.fps)
        with LatentWriter(latents, clip.header) as writer:
            for window in clip.windows:
                writer.write(window)
        values = len(clip.windows) * sum(map(prod, clip.header.shapes))
        (H, W), (h, w) = geometry.source, geometry.output_size
        facts = {
            "video": f"{clip.frames} frames at {float(clip.fps):.4g} a second, {W}x{H}, shown as {w}x{h}",
            "PSNR": f"{psnr.mean():.2f} dB, the mean over frames",
            "rate": f"{clip.header.config.compression_rate:.2%} of the values: {values:,} for {len(clip.windows)} windows",
            "size": f"{latents.stat().st_size / 1e3:,.0f} kB of latents, {clip.bytes / 1e3:,.0f} kB of video file",
            "time": f"{clip.seconds:.1f} s to read and encode, {seconds:.1f} s to decode three ways",
        }
        return Shown(facts, tuple(psnr.tolist()))

    def swap(self, a: Clip, b: Clip, video: Path, progress: Progress) -> None:
        """Write both videos and both swaps as one video, as long as the shorter of the two."""
        count = min(len(a.windows), len(b.windows))
        frames = min(a.frames, b.frames)
        steps = _Steps(progress, 2 * count, "swapping")
        swaps = {
            "Structure of A, Dynamics of B": (mixed(a, b, 0.0, 1.0), a),
            "Structure of B, Dynamics of A": (mixed(b, a, 0.0, 1.0), b),
        }
        panels = {"A": a.pictures()[:frames], "B": b.pictures()[:frames]}
        for name, (windows, clip) in swaps.items():
            assert isinstance(clip.header.geometry, Geometry)
            panels[name] = from_clip(self.decode(clip.header, windows, None, steps)[:, :frames], clip.header.geometry)
        write_grid(video, panels, a.fps)

    def between(self, a: Clip, b: Clip, structure: float, dynamics: float, video: Path, progress: Progress) -> None:
        """Write the decode of latents on the way from A (0) to B (1), a way for each of the two."""
        assert isinstance(a.header.geometry, Geometry)
        windows, frames = mixed(a, b, structure, dynamics), min(a.frames, b.frames)
        clip = self.decode(a.header, windows, None, _Steps(progress, len(windows), "decoding"))[:, :frames]
        write_video(video, from_clip(clip, a.header.geometry), a.fps)

    def generate(self, label: str | None, seed: int, guidance: float, steps: int, video: Path, progress: Progress) -> None:
        """Write a sample of the generator's."""
        assert self.generator is not None
        count = _Steps(progress, steps, "sampling")
        made = self.generator(
            label,
            generator=torch.Generator().manual_seed(seed),
            guidance_scale=guidance,
            num_inference_steps=steps,
            progress=lambda done: count(),
        )
        write_video(video, made.videos[0].numpy(), Fraction(self.generator.fps).limit_denominator(1001))


class _Steps:
    """Counts calls, and tells the share that is done."""

    def __init__(self, progress: Progress, total: int, what: str):
        self.progress, self.total, self.what, self.done = progress, total, what, 0

    def __call__(self) -> None:
        self.done += 1
        self.progress(self.done / max(1, self.total), self.what)


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


def write_grid(path: Path, panels: dict[str, np.ndarray], fps: Fraction) -> None:
    """Panels of one size, uint8 (n, h, w, 3), two beside each other, in rows, under their names."""
    names = iter(panels)
    rows = []
    while pair := list(islice(names, 2)):
        rows.append(side_by_side({name: panels[name] for name in pair}))
    write_video(path, np.concatenate(rows, axis=1), fps)


def write_video(path: Path, frames: np.ndarray, fps: Fraction) -> None:
    """H.264, which browsers play."""
    with VideoWriter(path, fps, (frames.shape[1], frames.shape[2])) as writer:
        writer.write(frames)
