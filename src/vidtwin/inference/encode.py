"""Whole videos to latents: file -> windows -> latents, one window in memory.

A video is cut into windows of f = config.frames frames. Each window shares `overlap` frames with the one before (none by default);
the last is padded by repeating its last frame. Windows, and the tiles of policy "tile", know nothing of each other, so that
encoding and decoding later gives what doing both at once gives. Frames are read ahead in threads.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidtwin.frames.clips import Geometry, is_resampled, to_clip
from vidtwin.frames.shots import MEMORY, CutDetector, thumbnail
from vidtwin.frames.tiles import POLICY, Fit, Tiling, plan_fit
from vidtwin.inference.engine import Engine, name
from vidtwin.latents.file import LatentVideo, LatentWriter
from vidtwin.latents.records import Stored
from vidtwin.latents.stream import Header, Identity, LatentStream, Window, grouped
from vidtwin.model.vidtwin import VidTwin
from vidtwin.threads import ahead, cores, side_by_side
from vidtwin.video.read.decode import VideoFile
from vidtwin.video.read.info import PendingFrame
from vidtwin.video.read.reader import VideoInfo, info_of, iter_pending

THREADS = 8  # that make pictures, at most
PIXELS = 2**25  # of pictures that are made at once: four of 3840x2160

Progress = Callable[[int], object]  # called with the number of frames just done


def plan_header(
    engine: Engine,
    info: VideoInfo,
    weights: Identity,
    *,
    policy: str = "crop",
    tile_overlap: int | None = None,
    overlap: int = 0,
    start: int = 0,
    logvar: bool = False,
) -> Header:
    """What the latents of a video will share. Raises ValueError for a policy or an overlap that cannot be."""
    config = engine.config
    size = info.stored_size if policy == POLICY else (info.height, info.width)
    fit = plan_fit(policy, size, (config.height, config.width), tile_overlap)
    return Header(
        fps=info.fps,
        clock=info.time_base,
        geometry=fit,
        overlap=overlap,
        pixel_aspect=info.pixel_aspect if policy == POLICY else Fraction(1),
        orientation=info.orientation if policy == POLICY else type(info.orientation)(),
        config=config,
        weights=weights,
        precision=engine.plan.runtime or name(engine.plan.encode_dtype),
        logvar=logvar,
        source=Path(str(info.path)).name,
        source_bytes=info.path.stat().st_size if isinstance(info.path, Path) and info.path.is_file() else 0,
        first_frame=start,
    )


@dataclass(frozen=True)
class SourceWindow:
    """Frames of a window: pixels (3, n, h, w) fitted to the model, or uint8 (n, H, W, 3) for tiles; the rest as in `Window`."""

    index: int
    pixels: Any
    ticks: tuple[int, ...]
    cuts: tuple[bool, ...]
    last: bool


def source_windows(
    path: VideoFile, header: Header, stop: int | None = None, first: int = 0, ticks: np.ndarray | None = None
) -> Iterator[SourceWindow]:
    """Windows `first`, `first` + 1, ... of frames header.first_frame..stop-1 of a video.

    `ticks`: timestamps of the frames before window `first`, if they are known; they save decoding the file from its start.
    """
    f, stride, fit = header.config.frames, header.stride, header.geometry
    before = min(first * stride, MEMORY)  # frames that the detector of cuts wants to have seen
    begin = first * stride - before
    last_pts = int(ticks[begin - 1]) if ticks is not None and 0 < begin <= len(ticks) else None
    frames = iter_pending(path, header.first_frame + begin, stop, square_pixels=isinstance(fit, Geometry), last_pts=last_pts)
    cuts = CutDetector()
    window = _Growing(first, header)
    for number, (pixels, small, tick) in enumerate(side_by_side(partial(_seen, fit), frames, _threads(fit))):
        cut = cuts.see(small)
        if number < before:
            continue
        if window.count == f:
            yield window.finished(last=False)
            window = window.next()
        window.add(pixels, tick, cut)
    yield window.finished(last=True)


def _seen(fit: Fit, frame: PendingFrame) -> tuple[np.ndarray, np.ndarray, int]:
    """Pixels as a window holds them, (3, h, w) or for tiles (H, W, 3); the thumbnail; the timestamp."""
    image = frame.picture(isinstance(fit, Geometry))
    return (pixels_of(fit, image) if isinstance(fit, Geometry) else image), thumbnail(image), frame.pts


def pixels_of(geometry: Geometry, image: np.ndarray) -> np.ndarray:
    """A picture, uint8 (H, W, 3), as a frame of the model's clip: float32 (3, h, w) in [-1, 1]."""
    return to_clip(image[None], geometry)[:, 0].numpy()


