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
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vidtwin.evaluation.codecs import Point, check_codecs, codec_curve
from vidtwin.evaluation.controls import dct_control, default_boxes, resize_control, resize_shape
from vidtwin.evaluation.fvd import I3D, I3D_SHA256
from vidtwin.evaluation.pca import PatchPCA
from vidtwin.evaluation.results import Clip, Scores
from vidtwin.frames.clips import Geometry, chunks, frame_interval, pad_tail, to_clip
from vidtwin.latents.entropy import LatentCoder
from vidtwin.losses.lpips import LPIPS, load_lpips
from vidtwin.losses.ms_ssim import TOO_SMALL, ms_ssim
from vidtwin.metrics import clip_psnr, clip_ssim, unit_range
from vidtwin.model.checkpoint import weights_hash
from vidtwin.model.config import VidTwinConfig
from vidtwin.model.latents import Latents, Posterior
from vidtwin.model.vidtwin import VidTwin
from vidtwin.video.read.reader import frame_count, iter_frames, probe

Tail = Literal["repeat", "drop"]
LatentChoice = Literal["mean", "sample"]
Control = Literal["dct", "resize", "pca", "grid"]
CONTROLS: tuple[Control, ...] = ("dct", "resize", "pca", "grid")
MOST_TRAINING_CLIPS = 128
LATENTS = "latents"  # name of their curve beside those of codecs


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


def first_clips(paths: Sequence[Path], config: VidTwinConfig, count: int, spread: bool = False) -> tuple[list[Tensor], list[str]]:
    """The first `count` clips of each video that are whole, (3, F, h, w) in [-1, 1], and the names of the videos they are of.

    With `spread`, `count` of its whole clips that lie evenly in it: of 10 clips 3 are numbers 0, 4 and 9.
    """
    clips, names = [], []
    for path in paths:
        numbers: Sequence[int] = range(count)
        if spread:
            whole = frame_count(path) // config.frames
            numbers = sorted({int(number) for number in np.linspace(0, whole - 1, min(count, whole))})
        found = evaluation_clips(path, *config.clip_shape[1:], tail="drop")
        for number, clip in enumerate(islice(found, max(numbers, default=-1) + 1)):
            if number in numbers:
                clips.append(clip)
                names.append(path.name)
    return clips, names


