"""Videos that are made on the spot."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vidtwin.video.write.encoding import Encoding
from vidtwin.video.write.writer import VideoWriter


def moving(frames: int, height: int = 48, width: int = 80, cuts: Sequence[int] = ()) -> np.ndarray:
    """A gradient with a bright square that moves: uint8 (F, H, W, 3); from each cut on the gradient is another."""
    video = np.zeros((frames, height, width, 3), np.uint8)
    video[..., 0] = np.linspace(40, 200, width, dtype=np.uint8)
    for number, cut in enumerate(cuts):
        video[cut:, ..., number % 2 + 1] = 90 + 60 * (number % 3)
    for index in range(frames):
        left = 3 * index % max(1, width - 12)
        video[index, height // 5 : height // 2, left : left + 12] = (250, 240, 30)
    return video


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(frames, fps, name, ticks, **moving's) -> path of a video."""

    def write(
        frames: int,
        fps: Fraction = Fraction(25),
        name: str = "in.mp4",
        ticks: Sequence[int] | None = None,
        clock: Fraction | None = None,
        **pictures: int | Sequence[int],
    ) -> Path:
        video = moving(frames, **pictures)
        with VideoWriter(tmp_path / name, fps, video.shape[1:3], Encoding(), clock=clock) as writer:
            writer.write(video, ticks)
        return tmp_path / name

    return write
