"""Where a shot ends: a sudden change, measured on small grey pictures."""

import statistics
from collections import deque
from collections.abc import Iterable

import numpy as np

SIDE = 32  # pixels of a thumbnail
LUMA = np.array([0.299, 0.587, 0.114])
LEVELS, RATIO, WINDOW = 10.0, 5.0, 25  # of 255; times the median; frames


def find_cuts(changes: Iterable[float]) -> list[int]:
    """Numbers of the frames that begin a new shot. `changes`: how much frames 1, 2, ... differ from the one before, in levels.

    A cut differs by more than 10 levels and by more than 5 times the median of the 25 changes before it. A flash counts as two
    cuts; a fade as none.
    """
    before: deque[float] = deque(maxlen=WINDOW)
    cuts = []
    for number, change in enumerate(changes, 1):
        if change > max(LEVELS, RATIO * statistics.median(before or [0.0])):
            cuts.append(number)
        before.append(change)
    return cuts


def thumbnail(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> luma (32, 32) in 0..255, of 4 x 4 samples a pixel."""
    rows, columns = (np.linspace(0, side - 1, 4 * SIDE).round().astype(int) for side in image.shape[:2])
    samples = image[rows][:, columns].reshape(SIDE, 4, SIDE, 4, 3)
    return samples.mean(axis=(1, 3)) @ LUMA
