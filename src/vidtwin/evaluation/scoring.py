"""One video at a time: its clips, their latents, and how well these decode.

F frames per clip; h, w height and width in pixels. Clips are in [-1, 1], scores are taken in [0, 1].
"""

import dataclasses
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vidtwin.evaluation.controls import dct_control, default_boxes, resize_control, resize_shape
from vidtwin.evaluation.fvd import I3D, I3D_SHA256
from vidtwin.evaluation.metrics import clip_psnr, clip_ssim, unit_range
from vidtwin.evaluation.results import Clip, Scores
from vidtwin.losses.lpips import LPIPS, load_lpips
from vidtwin.losses.ms_ssim import TOO_SMALL, ms_ssim
from vidtwin.model.config import VidTwinConfig
from vidtwin.model.latents import Latents
from vidtwin.model.vidtwin import VidTwin
from vidtwin.video.clips import Geometry, chunks, frame_interval, pad_tail, to_clip
from vidtwin.video.read import iter_frames, probe

Tail = Literal["repeat", "drop"]
LatentChoice = Literal["mean", "sample"]
Control = Literal["dct", "resize"]
CONTROLS: tuple[Control, ...] = ("dct", "resize")


def evaluation_clips(
    path: str | os.PathLike[str],
    frames: int,
    height: int,
    width: int,
    sample_fps: float | None = None,
    tail: Tail = "repeat",
) -> Iterator[Tensor]:
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
    rules = Rules(sample_fps, tail)
    interval = rules.interval(probe(path).fps) if sample_fps is not None else 1
    for chunk in chunks(islice(iter_frames(path), 0, None, interval), frames):
        if len(chunk) == frames or tail == "repeat":
            images = pad_tail(np.stack([frame.image for frame in chunk]), frames)
            yield to_clip(images, Geometry.plan("crop", images.shape[1:3], (height, width)))


