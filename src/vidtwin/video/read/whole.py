"""All frames of a video at once."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from vidtwin.video.read.info import VideoInfo


@dataclass(frozen=True)
class Video:
    """Frames uint8 (F, H, W, 3) RGB, their times in seconds (strictly increasing), frames per second, and the file.

    A notebook plays it (`video.inline.preview`).
    """

    frames: np.ndarray
    times: list[Fraction]
    fps: Fraction
    info: VideoInfo

    def __repr__(self) -> str:
        return f"Video({str(self.info.path)!r}, frames uint8 {self.frames.shape}, {float(self.fps):g} per second)"

    def _repr_html_(self) -> str:
        from vidtwin.video.inline import preview  # it writes videos, which reads them

        return preview(self.frames, self.fps, repr(self))
