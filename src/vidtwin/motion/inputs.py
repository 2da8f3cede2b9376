"""Videos as people hold them, tensors or arrays in either axis order, uint8 or floating: checked, and never guessed."""

import numpy as np
import torch
from torch import Tensor

from vidtwin.model.vidtwin import RANGE_SLACK

ORDERS = {5: ("BTCHW", "BCTHW"), 4: ("TCHW", "CTHW"), 3: ("CHW",)}
RANGES = {"unit": (0, 1), "symmetric": (-1, 1)}


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
        raise ValueError(f"video of type {type(video).__name__}: give a torch tensor or a numpy array")
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
        if len(found) != 1 or shape[-1] == 3:  # with 3 last it may be colours last
            named = " or ".join(f"order={name!r}" for name in orders)
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