def first_clips(paths: Sequence[Path], config: VidTwinConfig, count: int) -> tuple[list[Tensor], list[str]]:
    """The first `count` clips of each video that are whole, (3, F, h, w) in [-1, 1], and the names of the videos they are of."""
    clips, names = [], []
    for path in paths:
        for clip in islice(evaluation_clips(path, *config.clip_shape[1:], tail="drop"), count):
            clips.append(clip)
            names.append(path.name)
    return clips, names


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which clips, and which latents of them.

    Attributes:
        sample_fps, tail: as in `evaluation_clips`.
        latents: the posterior's mean (as in the paper) or a sample of it (as in the released script).
        seed: of the noise of samples; that of a clip depends on it, the video's name and the clip's number alone.
        controls: what else is scored, with as many values a clip as the latents have.

    Raises:
        ValueError: a choice that there is not.
    """

    sample_fps: float | None = None
    tail: Tail = "repeat"
    latents: LatentChoice = "mean"
    seed: int = 0
    controls: tuple[Control, ...] = ()

    def __post_init__(self) -> None:
        if self.tail not in ("repeat", "drop"):
            raise ValueError(f"tail={self.tail!r}: choose 'repeat' or 'drop'")
        if self.latents not in ("mean", "sample"):
            raise ValueError(f"latents={self.latents!r}: choose 'mean' or 'sample'")
        if self.sample_fps is not None and not (math.isfinite(self.sample_fps) and self.sample_fps > 0):
            raise ValueError(f"sample_fps={self.sample_fps!r}: must be a positive number of frames per second, or None for all")
        if unknown := set(self.controls) - set(CONTROLS):
            raise ValueError(f"control {min(unknown)!r} is unknown; choose of {', '.join(CONTROLS)}")

    def interval(self, fps: Fraction) -> int:
        """Every how-manieth frame of a video is taken."""
        return 1 if self.sample_fps is None else frame_interval(fps, self.sample_fps)

    def noise(self, name: str, number: int) -> torch.Generator:
        """Of a clip's sample."""
        digest = hashlib.sha256(f"{self.seed}\n{name}\n{number}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


@dataclasses.dataclass(frozen=True)
class Networks:
    """Files of networks that some metrics are taken with; None for those that are not.

    Attributes:
        lpips: as `load_lpips` takes it. i3d: as `fvd.I3D`; i3d_sha256: what the file must be.
    """

    lpips: str | None = None
    i3d: str | None = None
    i3d_sha256: str = I3D_SHA256


@dataclasses.dataclass(frozen=True)
class Code:
    """What is kept of a clip until it is decoded, on the CPU: the latents to decode, the posterior's mean, and KL in bits."""

    used: Latents
    mean: Latents
    kl_structure: float
    kl_dynamics: float


@dataclasses.dataclass(frozen=True)
class Scored:
    """A clip's scores, and its I3D features (400,) and those of its decoding, if they are taken."""

    clip: Clip
    features: np.ndarray | None
    features_decoded: np.ndarray | None


class Scorer:
    """Encodes and scores the clips of videos with a model, on its device, one at a time.

    Raises:
        OSError, ValueError: as `Rules`, `load_lpips` and `I3D`.
    """

    def __init__(self, model: VidTwin, rules: Rules, networks: Networks):
        self.model, self.rules, self.config = model.eval(), rules, model.config
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        size, values = self.config.clip_shape[1:], self.config.latent_values
        self._boxes, self._small = default_boxes(values, size), resize_shape(values, size)
        self._lpips: LPIPS | None = None if networks.lpips is None else load_lpips(networks.lpips).to(self.device)
        self._i3d = None if networks.i3d is None else I3D(networks.i3d, self.device, networks.i3d_sha256)

    @torch.inference_mode()
    def encode(self, name: str, path: Path) -> list[Code]:
        """The latents of every clip of a video. Raises OSError or ValueError for one that cannot be read to its end."""
        codes = []
        for number, x in enumerate(self._clips(path)):
            posterior = self.model.posterior(x[None].to(self.device, self.dtype))
            used = posterior.mean if self.rules.latents == "mean" else posterior.sample(self.rules.noise(name, number))
            bits = posterior.kl_bits()
            codes.append(Code(used.to("cpu"), posterior.mean.to("cpu"), bits["structure"].item(), bits["dynamics"].item()))
        return codes

    @torch.inference_mode()
    def score(self, name: str, path: Path, codes: list[Code], mean: Latents) -> list[Scored]:
        """Decode the latents of a video's clips and compare with the video; `mean`, (1, ...), is that over all videos."""
        interval = self.rules.interval(probe(path).fps)
        mean = mean.to(self.device, self.dtype)
        scored = []
        for number, (x, code) in enumerate(zip(self._clips(path), codes, strict=True)):
            digest = hashlib.sha256(x.contiguous().numpy().data).hexdigest()
            x_hat = self._decoded(code.used, None)
            first_frame = number * self.config.frames * interval
            clip = Clip(name, first_frame, digest, self._scores(x.to(self.device), x_hat, code, mean))
            scored.append(Scored(clip, self._features(x), self._features(x_hat)))
        return scored

    def _clips(self, path: Path) -> Iterator[Tensor]:
        frames, height, width = self.config.clip_shape[1:]
        return evaluation_clips(path, frames, height, width, self.rules.sample_fps, self.rules.tail)

    def _decoded(self, latents: Latents, only: Literal["structure", "dynamics"] | None) -> Tensor:
        return self.model.decode(latents.to(self.device, self.dtype), only)[0].float()

    def _features(self, clip: Tensor) -> np.ndarray | None:
        return None if self._i3d is None else self._i3d(clip[None])[0]

    def _scores(self, x: Tensor, x_hat: Tensor, code: Code, mean: Latents) -> Scores:
        """Of one clip (3, F, h, w)."""
        used = code.used.to(self.device, self.dtype)
        frames = [unit_range(clip).transpose(0, 1) for clip in (x, x_hat)]
        clip = unit_range(x).cpu()
        dct, resize = (name in self.rules.controls for name in CONTROLS)
        return Scores(
            clips=1,
            psnr=clip_psnr(x_hat, x),
            ssim=clip_ssim(x_hat, x),
            psnr_structure_at_mean=clip_psnr(self._decoded(dataclasses.replace(used, structure=mean.structure), None), x),
            psnr_dynamics_at_mean=clip_psnr(self._decoded(dataclasses.replace(mean, structure=used.structure), None), x),
            psnr_structure_only=clip_psnr(self._decoded(used, "structure"), x),
            psnr_dynamics_only=clip_psnr(self._decoded(used, "dynamics"), x),
            kl_structure=code.kl_structure,
            kl_dynamics=code.kl_dynamics,
            ms_ssim=ms_ssim(*frames).mean().item() if min(x.shape[-2:]) > TOO_SMALL else None,
            lpips=None if self._lpips is None else self._perceptual(x, x_hat),
            psnr_dct=clip_psnr(dct_control(clip, self._boxes) * 2 - 1, x.cpu()) if dct else None,
            psnr_resize=clip_psnr(resize_control(clip, self._small) * 2 - 1, x.cpu()) if resize else None,
        )

    def _perceptual(self, x: Tensor, x_hat: Tensor) -> float:
        """Mean LPIPS over the frames, a frame at a time: VGG16 takes memory."""
        assert self._lpips is not None
        pairs = zip(x.split(1, dim=1), x_hat.clamp(-1, 1).split(1, dim=1), strict=True)
        return float(np.mean([self._lpips(*(frame.transpose(0, 1) for frame in pair)).item() for pair in pairs]))
