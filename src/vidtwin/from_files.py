"""From files to files: what the commands on videos do, as functions that take the name of weights.

`weights` is any name that `VidTwin.from_pretrained` takes, a `VidTwin`, or an `inference.engine.Engine`. A name is loaded at each
call: load a model once for many videos. Sound, subtitles and chapters of the source are copied unless `output` says otherwise.
"""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vidtwin.files import is_same
from vidtwin.inference import decode, encode
from vidtwin.inference import edit as edits
from vidtwin.inference import reconstruct as whole
from vidtwin.inference.decode import Output
from vidtwin.inference.engine import Engine
from vidtwin.inference.report import Report
from vidtwin.inference.shown import Written
from vidtwin.latents.file import LatentVideo, is_latent_file
from vidtwin.latents.stream import Identity, LatentStream
from vidtwin.model.checkpoint import shipped_names
from vidtwin.model.vidtwin import VidTwin
from vidtwin.video.read.reader import Video, probe
from vidtwin.video.write.writer import VideoWriter

FilePath = str | Path
Weights = FilePath | VidTwin | Engine


def load(name: FilePath = "mini", **options: Any) -> VidTwin:
    """`VidTwin.from_pretrained(name, **options)`: weights by a shipped name, a path, or a hub id."""
    return VidTwin.from_pretrained(name, **options)


def reconstruct(
    path: FilePath, out: FilePath, *, weights: Weights = "mini", output: Output | None = None, **options: Any
) -> Report:
    """Encode and decode a video, as `vidtwin reconstruct`; `options` are those of `inference.reconstruct.reconstruct`.

        print(vidtwin.reconstruct("a.mp4", "b.mp4", policy="tile").table())

    Raises:
        OSError, ValueError: the video cannot be read, the weights not loaded, or the output not written.
    """
    engine, identity = _engine(weights)
    info = probe(path)
    return whole.reconstruct(engine, info, out, output=output or Output(source=info), weights=identity, **options)


def encode_video(path: FilePath, out: FilePath, *, weights: Weights = "mini", **options: Any) -> LatentVideo:
    """Encode a video to a latent file, as `vidtwin encode`; options and errors are those of `inference.encode.encode_video`."""
    engine, identity = _engine(weights)
    return encode.encode_video(engine, path, out, weights=identity, **options)


def decode_video(latents: FilePath | LatentVideo, out: FilePath, *, weights: Weights | None = None, **options: Any) -> Written:
    """Decode a latent file to a video, as `vidtwin decode`; `options` are those of `inference.decode.decode_video`.

    `weights`: None is the shipped weights that the file names. Returns what could not be kept of the source.

    Raises:
        ValueError: the file names other weights; else as `inference.decode.decode_video`.
    """
    video = latents if isinstance(latents, LatentVideo) else LatentVideo.load(latents)
    if weights is None and video.header.weights.name not in shipped_names():
        raise ValueError(
            f"latents={str(latents)!r}: were encoded with weights {video.header.weights}; say where they are by weights="
        )
    engine, identity = _engine(video.header.weights.name if weights is None else weights)
    return decode.decode_video(engine, video, out, weights=identity, **options)


def swap(
    structure: FilePath,
    dynamics: FilePath,
    out: FilePath,
    *,
    weights: Weights = "mini",
    output: Output | None = None,
    **fit: Any,
) -> Written:
    """The Structure of one video, or latent file, with the Dynamics of another, as `vidtwin swap`.

    `fit`: policy, tile_overlap, overlap, as in `encode_video`. Returns what could not be kept of the first one, which gives timing
    and sound. Raises as `inference.reconstruct.swap` and `inference.decode.decode_video`.
    """
    _check_not_input(out, structure, dynamics)
    engine, identity = _engine(weights)
    first, second = (_stream(engine, identity, path, fit) for path in (structure, dynamics))
    mixed = whole.swap(first, second)
    return decode.decode_video(engine, mixed, out, output=output or _as_source(structure), weights=identity)


