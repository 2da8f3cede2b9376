"""The scores of an evaluation, with the protocol they were taken by, and the hash that identifies the data."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Scores:
    """Means over the frames of a clip, then over clips. PSNR in dB (80 for identical frames), SSIM in [-1, 1].

    Attributes:
        clips: how many clips the means are taken over.
        psnr, ssim: of the full decoding.
        psnr_structure_at_mean: of the decoding in which z_S is replaced by its mean over all evaluated clips.
        psnr_dynamics_at_mean: the same for both halves of z_D.
        psnr_structure_only, psnr_dynamics_only: of the decodings of one branch's feature alone, u_S or u_D.
    """

    clips: int
    psnr: float
    ssim: float
    psnr_structure_at_mean: float
    psnr_dynamics_at_mean: float
    psnr_structure_only: float
    psnr_dynamics_only: float

    @property
    def lost_without_structure(self) -> float:
        """PSNR in dB that is lost when z_S says nothing about the clip."""
        return self.psnr - self.psnr_structure_at_mean

    @property
    def lost_without_dynamics(self) -> float:
        """PSNR in dB that is lost when z_D says nothing about the clip."""
        return self.psnr - self.psnr_dynamics_at_mean


@dataclasses.dataclass(frozen=True)
class Result:
    """Scores of every video and of all clips, with the protocol they were taken by.

    Attributes:
        protocol: what is needed to take the numbers again: model, weights, data, clip rules, dtype, device, versions.
        videos: scores by the video's name (its path below the folder that all have in common), in the order given.
        overall: scores over all clips (not over videos: a long video counts more).
        failures: the names of videos that gave no clips, with the reason.
    """

    protocol: dict[str, Any]
    videos: dict[str, Scores]
    overall: Scores
    failures: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, safe for JSON."""
        videos = {name: _scores_to_dict(scores) for name, scores in self.videos.items()}
        overall = _scores_to_dict(self.overall)
        return {"protocol": self.protocol, "overall": overall, "videos": videos, "failures": self.failures}


def mean_scores(scores: list[Scores]) -> Scores:
    """The mean of the scores of single clips (at least one)."""
    names = [field.name for field in dataclasses.fields(Scores) if field.name != "clips"]
    means = {name: float(np.mean([getattr(score, name) for score in scores])) for name in names}
    return Scores(clips=len(scores), **means)


def list_hash(paths: Sequence[str | os.PathLike[str]]) -> str:
    """sha256 over the names and sizes in bytes of the files, in order: tells whether two results used the same list."""
    digest = hashlib.sha256()
    for path in map(Path, paths):
        digest.update(f"{path.name}\t{path.stat().st_size}\n".encode())
    return digest.hexdigest()


def _scores_to_dict(scores: Scores) -> dict[str, float]:
    lost = {name: getattr(scores, name) for name in ("lost_without_structure", "lost_without_dynamics")}
    return dataclasses.asdict(scores) | lost
