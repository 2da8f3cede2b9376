"""Frames to the model's clip and back: geometry and strides, as pure arithmetic.

Letters: F frames, H and W the source's height and width, h and w the model's. Sizes are (height, width).
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as functional

from vidtwin.frames.resample import resample

T = TypeVar("T")

POLICIES = ("crop", "squash", "pad")
LARGE = 2**18  # pixels; frames from there on are resized by `resample`, which is faster than `interpolate` and more exact
MAX_ASPECT = 128  # longer side / shorter side; beyond it a resized frame would not fit in memory


@dataclass(frozen=True)
class Geometry:
    """How source frames become the model's frames, and how the model's frames become a picture again.

    Attributes:
        policy: "crop" (cover the model's frame, keep the centre), "squash" (stretch to the model's frame) or
            "pad" (fit inside, black bars around).
        source, model: (height, width) of the source's and of the model's frames.
        resized: (height, width) that the source is resized to.
        offset: (top, left); crop: of the model's frame inside the resized one; pad: of the resized frame inside
            the model's; squash: (0, 0).
    """

    policy: str
    source: tuple[int, int]
    model: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]

    @staticmethod
    def plan(policy: str, source: tuple[int, int], model: tuple[int, int]) -> "Geometry":
        """Geometry for sources of size (height, width) and a model of size (height, width).

        Raises:
            ValueError: unknown policy; a size below 1; odd model size; source longer than 128 times its other side.
        """
        (H, W), (h, w) = source, model
        if policy not in POLICIES:
            raise ValueError(f"resize policy {policy!r} is unknown; choose one of {', '.join(POLICIES)}")
        if H < 1 or W < 1:
            raise ValueError(f"source size {W}x{H} is empty; both sides must be at least 1")
        if h < 2 or w < 2 or h % 2 or w % 2:
            raise ValueError(f"model size {w}x{h} must be even and at least 2x2")
        if max(H, W) > MAX_ASPECT * min(H, W):
            raise ValueError(f"source size {W}x{H} is more than {MAX_ASPECT} times longer than wide; crop it first")
        if policy == "squash":
            return Geometry(policy, (H, W), (h, w), (h, w), (0, 0))
        height_binds = H * w <= W * h  # the source is at least as wide, for its height, as the model's frame
        if policy == "crop":
            # The side that binds fits exactly, the other is rounded down: 720x1280 -> 224x398, then 224x224 at (0, 87).
            resized = (h, h * W // H) if height_binds else (w * H // W, w)
            return Geometry(policy, (H, W), (h, w), resized, (round((resized[0] - h) / 2), round((resized[1] - w) / 2)))
        # The long side fits exactly, the other is rounded to even: 720x1280 -> 126x224 at (49, 0) inside 224x224.
        resized = (_even(Fraction(w * H, W)), w) if height_binds else (h, _even(Fraction(h * W, H)))
        return Geometry(policy, (H, W), (h, w), resized, ((h - resized[0]) // 2, (w - resized[1]) // 2))

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) of the frames `from_clip` returns; both even."""
        if self.policy == "pad":
            return self.resized
        if self.policy == "crop":
            return self.model
        (H, W), h = self.source, self.model[0]
        return h, _even(Fraction(h * W, H))

    def to_dict(self) -> dict[str, Any]:
        """Plain strings, lists and ints, safe for JSON; `from_dict` reads it back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @staticmethod
    def from_dict(record: dict[str, Any]) -> "Geometry":
        """The geometry that `to_dict` wrote. Raises ValueError when keys or values are not those of a geometry."""
        try:
            (H, W), (h, w) = record["source"], record["model"]
            geometry = Geometry.plan(record["policy"], (H, W), (h, w))
            if geometry.to_dict() != record or not all(type(n) is int for n in (H, W, h, w)):
                raise ValueError(f"resized and offset are not those of {geometry.to_dict()}")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"geometry {record} is not valid ({error!r}); write it with Geometry.to_dict") from error
        return geometry

    def describe(self) -> str:
        """One line for people; sizes as width x height."""
        source, resized, model = _text(self.source), _text(self.resized), _text(self.model)
        if self.policy == "crop":
            return f"crop: {source} resized to {resized}, centre {model} kept"
        if self.policy == "pad":
            return f"pad: {source} resized to {resized}, black bars up to {model}, cut away again in the output"
        return f"squash: {source} stretched to {model}, output stretched back to {_text(self.output_size)}"


def to_clip(frames: np.ndarray, geometry: Geometry) -> torch.Tensor:
    """uint8 frames (F, H, W, 3) -> float32 clip (3, F, h, w) in [-1, 1].

    Bilinear with antialias on values in [0, 1], then (value - 0.5) / 0.5; bars of policy "pad" are black (-1).
    Raises ValueError when the frames do not have the geometry's source size or are not uint8 RGB.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (*geometry.source, 3):
        raise ValueError(
            f"frames of {frames.dtype} {frames.shape} do not fit; give uint8 (F, {geometry.source[0]}, {geometry.source[1]}, 3)"
        )
    clip = torch.empty((3, len(frames), *geometry.model))
    for index, frame in enumerate(frames):
        planes = frame.transpose(2, 0, 1)
        if is_resampled(geometry):
            clip.numpy()[:, index] = _resampled(planes, geometry)
            continue
        for colour, plane in enumerate(planes):
            pixels = torch.from_numpy(np.ascontiguousarray(plane)).float().div_(255)
            clip[colour, index] = fit(pixels[None], geometry)[0]
    return clip


