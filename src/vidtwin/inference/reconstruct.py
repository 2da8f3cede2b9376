"""Reconstruct, swap, interpolate: what the command line does with whole videos, as functions."""

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import tee
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vidtwin.frames.clips import Geometry, from_clip
from vidtwin.frames.orientation import Orientation
from vidtwin.frames.panels import LABEL_HEIGHT
from vidtwin.frames.panels import side_by_side as row_of
from vidtwin.frames.tiles import Fit
from vidtwin.inference.decode import Decoded, Decoder, Output, span_of
from vidtwin.inference.encode import Progress, encode_stream, plan_header
from vidtwin.inference.engine import Engine
from vidtwin.inference.report import Report, Tally, content_size, plan_ssim
from vidtwin.inference.shown import Written
from vidtwin.latents.stream import Header, Identity, LatentStream, Window, first_window, grouped
from vidtwin.metrics import SSIM_WINDOW
from vidtwin.model.latents import Latents
from vidtwin.model.vidtwin import Part, VidTwin
from vidtwin.threads import Behind
from vidtwin.video.read.decode import VideoFile
from vidtwin.video.read.reader import VideoInfo, info_of

PANELS = ("original", "reconstruction", "structure only", "dynamics only")
PARTS: tuple[Part, Part] = ("structure", "dynamics")
CHECKPOINT_FRAMES = 64  # a key frame, and a place to go on from, every so many frames, to the end of a window


