"""The scores of an evaluation, clip by clip, with the protocol they were taken by, and the hash that identifies the data."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vidtwin.evaluation.bootstrap import Interval, bootstrap_mean
from vidtwin.evaluation.codecs import Point
from vidtwin.files import in_line

DIGITS = 6  # of every number in a file: what is beyond is rounding, and differs between machines


@dataclasses.dataclass(frozen=True)
class Scores:
    """Means over the frames of a clip, then over clips. PSNR in dB (80 for identical frames), SSIM in [-1, 1].

    Attributes:
        clips: how many clips the means are taken over.
        psnr, ssim: of the full decoding. ms_ssim, lpips: the same; None where they were not measured.
        psnr_structure_at_mean: of the decoding in which z_S is replaced by its mean over all evaluated clips.
        psnr_dynamics_at_mean: the same for both halves of z_D.
        psnr_structure_only, psnr_dynamics_only: of the decodings of one branch's feature alone, u_S or u_D.
        kl_structure, kl_dynamics: KL(q || N(0, 1)) in bits of a clip: what the latents cost with ideal coding of samples.
        psnr_dct, psnr_resize, psnr_pca, psnr_grid: of the controls with as many values a clip; None where they were not asked for.
    """

    clips: int
    psnr: float
    ssim: float
    psnr_structure_at_mean: float
    psnr_dynamics_at_mean: float
    psnr_structure_only: float
    psnr_dynamics_only: float
    kl_structure: float
    kl_dynamics: float
    ms_ssim: float | None = None
    lpips: float | None = None
    psnr_dct: float | None = None
    psnr_resize: float | None = None
    psnr_pca: float | None = None
    psnr_grid: float | None = None

    @property
    def lost_without_structure(self) -> float:
        """PSNR in dB that is lost when z_S says nothing about the clip."""
        return self.psnr - self.psnr_structure_at_mean

    @property
    def lost_without_dynamics(self) -> float:
        """PSNR in dB that is lost when z_D says nothing about the clip."""
        return self.psnr - self.psnr_dynamics_at_mean

    def metrics(self) -> dict[str, float]:
        """What was measured, by name."""
        lost = {name: getattr(self, name) for name in ("lost_without_structure", "lost_without_dynamics")}
        values = {name: value for name, value in dataclasses.asdict(self).items() if name != "clips" and value is not None}
        return values | lost


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip: its video, the number of its first frame there, SHA-256 of what was fitted to the model (float32), its scores."""

    video: str
    first_frame: int
    sha256: str
    scores: Scores