def fit(pixels: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """float32 frame (C, H, W) in [0, 1], of the geometry's source size -> (C, h, w) in [-1, 1], as `to_clip` says.

    On the CPU the bits are those of `to_clip`, if the values are levels / 255.
    """
    if pixels.device.type == "cpu" and is_resampled(geometry):
        return torch.from_numpy(_resampled(pixels.detach().numpy(), geometry))
    (h, w), (top, left), (height, width) = geometry.model, geometry.offset, geometry.resized
    pixels = _resize(pixels[None], geometry.resized)[0].clamp(0, 1)
    pixels = (pixels - 0.5) / 0.5
    if geometry.policy == "pad":
        return functional.pad(pixels, (left, w - left - width, top, h - top - height), value=-1.0)
    return pixels[:, top : top + h, left : left + w]


def is_resampled(geometry: Geometry) -> bool:
    """Whether frames on the CPU are resized by `resample`; `interpolate` makes small ones, and those on other devices."""
    return geometry.resized != geometry.source and geometry.source[0] * geometry.source[1] >= LARGE


def _resampled(planes: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Planes (C, H, W), uint8 or floats in [0, 1] -> float32 (C, h, w) in [-1, 1]. NumPy alone, so in the thread that calls."""
    (h, w), (top, left), (height, width) = geometry.model, geometry.offset, geometry.resized
    if geometry.policy == "crop":
        pixels = resample(planes, geometry.resized, range(top, top + h), range(left, left + w))
    else:
        pixels = resample(planes, geometry.resized, range(height), range(width))
    pixels *= np.float32(1 / 127.5)
    pixels -= 1
    pixels.clip(-1, 1, out=pixels)
    if geometry.policy == "pad":
        return np.pad(pixels, ((0, 0), (top, h - top - height), (left, w - left - width)), constant_values=-1)
    return pixels


def from_clip(clip: torch.Tensor, geometry: Geometry) -> np.ndarray:
    """Clip (3, F, h, w) in [-1, 1], clamped -> uint8 frames (F, H', W', 3) of `geometry.output_size`, to nearest.

    Raises ValueError when the clip does not have the model's size or holds a value that is not a number.
    """
    _check_clip(clip, geometry)
    clip = content(clip, geometry).detach().float().cpu()
    if torch.isnan(clip).any():
        raise ValueError("the clip holds values that are not numbers (NaN); decode it in float32")
    frames = np.empty((clip.shape[1], *geometry.output_size, 3), dtype=np.uint8)
    for index in range(clip.shape[1]):
        pixels = _resize(clip[None, :, index].clamp(-1, 1), geometry.output_size)[0]
        frames[index] = levels(pixels).permute(1, 2, 0).numpy()
    return frames


def levels(pixels: torch.Tensor) -> torch.Tensor:
    """Values in [-1, 1], clamped -> uint8 of the same shape, to nearest."""
    return pixels.clamp(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)


def content(clip: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """The part of a clip (3, F, h, w) that shows the source, a view (3, F, h', w'): all but the bars of "pad"."""
    _check_clip(clip, geometry)
    if geometry.policy != "pad":
        return clip
    (top, left), (height, width) = geometry.offset, geometry.resized
    return clip[..., top : top + height, left : left + width]


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive lists of `size` items, the last maybe shorter: 0..6 in threes are [0, 1, 2], [3, 4, 5], [6]."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def pad_tail(frames: np.ndarray, size: int) -> np.ndarray:
    """Frames (F, ...) with the last one repeated up to (size, ...); unchanged when F == size."""
    if not 1 <= len(frames) <= size:
        raise ValueError(f"cannot pad {len(frames)} frames to {size}; give between 1 and {size} frames")
    return np.concatenate([frames, np.repeat(frames[-1:], size - len(frames), axis=0)])


def frame_interval(native_fps: float | Fraction, sample_fps: float | Fraction) -> int:
    """Take every how-manieth frame to come nearest to `sample_fps`: frame_interval(30, 8) -> 4; never below 1."""
    if native_fps <= 0 or sample_fps <= 0:
        raise ValueError(f"frame rates must be above 0, not {native_fps} and {sample_fps}")
    return max(1, round(native_fps / sample_fps))


def _resize(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    return functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)


def _check_clip(clip: torch.Tensor, geometry: Geometry) -> None:
    if clip.ndim != 4 or clip.shape[0] != 3 or tuple(clip.shape[2:]) != geometry.model:
        h, w = geometry.model
        raise ValueError(f"a clip of shape {tuple(clip.shape)} does not fit; give (3, F, {h}, {w})")


def _even(length: Fraction) -> int:
    """The even number nearest to `length`, at least 2."""
    return max(2, 2 * round(length / 2))


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
