"""Reconstruct, swap, interpolate: what the command line does with whole videos, as functions."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from pathlib import Path

import numpy as np

from vidtwin.evaluation.metrics import SSIM_WINDOW, frame_psnr, frame_ssim
from vidtwin.files import check_writable
from vidtwin.inference.latent_video import Identity, LatentVideo
from vidtwin.inference.windows import Progress, decode_windows, encode_video, iter_windows, window_clip, write_video
from vidtwin.model.latents import Latents
from vidtwin.model.vidtwin import VidTwin
from vidtwin.video.clips import content, from_clip
from vidtwin.video.panels import LABEL_HEIGHT, side_by_side

PANELS = ("original", "reconstruction", "structure only", "dynamics only")


@dataclass(frozen=True)
class Report:
    """What a reconstruction was and how good it is.

    `psnr` (dB, per frame, mean; capped at 80) and `ssim` compare the model's output with its input, resized frames in [0, 1],
    without padding and before H.264. `ssim` is None for pictures under 11 pixels. `latent_values` are of the whole video;
    `compression_rate` is the model's (values per clip / 3 F H W). `seconds` include reading and writing.
    """

    frames: int
    fps: Fraction
    source_size: tuple[int, int]
    output_size: tuple[int, int]
    geometry: str
    latent_values: int
    compression_rate: float
    psnr: float
    ssim: float | None
    seconds: float

    def table(self) -> str:
        """The report as aligned lines for people."""
        (H, W), (h, w) = self.source_size, self.output_size
        rows = {
            "frames": f"{self.frames} at {float(self.fps):g} per second",
            "size": f"{W}x{H} in, {w}x{h} out",
            "geometry": self.geometry,
            "latent values": f"{self.latent_values}",
            "rate": f"{self.compression_rate:.4%} of the model's input values",
            "PSNR": f"{self.psnr:.2f} dB",
            "SSIM": "not measured: the picture is smaller than 11 pixels" if self.ssim is None else f"{self.ssim:.4f}",
            "seconds": f"{self.seconds:.1f} ({self.frames / self.seconds:.1f} frames per second)",
        }
        return "\n".join(f"{name:14}{value}" for name, value in rows.items())


def reconstruct(
    model: VidTwin,
    path: str | Path,
    out: str | Path,
    *,
    policy: str = "crop",
    start: int = 0,
    stop: int | None = None,
    panels: bool = False,
    crf: int = 18,
    weights: Identity | None = None,
    progress: Progress | None = None,
) -> Report:
    """Encode and decode a whole video; with `panels`, write original | reconstruction | structure only | dynamics only.

    `weights` is as in `encode_video`: give it if it is known, it saves hashing them. `progress` is called twice per frame: when
    it was encoded and when it was decoded.

    Raises:
        OSError, ValueError: the video cannot be read or the output not written; one line with the remedy.
    """
    check_writable(out)
    begun = time.perf_counter()
    video = encode_video(model, path, policy=policy, start=start, stop=stop, weights=weights, progress=progress)
    geometry, size = video.geometry, video.config.frames
    decibels: list[float] = []
    similarity: list[float] = []

    def windows() -> Iterator[np.ndarray]:
        decoded = [decode_windows(model, video)]
        if panels:
            decoded += [decode_windows(model, video, "structure"), decode_windows(model, video, "dynamics")]
        for window, *clips in zip(iter_windows(path, size, start, stop), *decoded, strict=True):
            x = window_clip(window, geometry, size)[0][:, : len(window)]
            a, b = content(x, geometry), content(clips[0][0], geometry)
            decibels.extend(frame_psnr(a, b).tolist())
            if min(a.shape[-2:]) >= SSIM_WINDOW:
                similarity.extend(frame_ssim(a, b).tolist())
            frames = [from_clip(clip, geometry) for clip in (x, *(clip[0] for clip in clips))]
            yield side_by_side(dict(zip(PANELS, frames, strict=True))) if panels else frames[1]

    height, width = geometry.output_size
    write_size = (height + LABEL_HEIGHT, len(PANELS) * width) if panels else (height, width)
    write_video(out, windows(), video, crf, write_size, progress)
    return Report(
        frames=video.frames,
        fps=video.fps,
        source_size=geometry.source,
        output_size=(height, width),
        geometry=geometry.describe(),
        latent_values=sum(map(prod, video.latents.shapes)),
        compression_rate=video.config.compression_rate,
        psnr=float(np.mean(decibels)),
        ssim=float(np.mean(similarity)) if similarity else None,
        seconds=time.perf_counter() - begun,
    )


def swap(structure: LatentVideo, dynamics: LatentVideo) -> LatentVideo:
    """The Structure of one video with the Dynamics of another (the paper's cross-reenactment, Sec. 4.4).

    Frames, timing and geometry are those of `structure`, cut to the shorter of the two.

    Raises:
        ValueError: the two were encoded with different weights.
    """
    dynamics.check_weights(structure.weights)
    frames = min(structure.frames, dynamics.frames)
    a, b = structure.truncated(frames), dynamics.truncated(frames)
    return replace(a, latents=Latents(a.latents.structure, b.latents.dynamics_x, b.latents.dynamics_y), logvar=None)


def interpolate(a: LatentVideo, b: LatentVideo, steps: int, part: str = "both") -> list[LatentVideo]:
    """`steps` videos from `a` to `b`, linear in the latents: both, or "structure" or "dynamics" alone (the other stays a's).

    Frames, timing and geometry are those of `a`, cut to the shorter of the two.

    Raises:
        ValueError: steps < 2, an unknown part, or two videos of different weights.
    """
    if steps < 2:
        raise ValueError(f"--steps {steps}: give at least 2, the two videos themselves")
    if part not in ("both", "structure", "dynamics"):
        raise ValueError(f"--part {part}: choose both, structure or dynamics")
    b.check_weights(a.weights)
    frames = min(a.frames, b.frames)
    a, b = a.truncated(frames), b.truncated(frames)
    videos = []
    for step in range(steps):
        mixed = a.latents.lerp(b.latents, step / (steps - 1))
        if part == "structure":
            mixed = Latents(mixed.structure, a.latents.dynamics_x, a.latents.dynamics_y)
        if part == "dynamics":
            mixed = Latents(a.latents.structure, mixed.dynamics_x, mixed.dynamics_y)
        videos.append(replace(a, latents=mixed, logvar=None))
    return videos


def decode_row(
    model: VidTwin,
    videos: list[LatentVideo],
    out: str | Path,
    *,
    crf: int = 18,
    weights: Identity | None = None,
    progress: Progress | None = None,
) -> None:
    """Decode at least two videos of equal length next to each other, from the first to the last.

    Raises:
        ValueError: as `decode_video`; more videos than fit a row. OSError: `out` cannot be written.
    """
    identity = weights or Identity.of(model)
    for video in videos:
        video.check_weights(identity)
    geometry = videos[0].geometry
    labels = [f"{index / (len(videos) - 1):.2f}" for index in range(len(videos))]
    rows = zip(*(decode_windows(model, video) for video in videos), strict=True)
    frames = (
        side_by_side({label: from_clip(clip[0], geometry) for label, clip in zip(labels, clips, strict=True)}) for clips in rows
    )
    height, width = geometry.output_size
    write_video(out, frames, videos[0], crf, (height + LABEL_HEIGHT, len(videos) * width), progress)