@dataclasses.dataclass(frozen=True)
class Result:
    """Scores of every clip, with the protocol they were taken by.

    Attributes:
        protocol: what is needed to take the numbers again: model, weights, data, clip rules, dtype, device, versions.
        clips: in the order of the videos given.
        distances: FVD and KVD of all clips, with their number and floor; empty if not measured.
        failures: the names of videos that gave no clips, with the reason.
        missing: metrics that were not measured, with what is missing.
        run: date, seconds and processes, which the same numbers may differ in.
        rate_distortion: the curves of "latents" and of codecs, means over clips; empty if not measured.
    """

    protocol: dict[str, Any]
    clips: tuple[Clip, ...]
    distances: dict[str, float]
    failures: dict[str, str]
    missing: dict[str, str]
    run: dict[str, Any]
    rate_distortion: dict[str, list[Point]] = dataclasses.field(default_factory=dict)

    @cached_property
    def videos(self) -> dict[str, Scores]:
        """Scores by the video's name: its path below the folder that all have in common."""
        names = dict.fromkeys(clip.video for clip in self.clips)
        return {name: mean_scores([clip.scores for clip in self.clips if clip.video == name]) for name in names}

    @cached_property
    def overall(self) -> Scores:
        """Over all clips (not over videos: a long video counts more)."""
        return mean_scores([clip.scores for clip in self.clips])

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Mean and 95 % bootstrap interval of each metric; videos are drawn, with all their clips."""
        videos, rows = [clip.video for clip in self.clips], [clip.scores.metrics() for clip in self.clips]
        return {name: bootstrap_mean([row[name] for row in rows], videos) for name in self.overall.metrics()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, safe for JSON, numbers to `DIGITS`. All but `run` is the same for the same work."""
        return {
            "protocol": self.protocol,
            "overall": {"clips": self.overall.clips} | rounded(self.overall.metrics()),
            "intervals": {name: rounded(interval._asdict()) for name, interval in self.intervals.items()},
            "distances": rounded(self.distances),
            "rate_distortion": {
                name: [rounded(dataclasses.asdict(point)) for point in points] for name, points in self.rate_distortion.items()
            },
            "missing": self.missing,
            "videos": {name: {"clips": scores.clips} | rounded(scores.metrics()) for name, scores in self.videos.items()},
            "failures": self.failures,
            "clips": [
                {"video": clip.video, "first_frame": clip.first_frame, "sha256": clip.sha256} | rounded(clip.scores.metrics())
                for clip in self.clips
            ],
            "run": self.run,
        }

    def table(self) -> str:
        """For people: each metric with its interval, and by what protocol."""
        lines = [f"{'':24}{'mean':>10}{'95 % interval':>24}"]
        for name, (mean, low, high) in self.intervals.items():
            n = digits(name)
            lines.append(f"{name:24}{mean:10.{n}f}{f'{low:.{n}f} to {high:.{n}f}':>24}{unit(name)}")
        if self.distances:
            for name in ("fvd", "kvd"):
                floor = f"{self.distances[f'{name}_of_real_halves']:.4f} between halves of the real ones"
                lines.append(f"{name:24}{self.distances[name]:10.4f}  of {self.distances['clips']} clips; {floor}")
        for name, points in self.rate_distortion.items():
            lines.append(f"{name:24}{', '.join(f'{p.psnr:.2f} dB at {p.bits / 1000:.1f} kbit' for p in points)}")
        lines += [f"{name:24}not measured: {reason}" for name, reason in self.missing.items()]
        lines += [f"{'failed':24}{in_line(name)}: {in_line(reason)}" for name, reason in self.failures.items()]
        p, run = self.protocol, self.run
        kind = f"{p['clips']} clips of {p['model']['frames']} frames from {p['videos']} videos, rate {p['sample_fps']}"
        lines.append(f"{'protocol':24}{kind}, tail {p['tail']}, latents {p['latents']}, {p['dtype']} on {p['device']}")
        lines.append(f"{'values':24}{p['latent_values']} a clip, {p['compression_rate']:.4%} of the pixels' values")
        lines.append(f"{'speed':24}{run['frames_per_second']} frames per second, all metrics included; {run['seconds']} s")
        return "\n".join(lines)


def unit(name: str) -> str:
    """Of a metric."""
    return "  dB" if name.startswith(("psnr", "lost")) else "  bits a clip" if name.startswith("kl") else ""


def digits(name: str) -> int:
    """Of a metric, shown behind the point."""
    return 0 if name.startswith("kl") else 4


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Each to `DIGITS` digits behind the point; whole numbers stay as they are."""
    return {name: value if isinstance(value, int) else round(value, DIGITS) for name, value in values.items()}


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """The mean of the scores of single clips (at least one); None where a clip has none."""
    means: dict[str, Any] = {}
    for field in dataclasses.fields(Scores):
        values = [getattr(score, field.name) for score in scores]
        means[field.name] = None if None in values else float(np.mean(values))
    return Scores(**means | {"clips": len(scores)})


def list_hash(paths: Sequence[str | os.PathLike[str]]) -> str:
    """sha256 over the names and sizes in bytes of the files, in order: tells whether two results used the same list."""
    digest = hashlib.sha256()
    for path in map(Path, paths):
        digest.update(f"{path.name}\t{path.stat().st_size}\n".encode())
    return digest.hexdigest()