def reconstruct(
    model: VidTwin | Engine,
    path: str | Path | VideoInfo,
    out: str | Path,
    *,
    policy: str = "crop",
    tile_overlap: int | None = None,
    overlap: int = 0,
    start: int = 0,
    stop: int | None = None,
    panels: bool = False,
    score: bool = True,
    ssim_every: int | None = None,
    output: Output | None = None,
    weights: Identity | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Encode and decode a video; with `panels`, write original | reconstruction | structure only | dynamics only.

    Reading, the model and writing work side by side, and memory does not depend on the length. Every 64 frames what is done is
    made safe in a folder beside `out`; after a run was stopped, `resume` goes on from there and ends with the same bytes as a run
    that was not. Long for its arguments and what it reports, which have a line each.

    Args:
        model: its own precision, or an `Engine` with those wanted.
        path, policy, tile_overlap, overlap, start, stop, weights: as in `encode_video`.
        score: measure PSNR and SSIM; False computes nothing for them.
        ssim_every: take SSIM of frames 0, ssim_every, 2 ssim_every, ...; by default of every frame if the pictures that are
            compared have less than 0.5 megapixel, else of every 4th. PSNR is of every frame.
        output: how it is written; by default by the name of `out`, without sound.
        progress: called with the number of frames that were done.

    Raises:
        OSError, ValueError: the video cannot be read or the output not written; one line with the remedy.
    """
    begun = time.perf_counter()
    engine, info, output = Engine.of(model), info_of(path), output or Output()
    if output.source == info.path:
        output = replace(output, source=info)  # it is not opened to be asked again
    identity = weights or engine.identity()
    header = plan_header(engine, info, identity, policy=policy, tile_overlap=tile_overlap, overlap=overlap, start=start)
    geometry = header.geometry
    every = plan_ssim(score, ssim_every, content_size(geometry))
    height, width = geometry.output_size
    size = (height + LABEL_HEIGHT, len(PANELS) * width) if panels else (height, width)
    job = {
        "header": header.to_dict(),
        "stop": stop,
        "panels": panels,
        "ssim_every": every,
        "encoding": asdict(output.encoding),
        "sound": output.source is not None,
        "dtype": engine.plan.runtime or str(engine.plan.dtype),
        "batch": engine.plan.batch,
    }
    more: dict[str, Any] = {"job": job, "resume": resume} | ({"orientation": Orientation()} if panels else {})
    with output.writer(out, header, size, start == 0, **more) as writer:
        tally = Tally(**(writer.state or {}))
        resumed, saved, ticks = tally.frames, tally.frames, np.array(writer.ticks, np.int64)
        if progress and resumed:
            progress(resumed)

        def finish(window: Window, parts: list[Decoded]) -> None:
            """Score, write and save, while the model goes on."""
            nonlocal saved
            tally.add(window, parts[0], geometry, every)
            writer.write(_row(window, parts, geometry) if panels else parts[0].frames, parts[0].ticks)
            if tally.frames - saved >= CHECKPOINT_FRAMES and not window.last:
                writer.checkpoint(asdict(tally))
                saved = tally.frames

        with Behind() as later:
            only = (None, *PARTS) if panels else (None,)
            for window, parts in _rebuilt(engine, info.path, header, stop, ticks, only, keep_pixels=panels or score):
                later(finish, window, parts)
                if progress:
                    progress(len(parts[0].ticks))
        if start or stop is not None:
            writer.span = span_of(writer.ticks, header, start > 0, stop is not None)
    ssim_frames = 0 if every is None or min(content_size(geometry)) < SSIM_WINDOW else -(-tally.frames // every)
    return Report(
        frames=tally.frames,
        fps=header.fps,
        source_size=geometry.source,
        output_size=(height, width),
        geometry=geometry.describe(),
        cuts=tally.cuts,
        latent_values=header.windows(tally.frames) * sum(map(prod, header.shapes)),
        compression_rate=header.config.compression_rate,
        weights=str(identity),
        source_bytes=header.source_bytes,
        out=Path(out),
        plan=engine.plan.describe(),
        psnr=tally.psnr / tally.frames if score else None,
        ssim=tally.ssim / ssim_frames if ssim_frames else None,
        ssim_every=every,
        seconds=time.perf_counter() - begun,
        frames_done=tally.frames - resumed,
        notes=(*info.notes, *engine.notes, *writer.notes),
    )


def _rebuilt(
    engine: Engine,
    path: VideoFile,
    header: Header,
    stop: int | None,
    ticks: np.ndarray,
    only: tuple[Part | None, ...],
    keep_pixels: bool,
) -> Iterator[tuple[Window, list[Decoded]]]:
    """Windows of a video, and their frames decoded in each of these ways; but for the frames of these `ticks`, which are done."""
    done, at_once = len(ticks), engine.windows_at_once(header.tiles)
    first = first_window(done, header)
    first -= first % at_once
    stream = encode_stream(engine, path, header, stop, first, ticks[: first * header.stride], keep_pixels)
    decoders = [Decoder(engine, header, part) for part in only]
    for windows in grouped(stream.windows, at_once):
        for window, *decoded in zip(windows, *(decoder(windows) for decoder in decoders), strict=True):
            parts = [part.since(done) for part in decoded]
            if parts[0].ticks:  # else it is done; only what the next window fades from was missing
                yield window, parts


def _row(window: Window, parts: list[Decoded], geometry: Fit) -> np.ndarray:
    """Original and decoded frames side by side."""
    begin = window.ticks.index(parts[0].ticks[0])
    assert window.pixels is not None
    if isinstance(window.pixels, Tensor):
        assert isinstance(geometry, Geometry)
        original = from_clip(window.pixels[:, begin : begin + len(parts[0].ticks)], geometry)
    else:
        original = window.pixels[begin : begin + len(parts[0].ticks)]
    return row_of(dict(zip(PANELS, (original, *(part.frames for part in parts)), strict=True)))


def swap(structure: LatentStream, dynamics: LatentStream) -> LatentStream:
    """The Structure of one video with the Dynamics of another (the paper's cross-reenactment, Sec. 4.4).

    Frames, timing and geometry are those of `structure`, cut to the shorter of the two.

    Raises:
        ValueError: the two were encoded with different weights, overlap or number of tiles.
    """

    def mix(a: Window, b: Window) -> Window:
        return replace(a, latents=Latents(a.latents.structure, b.latents.dynamics_x, b.latents.dynamics_y), logvar=None)

    cut: list[str] = []
    return _paired(structure, dynamics, (mix(a, b) for a, b in _pairs_of_windows(structure, dynamics, cut)), cut)


def interpolate(a: LatentStream, b: LatentStream, steps: int, part: str = "both") -> list[LatentStream]:
    """`steps` videos from `a` to `b`, linear in the latents: both, or "structure" or "dynamics" alone (the other stays a's).

    Frames, timing and geometry are those of `a`, cut to the shorter of the two. Take the windows of all of them in step: what one
    is ahead of another stays in memory.

    Raises:
        ValueError: steps < 2, an unknown part, or videos that do not go together, as in `swap`.
    """
    if steps < 2:
        raise ValueError(f"steps={steps}: give at least 2, the two videos themselves")
    if part not in ("both", *PARTS):
        raise ValueError(f"part={part!r}: choose 'both', 'structure' or 'dynamics'")

    def mix(weight: float, pair: tuple[Window, Window]) -> Window:
        first, second = pair
        mixed = first.latents.lerp(second.latents, weight)
        if part == "structure":
            mixed = Latents(mixed.structure, first.latents.dynamics_x, first.latents.dynamics_y)
        if part == "dynamics":
            mixed = Latents(first.latents.structure, mixed.dynamics_x, mixed.dynamics_y)
        return replace(first, latents=mixed, logvar=None)

    cut: list[str] = []
    copies = tee(_pairs_of_windows(a, b, cut), steps)
    return [_paired(a, b, map(partial(mix, step / (steps - 1)), pairs), cut) for step, pairs in enumerate(copies)]


def _paired(a: LatentStream, b: LatentStream, windows: Iterator[Window], cut: list[str]) -> LatentStream:
    b.header.check_weights(a.header.weights)
    for what in ("overlap", "tiles"):
        here, there = getattr(a.header, what), getattr(b.header, what)
        if here != there:
            raise ValueError(f"{a.header.source} has {what} {here}, {b.header.source} {there}; encode both alike")
    known = a.frames is not None and b.frames is not None
    return LatentStream(a.header, windows, min(a.frames or 0, b.frames or 0) if known else None, cut)


def _pairs_of_windows(a: LatentStream, b: LatentStream, cut: list[str]) -> Iterator[tuple[Window, Window]]:
    """Windows of both, cut to the shorter one; if one is longer, `cut` says so."""
    for first, second in zip(a.windows, b.windows, strict=False):
        frames, last = min(len(first.ticks), len(second.ticks)), first.last or second.last
        if last and (len(first.ticks), first.last) != (len(second.ticks), second.last):
            is_first = len(first.ticks) > len(second.ticks) or not first.last
            count = first.index * a.header.stride + frames
            cut.append(f"the {'first' if is_first else 'second'} video is longer than the other, and was cut to its {count} frames")
        yield replace(first.shortened(frames), last=last), replace(second.shortened(frames), last=last)
        if last:
            return


def decode_row(
    model: VidTwin | Engine,
    streams: list[LatentStream],
    out: str | Path,
    *,
    output: Output | None = None,
    weights: Identity | None = None,
    progress: Progress | None = None,
) -> Written:
    """Decode at least two videos of equal length next to each other, from the first to the last; returns as `decode_video`.

    Raises:
        ValueError: as `decode_video`; more videos than fit a row. OSError: `out` cannot be written.
    """
    engine, header = Engine.of(model), streams[0].header
    identity = weights or engine.identity()
    for stream in streams:
        stream.header.check_weights(identity)
    labels = [f"{index / (len(streams) - 1):.2f}" for index in range(len(streams))]
    decoders = [Decoder(engine, header) for _ in streams]
    height, width = header.geometry.output_size
    size = height + LABEL_HEIGHT, len(streams) * width
    at_once = engine.windows_at_once(header.tiles)
    with (output or Output()).writer(out, header, size, True, orientation=Orientation()) as writer:

        def finish(row: tuple[Decoded, ...]) -> None:
            writer.write(row_of(dict(zip(labels, (decoded.frames for decoded in row), strict=True))), row[0].ticks)

        with Behind() as later:
            for groups in zip(*(grouped(stream.windows, at_once) for stream in streams), strict=True):
                for row in zip(*(decoder(group) for decoder, group in zip(decoders, groups, strict=True)), strict=True):
                    later(finish, row)
                    if progress:
                        progress(len(row[0].ticks))
        writer.span = span_of(writer.ticks, header, False, bool(streams[0].cut))
    return Written([*streams[0].cut, *writer.notes], out)
