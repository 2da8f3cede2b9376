"""Where a shot ends: a sudden change, measured on small grey pictures."""

import statistics
from collections import deque

import numpy as np

SIDE = 32  # pixels of a thumbnail
LUMA = np.array([0.299, 0.587, 0.114])
LEVELS, RATIO, WINDOW = 10.0, 5.0, 25  # of 255; times the median; frames
MEMORY = WINDOW + 1  # frames before a frame that decide whether it begins a shot


class CutDetector:
    """Tells of each frame, in order, whether it begins a new shot.

    It does if it differs from the one before by more than 10 levels (mean absolute difference of thumbnails, of 255) and by more
    than 5 times the median of the 25 differences before. A flash counts as two cuts; a fade as none. Only the `MEMORY` frames
    before a frame matter: a detector that has seen those says the same as one that has seen all.
    """

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._before: deque[float] = deque(maxlen=WINDOW)

    def __call__(self, image: np.ndarray) -> bool:
        """`image`: uint8 (H, W, 3). The first one begins no new shot."""
        return self.see(thumbnail(image))

    def see(self, picture: np.ndarray) -> bool:
        """The same from the frame's `thumbnail`."""
        last, self._last = self._last, picture
        return last is not None and self.judge(float(np.abs(picture - last).mean()))

    def judge(self, change: float) -> bool:
        """The same from how much a frame differs from the one before, in levels."""
        cut = change > max(LEVELS, RATIO * statistics.median(self._before or [0.0]))
        self._before.append(change)
        return cut


def thumbnail(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> luma (32, 32) in 0..255, of 4 x 4 samples a pixel."""
    rows, columns = (np.linspace(0, side - 1, 4 * SIDE).round().astype(int) for side in image.shape[:2])
    samples = np.ascontiguousarray(image[rows][:, columns]).reshape(SIDE, 4, SIDE, 4, 3)
    return samples.sum(axis=1, dtype=np.uint16).sum(axis=2, dtype=np.uint16) / 16 @ LUMA
