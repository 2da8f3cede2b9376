"""Videos as people hold them: tensors or arrays in the orders in use, uint8 or floating, checked and never guessed; and files."""

import os
import sys
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vidtwin.model.vidtwin import RANGE_SLACK

if TYPE_CHECKING:
    from vidtwin.data.recording import Recording

T = TypeVar("T")
ORDERS = {5: ("BTCHW", "BCTHW", "BTHWC"), 4: ("TCHW", "CTHW", "THWC"), 3: ("CHW", "HWC")}
RANGES = {"unit": (0, 1), "symmetric": (-1, 1)}


class FileFrames:
    """Frames of a video file or a recording as uint8 (3, H, W), by number, of which only the last `kept` are in memory.

    Raises:
        OSError, ValueError: it cannot be read, in one line that names it.
    """

    device = torch.device("cpu")

    def __init__(self, video: "str | os.PathLike[str] | Recording", kept: int):
        from vidtwin.data.recording import Recording  # these need a video library; the rest of the package does not
        from vidtwin.video.read.decode import TableColumn
        from vidtwin.video.read.random_access import timestamp
        from vidtwin.video.read.reader import frame_count, iter_frames, probe

        recording = video if isinstance(video, Recording) else Recording(Path(video))
        file, start = recording.file, recording.start
        if recording.problem:
            raise ValueError(f"{recording.name}: {recording.problem}")
        info = probe(file)
        stop = frame_count(file) if recording.stop is None else recording.stop
        before = timestamp(file, start - 1) if start and not isinstance(file, TableColumn) else None
        self.name, self.shape = recording.name, (stop - start, 3, info.height, info.width)
        self._frames, self._seen, self._next = iter_frames(file, start, stop, last_pts=before), deque[Tensor](maxlen=kept), 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, place: int) -> Tensor:
        while self._next <= place:
            frame = next(self._frames, None)
            if frame is None:
                raise ValueError(f"{self.name}: only {self._next} of {len(self)} frames could be read; get it again")
            self._seen.append(torch.from_numpy(np.ascontiguousarray(frame.image)).permute(2, 0, 1))
            self._next += 1
        return self._seen[place - self._next]


Frames = Tensor | FileFrames


def as_videos(video: Any, order: str | None, value_range: str | None) -> Sequence[Frames]:
    """A batch of videos, of 5 axes, or the one video of a path or a recording."""
    return [_of_file(video, 1, order, value_range)] if _is_file(video) else as_frames(video, 5, order, value_range)  # type: ignore[return-value]


def as_episode(video: Any, window: int, order: str | None, value_range: str | None) -> Frames:
    """An episode of 4 axes, a path or a recording, whose frames are asked for in windows."""
    return _of_file(video, window, order, value_range) if _is_file(video) else as_frames(video, 4, order, value_range)


def _is_file(video: Any) -> bool:
    return isinstance(video, str | os.PathLike) or all(hasattr(video, name) for name in ("file", "start", "stop"))


def _of_file(video: Any, kept: int, order: str | None, value_range: str | None) -> FileFrames:
    for name, value in (("order", order), ("value_range", value_range)):
        if value is not None:
            raise ValueError(f"{name}={value!r}: is of tensors and arrays; leave it out for a file")
    return FileFrames(video, kept)


def as_frames(video: Tensor | np.ndarray, axes: int, order: str | None, value_range: str | None) -> Tensor:
    """A video of 5 axes (a batch), 4 (an episode) or 3 (a frame) as a tensor (..., 3, H, W), its values as they came; a view.

    Arrays that torch cannot share (read-only, reversed) are copied. `order` and `value_range` as `MotionExtractor` says.

    Raises:
        ValueError: another type, number of axes or dtype, an empty axis, an order that is not clear, values out of range or NaN.
    """
    if isinstance(video, np.ndarray):
        if not video.flags.writeable or min(video.strides, default=0) < 0:
            video = video.copy()
        if video.dtype not in (np.uint8, np.float16, np.float32, np.float64):
            raise ValueError(f"video of dtype {video.dtype}: give uint8 in 0..255, or floating point in [0, 1]")
        video = torch.from_numpy(video)
    if not isinstance(video, Tensor):
        raise ValueError(f"video of type {type(video).__name__}: give a torch tensor or a numpy array, a path or a recording")
    orders, shape = ORDERS[axes], tuple(video.shape)
    if video.ndim != axes:
        raise ValueError(f"video of shape {shape}: expected {axes} axes, {' or '.join(orders)}; {_other_axes(video.ndim, axes)}")
    video = video.movedim(_colour_axis(shape, orders, order), -3)
    if video.numel() == 0:
        raise ValueError(f"video of shape {shape}: an axis is empty; give at least one frame of at least one pixel")
    _check_values(video, value_range)
    return video


def to_unit(frame: Tensor, value_range: str | None) -> Tensor:
    """A frame that `as_frames` passed, as float32 in [0, 1]: uint8 / 255, unit as it is, symmetric (v + 1) / 2."""
    if frame.dtype == torch.uint8:
        return frame.float() / 255
    return (frame.float() + 1) / 2 if value_range == "symmetric" else frame.float()


def _colour_axis(shape: tuple[int, ...], orders: tuple[str, ...], order: str | None) -> int:
    if order is None:
        found = [name for name in orders if shape[name.index("C")] == 3]
        if len(found) != 1:
            named = " or ".join(f"order={name!r}" for name in found or orders)
            raise ValueError(f"order=None: shape {shape} does not tell which axis holds the 3 colours; give {named}")
        order = found[0]
    if order not in orders:
        raise ValueError(f"order={order!r}: choose one of {', '.join(orders)}")
    axis = order.index("C")
    if shape[axis] != 3:
        raise ValueError(f"order={order!r}: axis {axis} of shape {shape} must hold the 3 colours; move them there, or name another")
    return axis


def _other_axes(found: int, expected: int) -> str:
    if (found, expected) == (4, 5):
        return "add the batch axis with video[None], or use episode() for windows over it"
    if (found, expected) == (5, 4):
        return "give one episode at a time, or call the extractor for a batch"
    return "add or take away axes"


def _check_values(video: Tensor, value_range: str | None) -> None:
    if value_range is not None and value_range not in RANGES:
        raise ValueError(f"value_range={value_range!r}: choose one of {', '.join(RANGES)}")
    if video.dtype == torch.uint8:
        if value_range is not None:
            raise ValueError(f"value_range={value_range!r}: uint8 video is 0..255; leave value_range out")
        return
    if not video.is_floating_point():
        raise ValueError(f"video of dtype {video.dtype}: give uint8 in 0..255, or floating point in [0, 1]")
    value_range = value_range or "unit"
    (lowest, highest), (low, high) = RANGES[value_range], (value.item() for value in video.detach().aminmax())
    if not (low >= lowest - RANGE_SLACK and high <= highest + RANGE_SLACK):  # written so that NaN is refused too
        raise ValueError(
            f"video with values from {low:g} to {high:g}: value_range={value_range!r} is [{lowest}, {highest}]; "
            "rescale, give uint8, or name value_range='symmetric' for [-1, 1]"
        )


def bar(items: Collection[T], unit: str) -> Iterable[T]:
    """Items with a progress bar in a terminal, or in a notebook, whose streams are none."""
    return tqdm(items, unit=unit, leave=False, delay=2, disable=False if "ipykernel" in sys.modules else None)
