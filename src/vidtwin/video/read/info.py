"""What reading a video gives: a frame, and what the file says of itself."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from vidtwin.frames.orientation import UPRIGHT, Orientation
from vidtwin.video.read.decode import TableColumn, TarMember


@dataclass(frozen=True)
class VideoInfo:
    """What a file says about its video.

    Attributes:
        width, height: in square pixels, as displayed: pixel aspect and rotation applied.
        frames: as the container states it, or None. `frame_count` counts.
        fps: average frame rate. duration: seconds, or None.
        rotation: degrees, counterclockwise, that the stored picture is turned by for display.
        color_space: "bt709", "bt601", "bt2020", "fcc", "smpte240m" or "rgb"; color_range: "full" or "limited". Both as
            used, so guessed when the file does not say.
        time_base: seconds of one tick of the frames' timestamps.
        stored_size: (height, width) of the upright picture in the pixels that are stored, which need not be square.
        pixel_aspect: width / height of such a pixel.
        orientation: how the stored picture is turned and mirrored to be upright.
        start_time: seconds on the file's own clock at which its earliest stream begins, sound included; 0 if unknown.
        notes: what of the file is not kept when its frames are read, each in one clause ("is interlaced; ...").
        expected_frames: as stated, else what duration and rate make of it; None if neither is known.
    """

    path: Path | TarMember | TableColumn
    width: int
    height: int
    frames: int | None
    fps: Fraction
    duration: float | None
    codec: str
    pixel_format: str
    rotation: int
    color_space: str
    color_range: str
    has_audio: bool
    time_base: Fraction
    stored_size: tuple[int, int]
    pixel_aspect: Fraction = Fraction(1)
    orientation: Orientation = UPRIGHT
    start_time: Fraction = Fraction(0)
    notes: tuple[str, ...] = ()

    @property
    def expected_frames(self) -> int | None:
        if self.frames is not None or self.duration is None:
            return self.frames
        return round(self.duration * self.fps)


@dataclass(frozen=True)
class Frame:
    """One picture, uint8 (H, W, 3) RGB, when it is shown and for how long, in ticks of `time_base`.

    The duration is what the file states, or 1 / fps; it need not reach up to the next frame.
    """

    image: np.ndarray
    pts: int
    time_base: Fraction
    duration: int = 0

    @property
    def time(self) -> Fraction:
        """Seconds on the file's own clock, which need not start at 0."""
        return self.pts * self.time_base


@dataclass(frozen=True)
class PendingFrame:
    """A `Frame` whose picture is not made yet. Pictures may be made in any order, and several at once in threads.

    `picture(planar)` makes it. Planar ones may lie in memory colour after colour, and are made in one thread, for others to be
    made beside them.
    """

    picture: Callable[[bool], np.ndarray]
    pts: int
    time_base: Fraction
    duration: int = 0

    def frame(self) -> Frame:
        """The frame, made now."""
        return Frame(self.picture(False), self.pts, self.time_base, self.duration)
