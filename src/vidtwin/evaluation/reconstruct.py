"""How well a model reconstructs videos, by the protocol of the released evaluation, and what each latent adds.

B batch; F frames per clip; h, w height and width in pixels. Clips are in [-1, 1], scores are taken in [0, 1].
"""

import dataclasses
import datetime
import math
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from vidtwin.checkpoint import weights_hash
from vidtwin.evaluation.metrics import clip_psnr, clip_ssim
from vidtwin.evaluation.results import Result, Scores, list_hash, mean_scores
from vidtwin.model.latents import Latents
from vidtwin.model.vidtwin import VidTwin
from vidtwin.version import __version__
from vidtwin.video.clips import Geometry, chunks, frame_interval, pad_tail, to_clip
from vidtwin.video.read import iter_frames, probe

Tail = Literal["repeat", "drop"]
LatentChoice = Literal["mean", "sample"]
StrPath = str | os.PathLike[str]
Progress = Callable[[int, int], None]


def evaluation_clips(
    path: StrPath,
    frames: int,
    height: int,
    width: int,
    sample_fps: float | None = None,
    tail: Tail = "repeat",
) -> Iterator[torch.Tensor]:
    """The clips of a video that the released evaluation scores: consecutive, not overlapping.

    Every interval-th frame is taken from the first on, interval = max(1, round(native rate / sample_fps)); the shorter
    side is resized (bilinear, antialiased) and the centre cropped. Example: 40 frames, clips of 16, interval 1 ->
    frames 0-15, 16-31, and 32-39 with frame 39 repeated 8 times ("repeat") or not at all ("drop").

    Args:
        path: a video file.
        frames, height, width: size of a clip, that of the model's config.
        sample_fps: frames per second to sample at; None takes every frame.
        tail: what happens to the frames left over at the end. A repeated frame is easy and flatters PSNR.

    Yields:
        float32 (3, F, h, w) in [-1, 1], one clip at a time; the video is decoded as they are asked for.

    Raises:
        ValueError: an unknown tail rule, a sample rate that is not positive, or what `vidtwin.video` raises for a file
            that is not a readable video.
        OSError: the file cannot be opened.
    """
    _check_rules(tail, sample_fps)
    interval = 1 if sample_fps is None else frame_interval(probe(path).fps, sample_fps)

    for chunk in chunks(islice(iter_frames(path), 0, None, interval), frames):
        if len(chunk) == frames or tail == "repeat":
            images = pad_tail(np.stack([frame.image for frame in chunk]), frames)
            yield to_clip(images, Geometry.plan("crop", images.shape[1:3], (height, width)))


def _check_rules(tail: str, sample_fps: float | None) -> None:
    if tail not in ("repeat", "drop"):
        raise ValueError(f"tail={tail!r}: choose 'repeat' or 'drop'")
    if sample_fps is not None and not (math.isfinite(sample_fps) and sample_fps > 0):
        raise ValueError(f"sample_fps={sample_fps!r}: must be a positive number of frames per second, or None for all")


