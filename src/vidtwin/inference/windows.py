"""Whole videos through the model: file -> windows -> latents, and latents -> windows -> file.

A video is cut into windows of config.frames frames; the last is padded by repeating its last frame, and what decodes from the
padding is dropped, so that N frames in are N frames out. Windows go through the model one at a time, so encoding and decoding
later gives exactly what doing both at once gives. Memory holds one window of frames, and the latents.
"""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidtwin.inference.latent_video import Identity, LatentVideo
from vidtwin.model.latents import Latents
from vidtwin.model.vidtwin import Part, VidTwin
from vidtwin.video.clips import Geometry, chunks, from_clip, pad_tail, to_clip
from vidtwin.video.read import Frame, iter_frames, probe
from vidtwin.video.write import VideoWriter

Progress = Callable[[int], object]  # called with the number of frames just done


def placed(model: VidTwin) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of the model's weights."""
    parameter = next(model.parameters())
    return parameter.device, parameter.dtype


def iter_windows(path: str | Path, size: int, start: int = 0, stop: int | None = None) -> Iterator[list[Frame]]:
    """Consecutive lists of `size` frames of a file; the last may be shorter."""
    return chunks(iter_frames(path, start, stop), size)


def window_clip(window: list[Frame], geometry: Geometry, size: int) -> Tensor:
    """Frames of a window -> clip (1, 3, size, h, w) in [-1, 1], float32, the tail padded by its last frame."""
    return to_clip(pad_tail(np.stack([frame.image for frame in window]), size), geometry)[None]


@torch.inference_mode()
def encode_video(
    model: VidTwin,
    path: str | Path,
    *,
    policy: str = "crop",
    start: int = 0,
    stop: int | None = None,
    weights: Identity | None = None,
    logvar: bool = False,
    progress: Progress | None = None,
) -> LatentVideo:
    """Encode frames start..stop-1 (default: all) of a video to posterior means.

    `policy` is how frames are fitted to the model: "crop", "squash" or "pad" (`video.clips.Geometry`). `weights` is needed if
    the model was cast to a lower precision (`Identity.of` before it); by default it is taken from the model as it is.

    Raises:
        OSError, ValueError: the video cannot be read, or latents are not finite; one line that names the remedy.
    """
    config, (device, dtype) = model.config, placed(model)
    info = probe(path)
    geometry = Geometry.plan(policy, (info.height, info.width), (config.height, config.width))
    times: list[Fraction] = []
    means: list[Latents] = []
    logvars: list[Latents] = []
    clock = Fraction(1)
    for window in iter_windows(path, config.frames, start, stop):
        posterior = model.posterior(window_clip(window, geometry, config.frames).to(device, dtype))
        means.append(posterior.mean.to("cpu", torch.float32))
        if logvar:
            logvars.append(posterior.logvar.to("cpu", torch.float32))
        times += [frame.time for frame in window]
        clock = window[0].time_base
        if progress:
            progress(len(window))
    return LatentVideo(
        latents=Latents.cat(means),
        logvar=Latents.cat(logvars) if logvar else None,
        frames=len(times),
        fps=info.fps,
        times=None if is_constant_rate(times, info.fps, clock) else [time - times[0] for time in times],
        geometry=geometry,
        config=config,
        weights=weights or Identity.of(model),
        source=Path(path).name,
    )


def is_constant_rate(times: list[Fraction], fps: Fraction, clock: Fraction) -> bool:
    """Whether frame i is shown at i / fps, to one tick of the file's clock (files that count milliseconds round to them).

    Where a tick is a whole frame, as in some AVI files, to a quarter of a frame.
    """
    slack = min(clock, 1 / (4 * fps))
    return all(abs(time - times[0] - index / fps) <= slack for index, time in enumerate(times))


@torch.inference_mode()
def decode_windows(model: VidTwin, video: LatentVideo, only: Part | None = None) -> Iterator[Tensor]:
    """Clips (1, 3, n, h, w), clamped to [-1, 1], float32 on the CPU, without the frames that are padding.

    Raises:
        ValueError: a clip with NaN or infinite values (broken weights, or float16 that overflows).
    """
    device, dtype = placed(model)
    for index, frames in enumerate(video.clip_frames):
        clip = model.decode(video.latents[index : index + 1].to(device, dtype), only=only)
        if not torch.isfinite(clip).all():
            raise ValueError(f"clip {index} decodes to NaN or infinite values; use --dtype float32, or other weights")
        yield clip[:, :, :frames].to("cpu", torch.float32).clamp(-1, 1)


def decode_video(
    model: VidTwin,
    video: LatentVideo,
    out: str | Path,
    *,
    only: Part | None = None,
    crf: int = 18,
    weights: Identity | None = None,
    progress: Progress | None = None,
) -> None:
    """Decode latents to a video file with the source's number of frames and timing.

    Raises:
        ValueError: the latents are of other weights or of another config, or decode to NaN. OSError: `out` cannot be written.
    """
    video.check_weights(weights or Identity.of(model))
    frames = (from_clip(clip[0], video.geometry) for clip in decode_windows(model, video, only))
    write_video(out, frames, video, crf, video.geometry.output_size, progress)


def write_video(
    out: str | Path,
    windows: Iterable[np.ndarray],
    video: LatentVideo,
    crf: int,
    size: tuple[int, int],
    progress: Progress | None = None,
) -> None:
    """Write windows of frames (n, H, W, 3) of the given (height, width) with the timing of `video`."""
    with VideoWriter(out, video.fps, size, crf, video.times) as writer:
        for frames in windows:
            writer.write(frames)
            if progress:
                progress(len(frames))
