"""How far a mean over clips can be trusted: bootstrap intervals in which a video, and not a clip, is what is drawn.

Clips of a video resemble each other; drawn one by one they would make intervals too narrow.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES, LEVEL = 2000, 0.95


class Interval(NamedTuple):
    """A mean, and where it lies with 95 % confidence."""

    mean: float
    low: float
    high: float


def bootstrap_mean(values: Sequence[float], videos: Sequence[str], seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Mean of the values of clips, and its percentile interval: videos are drawn, as many, with replacement, with all their clips.

    With one video the interval is the mean itself: nothing is known of others.

    Args:
        values: of each clip. videos: the video that each clip is of.

    Raises:
        ValueError: no values, or not as many videos as values.
    """
    if not values or len(values) != len(videos):
        raise ValueError(f"{len(values)} values of {len(videos)} clips: give one for each of at least one")
    names, which = np.unique(np.asarray(videos), return_inverse=True)
    sums = np.bincount(which, weights=np.asarray(values, np.float64))
    counts = np.bincount(which)
    drawn = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(np.mean(values)), float(low), float(high))
