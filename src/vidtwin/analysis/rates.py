"""What each latent costs in bits, and whether Dynamics costs more where more moves.

KL(q || N(0, 1)) of a clip's posterior, in bits: what its latents would cost on average by bits-back coding.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
import torch

from vidtwin.analysis.codes import BATCH, Clips, Codes, Progress, check_count, encode_clips
from vidtwin.model.vidtwin import VidTwin

VIDEOS_NEEDED = 5


@dataclass(frozen=True)
class Rates:
    """KL in bits per clip, means over clips.

    Attributes:
        clips, videos: how many.
        structure, dynamics: of the clips as they are. structure_frozen, dynamics_frozen: of the first frame of each, repeated.
        structure_floor, dynamics_floor: of a clip of flat mid-grey.
        fell: share of clips whose Dynamics costs less when frozen.
        structure_rank, dynamics_rank: Spearman's correlation, over videos, of the latent's bits with the mean absolute
            difference between frames; None if one of them does not vary.
        dynamics_p: of dynamics_rank, two-sided.
        motion: that difference, mean over clips, of a range of 1.
        structure_values, dynamics_values: how many each latent has.
    """

    clips: int
    videos: int
    structure: float
    dynamics: float
    structure_frozen: float
    dynamics_frozen: float
    structure_floor: float
    dynamics_floor: float
    fell: float
    structure_rank: float | None
    dynamics_rank: float | None
    dynamics_p: float | None
    motion: float
    structure_values: int
    dynamics_values: int

    @property
    def structure_per_value(self) -> float | None:
        """Bits of each value of Structure; near 0 if the posterior is the prior, whatever the clip."""
        return self.structure / self.structure_values if self.structure_values else None

    @property
    def dynamics_per_value(self) -> float | None:
        """Bits of each value of Dynamics."""
        return self.dynamics / self.dynamics_values if self.dynamics_values else None

    @property
    def saved(self) -> float | None:
        """The share of Dynamics' bits above its floor that freezing saves: 1 if a frozen clip costs what flat grey costs."""
        above = self.dynamics - self.dynamics_floor
        return (self.dynamics - self.dynamics_frozen) / above if above > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, safe for JSON."""
        return dict(vars(self)) | {name: getattr(self, name) for name in ("saved", "structure_per_value", "dynamics_per_value")}

    def sentence(self) -> str:
        """What was found."""
        rank = (
            "which cannot be ranked with motion"
            if self.dynamics_rank is None
            else f"which ranks with motion at {self.dynamics_rank:.2f} (p = {self.dynamics_p:.2g})"
        )
        way = "" if self.saved is None else f", {100 * self.saved:.0f} % of the way down"
        return (
            f"Structure costs {self.structure:.0f} bits a clip{_each(self.structure_per_value)} and Dynamics {self.dynamics:.0f}"
            f"{_each(self.dynamics_per_value)}, {rank}; a frozen clip's Dynamics "
            f"costs {self.dynamics_frozen:.0f}{way}, and that of flat grey {self.dynamics_floor:.0f}."
        )


def _each(per_value: float | None) -> str:
    return "" if per_value is None else f" ({per_value:.1f} a value)"


def rates(model: VidTwin, clips: Clips, codes: Codes, batch: int = BATCH, progress: Progress | None = None) -> Rates:
    """Bits of clips, of the same clips frozen, and of flat grey.

    Args:
        model, clips, codes: the clips that `codes` are of, and the model that made them.

    Raises:
        ValueError: clips of fewer than 5 videos.
    """
    check_count("the rate of each latent", codes.names, VIDEOS_NEEDED)
    still = encode_clips(model, _Frozen(clips), codes.names, batch, progress)
    flat = encode_clips(model, torch.zeros_like(clips[0])[None])
    moving, frozen, floor = bits(codes), bits(still), bits(flat)
    motion = np.array([frame_difference(clips[i]) for i in range(len(clips))])
    ranks = {name: _rank(_by_video(values, codes.groups), _by_video(motion, codes.groups)) for name, values in moving.items()}
    return Rates(
        clips=len(codes),
        videos=len(set(codes.names)),
        structure=float(moving["structure"].mean()),
        dynamics=float(moving["dynamics"].mean()),
        structure_frozen=float(frozen["structure"].mean()),
        dynamics_frozen=float(frozen["dynamics"].mean()),
        structure_floor=float(floor["structure"][0]),
        dynamics_floor=float(floor["dynamics"][0]),
        fell=float((frozen["dynamics"] < moving["dynamics"]).mean()),
        structure_rank=ranks["structure"][0],
        dynamics_rank=ranks["dynamics"][0],
        dynamics_p=ranks["dynamics"][1],
        motion=float(motion.mean()),
        structure_values=codes.structure.shape[1],
        dynamics_values=codes.dynamics.shape[1],
    )


class _Frozen:
    """Clips of each one's first frame."""

    def __init__(self, clips: Clips):
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> torch.Tensor:
        clip = self.clips[index]
        return clip[:, :1].expand_as(clip)


def bits(codes: Codes) -> dict[str, np.ndarray]:
    """KL in bits of "structure" and "dynamics" of each clip: float64 (N,)."""
    return {name: cost.numpy() for name, cost in codes.posterior.kl_bits().items()}


def frame_difference(clip: torch.Tensor) -> float:
    """Mean absolute difference between frames that follow each other, of (3, F, H, W) in [-1, 1], for a range of 1."""
    return float(clip.diff(dim=1).abs().double().mean()) / 2


def _by_video(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return np.array([values[groups == group].mean() for group in np.unique(groups)])


def _rank(x: np.ndarray, y: np.ndarray) -> tuple[float | None, float | None]:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None, None
    result = scipy.stats.spearmanr(x, y)
    return float(result.statistic), float(result.pvalue)