def _threads(fit: Fit) -> int:
    """How many make pictures; small ones are made where they are read, as quickly as handed on."""
    height, width = fit.source
    return min(cores(), THREADS, PIXELS // (height * width)) if isinstance(fit, Tiling) or is_resampled(fit) else 1


class _Growing:
    """A window that is being filled."""

    def __init__(self, index: int, header: Header):
        self.index, self.header, self.count = index, header, 0
        (h, w), f = header.geometry.model, header.config.frames
        self.tiled = isinstance(header.geometry, Tiling)
        self.frames = np.empty((f, *header.geometry.source, 3), np.uint8) if self.tiled else np.empty(0)
        self.clip = torch.empty(0) if self.tiled else torch.empty(3, f, h, w)
        self.ticks: list[int] = []
        self.cuts: list[bool] = []

    def add(self, pixels: np.ndarray, tick: int, cut: bool) -> None:
        if self.tiled:
            self.frames[self.count] = pixels
        else:
            self.clip.numpy()[:, self.count] = pixels
        self.ticks.append(tick)
        self.cuts.append(cut)
        self.count += 1

    def next(self) -> "_Growing":
        """The window after this full one, with the frames that both share."""
        following, shared = _Growing(self.index + 1, self.header), self.header.overlap
        if shared:
            following.ticks, following.cuts, following.count = self.ticks[-shared:], self.cuts[-shared:], shared
            if self.tiled:
                following.frames[:shared] = self.frames[-shared:]
            else:
                following.clip[:, :shared] = self.clip[:, -shared:]
        return following

    def finished(self, last: bool) -> SourceWindow:
        pixels = self.frames[: self.count] if self.tiled else self.clip[:, : self.count]
        return SourceWindow(self.index, pixels, tuple(self.ticks), tuple(self.cuts), last)


def padded(clip: Tensor, frames: int) -> Tensor:
    """(3, n, h, w) with the last frame repeated up to (3, frames, h, w)."""
    missing = frames - clip.shape[1]
    return clip if missing == 0 else torch.cat([clip, clip[:, -1:].expand(-1, missing, -1, -1)], dim=1)


def encode_stream(
    model: VidTwin | Engine,
    path: VideoFile,
    header: Header,
    stop: int | None = None,
    first: int = 0,
    ticks: np.ndarray | None = None,
    keep_pixels: bool = False,
) -> LatentStream:
    """Windows `first`, ... of a video (`source_windows`), encoded as they are asked for; with their pixels if `keep_pixels`.

    Raises (when windows are asked for):
        OSError, ValueError: the video cannot be read, or latents are not finite; one line that names the remedy.
    """
    engine = Engine.of(model)
    at_once = engine.windows_at_once(header.tiles)
    begin = first - first % at_once  # a window goes through the model with the same ones whenever it does
    sources = ahead(source_windows(path, header, stop, begin, ticks), at_once, single=True)
    windows = (
        window
        for group in grouped(sources, at_once)
        for window in encode_windows(engine, header, group, keep_pixels)
        if window.index >= first
    )
    # A GPU is kept busy by two threads that wait for it: while the one takes care of what it gave, it works for the other.
    return LatentStream(header, windows if engine.device.type == "cpu" else ahead(windows, at_once))


def encode_windows(engine: Engine, header: Header, sources: Sequence[SourceWindow], keep_pixels: bool = False) -> list[Window]:
    """All tiles of some windows, each with its last frame repeated up to the model's length. Raises as `Engine.encode`."""
    fit, tiles = header.geometry, header.tiles

    def clip(index: int) -> Tensor:
        pixels = sources[index // tiles].pixels
        return padded(fit.cut(pixels, index % tiles) if isinstance(fit, Tiling) else pixels, header.config.frames)

    posterior = engine.encode(tiles * len(sources), clip)
    return [
        Window(
            index=source.index,
            latents=posterior.mean[number * tiles : (number + 1) * tiles],
            logvar=posterior.logvar[number * tiles : (number + 1) * tiles] if header.logvar else None,
            ticks=source.ticks,
            cuts=source.cuts,
            last=source.last,
            pixels=source.pixels if keep_pixels else None,
        )
        for number, source in enumerate(sources)
    ]


def encode_video(
    model: VidTwin | Engine,
    path: str | Path | VideoInfo,
    out: str | Path,
    *,
    policy: str = "crop",
    tile_overlap: int | None = None,
    overlap: int = 0,
    start: int = 0,
    stop: int | None = None,
    logvar: bool = False,
    step: float | None = None,
    stored: Stored = "float16",
    weights: Identity | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> LatentVideo:
    """Encode frames start..stop-1 (default: all) of a video to a latent file.

    Args:
        model: its own precision, or an `Engine` with those wanted.
        path: a video, or what `probe` said of it, which saves opening it again.
        out: the file to write; until it is finished it grows at `latents.file.partial_path`.
        policy: how frames are fitted to the model: "crop", "squash", "pad" (`frames.clips.Geometry`), or "tile" (`frames.tiles`).
        tile_overlap: pixels that neighbouring tiles share; default a quarter of the model's size.
        overlap: frames that a window shares with the one before, 0 to f / 2; decoding fades over them.
        logvar: store log-variances beside the means; not in the compressed form.
        step: write the compressed form, rounded to steps of so many sigma (`entropy`); it grows in the plain form.
        stored: else, "float16", which no PSNR shows, or "float32": every bit.
        weights: needed if the model was cast to a lower precision (`Identity.of` before it).
        resume: go on after the last whole window of a run that was stopped; the file is the same as if it had not been.
        progress: called with the number of frames that each window adds.

    Raises:
        OSError, ValueError: the video cannot be read, latents are not finite, or `out` cannot be written; one line with the remedy.
    """
    engine, info = Engine.of(model), info_of(path)
    header = plan_header(
        engine,
        info,
        weights or engine.identity(),
        policy=policy,
        tile_overlap=tile_overlap,
        overlap=overlap,
        start=start,
        logvar=logvar or step is not None,
    )
    job = {"stop": stop, "batch": engine.plan.batch} | ({} if step is None else {"step": step})
    with LatentWriter(out, header, resume, job, step, stored) as writer:
        ticks = writer.ticks
        if progress and len(ticks):
            progress(len(ticks))
        if not writer.finished:
            for window in encode_stream(engine, info.path, header, stop, writer.count, ticks).windows:
                writer.write(window)
                if progress:
                    progress(len(window.ticks) - (header.overlap if window.index else 0))
    return LatentVideo.load(out)