@torch.inference_mode()
def evaluate(
    model: VidTwin,
    paths: Sequence[StrPath],
    *,
    tail: Tail = "repeat",
    latents: LatentChoice = "mean",
    seed: int = 0,
    device: str | torch.device | None = None,
    sample_fps: float | None = None,
    weights: str = "unnamed",
    progress: Progress | None = None,
) -> Result:
    """Reconstruct every clip of the videos and score the full decoding and each branch's share of it.

    The videos are read twice: first to encode, then, when the mean of each latent over all clips is known, to decode.
    A video that cannot be read, or that gives no clip, is listed under `failures` and counts nowhere. With a single
    clip the mean is that clip's own latent, and the branches seem to cost nothing.

    Args:
        model: a VidTwin; left in evaluation mode or not, as it was.
        paths: the videos.
        tail, sample_fps: see `evaluation_clips`.
        latents: the posterior's mean (as in the paper) or a sample of it (as in the released script).
        seed: of the noise for samples, drawn on the CPU, clip after clip.
        device: moves the model there first; None leaves it where it is.
        weights: name of the weights for the protocol.
        progress: called with (done, total) after each video of each of the two passes; total is twice the videos.

    Raises:
        ValueError: an unknown choice, no videos, one listed twice, or none that gives a clip.
    """
    if latents not in ("mean", "sample"):
        raise ValueError(f"latents={latents!r}: choose 'mean' or 'sample'")
    _check_rules(tail, sample_fps)
    videos = video_names(paths)
    if device is not None:
        model = model.to(device)
    was_training = model.training
    model.eval()
    try:
        run = _Run(model, videos, tail, sample_fps, progress)
        codes = run.encode(torch.Generator().manual_seed(seed) if latents == "sample" else None)
        if not codes:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(run.failures.items())[:3])
            raise ValueError(f"none of {len(videos)} videos gave a clip ({reasons}); check the files or tail={tail!r}")
        scored = run.score(codes)
    finally:
        model.train(was_training)
    overall = mean_scores([scores for clips in scored.values() for scores in clips])
    parameter = next(model.parameters())
    protocol = {
        "weights": weights,
        "weights_sha256": weights_hash(model),
        "model": model.config.to_dict(),
        "list_sha256": list_hash([videos[name] for name in codes]),
        "videos": len(codes),
        "clips": overall.clips,
        "frames": overall.clips * model.config.frames,
        "sample_fps": "native" if sample_fps is None else sample_fps,
        "resize": f"shorter side, bilinear with antialias, centre crop {model.config.height}x{model.config.width}",
        "range": "clamped to [-1, 1], scored in [0, 1], not rounded to 8 bits",
        "mean": "over frames, then clips",
        "tail": tail,
        "latents": latents,
        "seed": seed if latents == "sample" else None,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": str(parameter.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "vidtwin": __version__},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    return Result(protocol, {name: mean_scores(clips) for name, clips in scored.items()}, overall, run.failures)


@dataclasses.dataclass(frozen=True)
class _Code:
    """What is kept of a clip between the passes, on the CPU: the latents to decode and the posterior's mean."""

    used: Latents
    mean: Latents


class _Run:
    """The two passes of `evaluate` over the videos, given as name -> path."""

    def __init__(self, model: VidTwin, videos: dict[str, Path], tail: Tail, sample_fps: float | None, progress: Progress | None):
        self.model, self.videos, self.tail, self.sample_fps = model, videos, tail, sample_fps
        self.progress, self.passed = progress, 0
        self.failures: dict[str, str] = {}
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    def encode(self, generator: torch.Generator | None) -> dict[str, list[_Code]]:
        """First pass: the latents of every clip of every video that can be read to its end."""
        codes = {}
        for name in self.videos:
            clips = []
            for x in self._clips(name):
                posterior = self.model.posterior(x)
                used = posterior.mean if generator is None else posterior.sample(generator)
                clips.append(_Code(used.to("cpu"), posterior.mean.to("cpu")))
            if clips and name not in self.failures:
                codes[name] = clips
            elif not clips:
                self.failures.setdefault(name, f"gives fewer than {self.model.config.frames} frames, dropped as a tail")
            self._advance()
        return codes

    def score(self, codes: dict[str, list[_Code]]) -> dict[str, list[Scores]]:
        """Second pass: decode and compare with the video."""
        means = Latents.cat([code.mean for clips in codes.values() for code in clips])
        mean = means.map(lambda tensor: tensor.double().mean(dim=0, keepdim=True)).to(self.dtype).to(self.device)
        scored = {}
        for name in self.videos:
            if name in codes:
                pairs = zip(self._clips(name), codes[name], strict=True)
                scored[name] = [self._clip_scores(x, code.used.to(self.device), mean) for x, code in pairs]
            self._advance()
        return scored

    def _advance(self) -> None:
        self.passed += 1
        if self.progress is not None:
            self.progress(self.passed, 2 * len(self.videos))

    def _clips(self, name: str) -> Iterator[torch.Tensor]:
        """The clips (1, 3, F, h, w) of a video; an unreadable one ends early and is noted in `failures`."""
        path, config = self.videos[name], self.model.config
        try:
            for clip in evaluation_clips(path, config.frames, config.height, config.width, self.sample_fps, self.tail):
                yield clip[None].to(self.device, self.dtype)
        except (OSError, ValueError) as error:
            self.failures[name] = str(error).replace(str(path), name)

    def _clip_scores(self, x: torch.Tensor, code: Latents, mean: Latents) -> Scores:
        """Of one clip (1, 3, F, h, w)."""
        decode = self.model.decode
        full, x = decode(code)[0], x[0]
        return Scores(
            clips=1,
            psnr=clip_psnr(full, x),
            ssim=clip_ssim(full, x),
            psnr_structure_at_mean=clip_psnr(decode(dataclasses.replace(code, structure=mean.structure))[0], x),
            psnr_dynamics_at_mean=clip_psnr(decode(dataclasses.replace(mean, structure=code.structure))[0], x),
            psnr_structure_only=clip_psnr(decode(code, only="structure")[0], x),
            psnr_dynamics_only=clip_psnr(decode(code, only="dynamics")[0], x),
        )


def video_names(paths: Sequence[StrPath]) -> dict[str, Path]:
    """Short names for the videos: their paths below the folder that all have in common."""
    if not paths:
        raise ValueError("no videos to evaluate; give at least one path")
    files = [Path(path).absolute() for path in paths]
    folder = os.path.commonpath([path.parent for path in files])
    videos = {path.relative_to(folder).as_posix(): path for path in files}
    if len(videos) < len(files):
        twice = next(path for path in files if files.count(path) > 1)
        raise ValueError(f"{twice}: listed more than once; give every video once")
    return videos