def training_clips(paths: Sequence[Path], config: VidTwinConfig) -> Iterator[Tensor]:
    """The first whole clip, (3, F, h, w) in [0, 1], of each of up to 128 videos that lie evenly in the list and have one."""
    for path in paths[:: max(1, -(-len(paths) // MOST_TRAINING_CLIPS))]:
        for clip in islice(evaluation_clips(path, *config.clip_shape[1:], tail="drop"), 1):
            yield unit_range(clip)


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which clips, and which latents of them.

    Attributes:
        sample_fps, tail: as in `evaluation_clips`.
        latents: the posterior's mean (as in the paper) or a sample of it (as in the released script).
        seed: of the noise of samples; that of a clip depends on it, the video's name and the clip's number alone.
        controls: what else is scored, with as many values a clip as the latents have.
        first: clips of each video, at most; None takes all.
        codecs: of `codecs.CODECS`, to take curves of rate and distortion of, beside that of the latents.

    Raises:
        ValueError: a choice that there is not.
    """

    sample_fps: float | None = None
    tail: Tail = "repeat"
    latents: LatentChoice = "mean"
    seed: int = 0
    controls: tuple[Control, ...] = ()
    first: int | None = None
    codecs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.tail not in ("repeat", "drop"):
            raise ValueError(f"tail={self.tail!r}: choose 'repeat' or 'drop'")
        if self.latents not in ("mean", "sample"):
            raise ValueError(f"latents={self.latents!r}: choose 'mean' or 'sample'")
        if self.sample_fps is not None and not (math.isfinite(self.sample_fps) and self.sample_fps > 0):
            raise ValueError(f"sample_fps={self.sample_fps!r}: must be a positive number of frames per second, or None for all")
        if unknown := set(self.controls) - set(CONTROLS):
            raise ValueError(f"control {min(unknown)!r} is unknown; choose of {', '.join(CONTROLS)}")
        if self.first is not None and self.first < 1:
            raise ValueError(f"first={self.first}: give at least 1 clip of each video, or None for all")
        check_codecs(self.codecs)

    def interval(self, fps: Fraction) -> int:
        """Every how-manieth frame of a video is taken."""
        return 1 if self.sample_fps is None else frame_interval(fps, self.sample_fps)

    def noise(self, name: str, number: int) -> torch.Generator:
        """Of a clip's sample."""
        digest = hashlib.sha256(f"{self.seed}\n{name}\n{number}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


@dataclasses.dataclass(frozen=True)
class Networks:
    """What some metrics and controls are taken with, besides the model; None for those that are not.

    Attributes:
        lpips: file, as `load_lpips` takes it. i3d: file, as `fvd.I3D`; i3d_sha256: what it must be.
        pca: for the control "pca". grid: for "grid": a folder or name as `VidTwin.from_pretrained` takes, of a model with one
            ordinary latent (`model.ablations`, "a"), or of any other with as many values a clip.
    """

    lpips: str | None = None
    i3d: str | None = None
    i3d_sha256: str = I3D_SHA256
    pca: PatchPCA | None = None
    grid: str | None = None


@dataclasses.dataclass(frozen=True)
class Code:
    """What is kept of a clip until it is decoded, on the CPU: the latents to decode, the posterior, and KL in bits."""

    used: Latents
    posterior: Posterior
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
        OSError, ValueError: as `Rules`, `load_lpips`, `I3D` and `VidTwin.from_pretrained`; a control without what it is taken
            with, or with more values a clip than the model has, or of clips of another size.
    """

    def __init__(self, model: VidTwin, rules: Rules, networks: Networks):
        self.model, self.rules, self.config = model.eval(), rules, model.config
        self.device, self.dtype = model.device, model.dtype
        size, values = self.config.clip_shape[1:], self.config.latent_values
        self._boxes, self._small = default_boxes(values, size), resize_shape(values, size)
        self._lpips: LPIPS | None = None if networks.lpips is None else load_lpips(networks.lpips).to(self.device)
        self._i3d = None if networks.i3d is None else I3D(networks.i3d, self.device, networks.i3d_sha256)
        self._pca = networks.pca if "pca" in rules.controls else None
        self._grid: VidTwin | None = None
        if "pca" in rules.controls and self._pca is None:
            raise ValueError("the control 'pca' learns from clips: give pca, which fit_patch_pca makes of training videos")
        if self._pca is not None and (self._pca.size != size or self._pca.values > values):
            raise ValueError(f"pca of {self._pca.values} values for clips of {self._pca.size}: must be at most {values} for {size}")
        if "grid" in rules.controls:
            if networks.grid is None:
                raise ValueError("the control 'grid' is a model: give grid, the weights of one with a single latent")
            self._grid = VidTwin.from_pretrained(networks.grid).eval().to(self.device, self.dtype)
            of = self._grid.config
            if of.clip_shape[1:] != size or of.latent_values > values:
                raise ValueError(
                    f"grid={networks.grid!r}: {of.latent_values} values for clips of {of.clip_shape[1:]}; give weights with at "
                    f"most {values} for {size}"
                )

    @property
    def controls(self) -> dict[str, dict[str, Any]]:
        """The values a clip of each control that is scored, and what it is."""
        facts: dict[str, dict[str, Any]] = {
            "dct": {"values": self._boxes.values, "luma": list(self._boxes.luma), "chroma": list(self._boxes.chroma)},
            "resize": {"values": 3 * math.prod(self._small), "shape": list(self._small)},
        }
        if self._pca is not None:
            facts["pca"] = self._pca.to_dict()
        if self._grid is not None:
            facts["grid"] = {"values": self._grid.config.latent_values, "weights_hash": weights_hash(self._grid)}
        return {name: facts[name] for name in CONTROLS if name in self.rules.controls}

    @torch.inference_mode()
    def encode(self, name: str, path: Path) -> list[Code]:
        """The latents of every clip of a video. Raises OSError or ValueError for one that cannot be read to its end."""
        codes = []
        for number, x in enumerate(self._clips(path)):
            posterior = self.model.posterior(x[None].to(self.device, self.dtype))
            used = posterior.mean if self.rules.latents == "mean" else posterior.sample(self.rules.noise(name, number))
            bits = posterior.kl_bits()
            kept = posterior.to("cpu", torch.float32)
            codes.append(Code(used.to("cpu"), kept, bits["structure"].item(), bits["dynamics"].item()))
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

    @torch.inference_mode()
    def curves(self, name: str, path: Path, codes: list[Code], coders: Sequence[LatentCoder]) -> list[dict[str, list[Point]]]:
        """Of every clip of a video: rate and distortion of its latents, coded by each of `coders`, and of each codec."""
        curves = []
        for x, code in zip(self._clips(path), codes, strict=True):
            ours = []
            for coder in coders:
                bits = 8 * sum(map(len, coder.encode(code.posterior.mean)))
                x_hat = self._decoded(coder.quantized(code.posterior.mean), None)
                ours.append(Point(coder.step, bits, clip_psnr(x_hat, x.to(self.device))))
            curves.append({LATENTS: ours} | {codec: codec_curve(x, codec) for codec in self.rules.codecs})
        return curves

    def _clips(self, path: Path) -> Iterator[Tensor]:
        frames, height, width = self.config.clip_shape[1:]
        return islice(evaluation_clips(path, frames, height, width, self.rules.sample_fps, self.rules.tail), self.rules.first)

    def _decoded(self, latents: Latents, only: Literal["structure", "dynamics"] | None) -> Tensor:
        return self.model.decode(latents.to(self.device, self.dtype), only)[0].float()

    def _features(self, clip: Tensor) -> np.ndarray | None:
        return None if self._i3d is None else self._i3d(clip[None])[0]

    def _scores(self, x: Tensor, x_hat: Tensor, code: Code, mean: Latents) -> Scores:
        """Of one clip (3, F, h, w)."""
        used = code.used.to(self.device, self.dtype)
        frames = [unit_range(clip).transpose(0, 1) for clip in (x, x_hat)]
        clip = unit_range(x).cpu()
        dct, resize = (name in self.rules.controls for name in ("dct", "resize"))
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
            psnr_pca=None if self._pca is None else clip_psnr(self._pca.control(clip) * 2 - 1, x.cpu()),
            psnr_grid=None if self._grid is None else clip_psnr(self._grid(x[None].to(self.dtype))[0][0].float(), x),
        )

    def _perceptual(self, x: Tensor, x_hat: Tensor) -> float:
        """Mean LPIPS over the frames, a frame at a time: VGG16 takes memory."""
        assert self._lpips is not None
        pairs = zip(x.split(1, dim=1), x_hat.clamp(-1, 1).split(1, dim=1), strict=True)
        return float(np.mean([self._lpips(*(frame.transpose(0, 1) for frame in pair)).item() for pair in pairs]))
