"""Mean and standard deviation of each channel of the latents, over a data set, in one pass and mergeable.

Letters: C channels of a latent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vidtwin.checked import fact
from vidtwin.model.latents import NAMES
from vidtwin.model.normalizer import Normalizer

SMALLEST_STD = 1e-6


@dataclass(frozen=True, eq=False)
class Moments:
    """Of C channels: how many values each has, their mean and the sum of squared differences from it, float64 (C,)."""

    count: int
    mean: np.ndarray
    m2: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Moments":
        """Of values (N, C, ...), in float64."""
        flat = np.moveaxis(values.astype(np.float64), 1, 0).reshape(values.shape[1], -1)
        mean = flat.mean(1)
        return cls(flat.shape[1], mean, np.square(flat - mean[:, None]).sum(1))

    @classmethod
    def none(cls, channels: int) -> "Moments":
        return cls(0, np.zeros(channels), np.zeros(channels))

    def merged(self, other: "Moments") -> "Moments":
        """Of both sets of values (Chan, Golub and LeVeque 1979, Eq. 2.1)."""
        count = self.count + other.count
        if count == 0:
            return self
        delta, share = other.mean - self.mean, other.count / count
        return Moments(count, self.mean + delta * share, self.m2 + other.m2 + np.square(delta) * (self.count * share))

    @property
    def std(self) -> np.ndarray:
        """Of the population, (C,)."""
        return np.sqrt(self.m2 / max(1, self.count))

    def to_dict(self) -> dict[str, Any]:
        """Plain values that keep every bit."""
        return {"count": self.count, "mean": self.mean.tolist(), "m2": self.m2.tolist()}

    @staticmethod
    def from_dict(facts: Mapping[str, Any]) -> "Moments":
        """What `to_dict` wrote. Raises ValueError if it is not that."""
        for name in ("mean", "m2"):
            if not all(type(value) in (int, float) and abs(value) < np.inf for value in fact(facts, name, list)):
                raise ValueError(f"{name} is not a list of numbers")
        moments = Moments(fact(facts, "count", int, 0), np.array(facts["mean"], np.float64), np.array(facts["m2"], np.float64))
        if moments.mean.shape != moments.m2.shape or not np.isfinite(moments.mean).all() or not (moments.m2 >= 0).all():
            raise ValueError("not the moments of channels")
        return moments


@dataclass(frozen=True, eq=False)
class Statistics:
    """Moments of the channels of "structure", "dynamics_x" and "dynamics_y"."""

    moments: tuple[Moments, Moments, Moments]

    @classmethod
    def of(cls, tensors: Sequence[np.ndarray]) -> "Statistics":
        """Of the three latents of N windows, (N, C, ...) each."""
        structure, x, y = (Moments.of(tensor) for tensor in tensors)
        return cls((structure, x, y))

    @classmethod
    def none(cls, channels: Sequence[int]) -> "Statistics":
        structure, x, y = (Moments.none(count) for count in channels)
        return cls((structure, x, y))

    def merged(self, other: "Statistics") -> "Statistics":
        structure, x, y = (a.merged(b) for a, b in zip(self.moments, other.moments, strict=True))
        return Statistics((structure, x, y))

    def normalizer(self) -> Normalizer:
        """Of latents with these moments; a channel that does not vary has std 1."""
        mean = [torch.from_numpy(moments.mean).float() for moments in self.moments]
        stds = [np.where(moments.std < SMALLEST_STD, 1.0, moments.std) for moments in self.moments]
        std = [torch.from_numpy(values).float() for values in stds]
        return Normalizer((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each latent."""
        return tuple(len(moments.mean) for moments in self.moments)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that keep every bit."""
        return {name: moments.to_dict() for name, moments in zip(NAMES, self.moments, strict=True)}

    @staticmethod
    def from_dict(facts: Mapping[str, Any]) -> "Statistics":
        """What `to_dict` wrote. Raises ValueError if it is not that."""
        structure, x, y = (Moments.from_dict(fact(facts, name, dict)) for name in NAMES)
        return Statistics((structure, x, y))