def interpolate(
    a: FilePath,
    b: FilePath,
    out: FilePath,
    *,
    steps: int = 5,
    part: str = "both",
    weights: Weights = "mini",
    output: Output | None = None,
    **fit: Any,
) -> Written:
    """`steps` videos on the line between two videos or latent files, side by side, as `vidtwin interpolate`; else as `swap`."""
    _check_not_input(out, a, b)
    engine, identity = _engine(weights)
    first, last = (_stream(engine, identity, path, fit) for path in (a, b))
    streams = whole.interpolate(first, last, steps, part)
    return whole.decode_row(engine, streams, out, output=output or _as_source(a), weights=identity)


def edit(
    path: FilePath,
    out: FilePath,
    *,
    motion: float = 1.0,
    slow: int = 1,
    motion_from: FilePath | None = None,
    part: str = "both",
    weights: Weights = "mini",
    output: Output | None = None,
    **fit: Any,
) -> Written:
    """Change how a video, or latent file, moves, as `vidtwin edit`; `inference.edit` has the formula.

        vidtwin.edit("a.mp4", "b.mp4", motion=0)  # frozen

    `motion`: speed within each clip; `slow`: times as long; `motion_from`: take the Dynamics of this video, at speed `motion`, with
    the Structure of the first as it is. Else as `swap`. A slowed video has no sound unless `output` says so.

    Raises as `inference.edit.edit` and `inference.decode.decode_video`.
    """
    _check_not_input(out, path, motion_from)
    engine, identity = _engine(weights)
    other = None if motion_from is None else _stream(engine, identity, motion_from, fit)
    edited = edits.edit(_stream(engine, identity, path, fit), motion, slow, part, other)
    output = output or (_as_source(path) if slow == 1 else Output())
    return decode.decode_video(engine, edited, out, output=output, weights=identity)


def save_video(frames: Video | np.ndarray | Tensor, path: FilePath, fps: float | Fraction | None = None) -> Written:
    """Write uint8 frames (F, H, W, 3), RGB, as a video, a folder of PNG or what else the name of `path` says.

    `fps`: default that of a `Video` that `read_video` gave. Returns what could not be kept.

    Raises:
        ValueError: frames of another shape or dtype, or no rate. OSError: it cannot be written.
    """
    fps = frames.fps if fps is None and isinstance(frames, Video) else fps
    images = frames.frames if isinstance(frames, Video) else np.asarray(frames)
    if fps is None or fps <= 0:
        raise ValueError(f"fps={fps}: say how many frames a second has")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
        raise ValueError(f"frames of {images.dtype} {images.shape}: give uint8 (F, H, W, 3); ((x + 1) * 127.5).round() for clips")
    with VideoWriter(path, Fraction(fps).limit_denominator(1001), (images.shape[1], images.shape[2])) as writer:
        writer.write(images)
    return Written(writer.notes, path)


def _engine(weights: Weights) -> tuple[Engine, Identity]:
    if isinstance(weights, (VidTwin, Engine)):
        engine = Engine.of(weights)
        return engine, engine.identity()
    model, path = VidTwin.from_pretrained(weights), Path(weights)
    return Engine(model), Identity.of(model, path.name if path.is_absolute() else str(weights))


def _stream(engine: Engine, identity: Identity, path: FilePath, fit: dict[str, Any]) -> LatentStream:
    """Windows of a latent file, or of a video as it is encoded."""
    if is_latent_file(Path(path)):
        return LatentVideo.load(path).stream()
    info = probe(path)
    stream = encode.encode_stream(engine, info.path, encode.plan_header(engine, info, identity, **fit))
    return replace(stream, frames=info.expected_frames)


def _check_not_input(out: FilePath, *inputs: FilePath | None) -> None:
    """Refuse, before any work, to write over a file that is read."""
    for path in inputs:
        if path is not None and is_same(Path(out), Path(path)):
            raise ValueError(f"{out}: is an input; choose another output")


def _as_source(path: FilePath) -> Output:
    """With the sound of a video; a latent file has none."""
    return Output() if is_latent_file(Path(path)) else Output(source=Path(path))
