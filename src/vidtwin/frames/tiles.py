"""Frames at full resolution as overlapping tiles of the model's size, and back by normalised overlap-add: pure arithmetic.

Letters: F frames; H and W the source's height and width, h and w a tile's. Sizes are (height, width).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import pi
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from vidtwin.frames.clips import Geometry

POLICY = "tile"
MAX_PIXELS = 2**27  # of a frame, as videos are read
MAX_SIDE = 2**17  # of frames; what a damaged file states can be anything


class Band(NamedTuple):
    """Rows of a merged picture that are finished: the first one's number, and float (3, F, rows, W) in [-1, 1]."""

    top: int
    pixels: Tensor


@dataclass(frozen=True)
class Tiling:
    """Tiles of the model's size that cover the source, row by row.

    Neighbours share at least `overlap` pixels and are spread evenly. In what they share, each counts by a raised cosine that falls
    towards its edge; weights are divided by their sum over all tiles that cover a pixel, diagonal neighbours too, so they add
    up to 1 everywhere, and to exactly 1 where a single tile lies. A source that is smaller than a tile is continued by its last
    row or column, which is cut away again.

    Attributes:
        source, model: (height, width) of frames and of tiles.
        overlap: least number of pixels that neighbours share, 0 to half of a tile.
    """

    source: tuple[int, int]
    model: tuple[int, int]
    overlap: int
    policy: ClassVar[str] = POLICY

    def __post_init__(self) -> None:
        (H, W), (h, w) = self.source, self.model
        if H < 1 or W < 1:
            raise ValueError(f"source size {W}x{H} is empty; both sides must be at least 1")
        if max(H, W) > MAX_SIDE:
            raise ValueError(f"source size {W}x{H}: sides may be {MAX_SIDE} at most")
        if H * W > MAX_PIXELS:
            raise ValueError(f"source size {W}x{H}: is more than {MAX_PIXELS} pixels; scale it down first")
        if not 0 <= self.overlap <= min(h, w) // 2:
            raise ValueError(f"tile_overlap={self.overlap}: give 0 to {min(h, w) // 2}, half of the model's size")

    @staticmethod
    def plan(source: tuple[int, int], model: tuple[int, int], overlap: int | None = None) -> "Tiling":
        """Tiles for frames of size (height, width); by default neighbours share a quarter of a tile.

        Raises:
            ValueError: an empty source, or an overlap below 0 or above half of a tile.
        """
        return Tiling(source, model, min(model) // 4 if overlap is None else overlap)

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) of merged frames: the source's."""
        return self.source

    @cached_property
    def tops(self) -> list[int]:
        """First rows of the rows of tiles."""
        return starts(self.source[0], self.model[0], self.overlap)

    @cached_property
    def lefts(self) -> list[int]:
        """First columns of the columns of tiles."""
        return starts(self.source[1], self.model[1], self.overlap)

    @property
    def count(self) -> int:
        """Tiles of a frame."""
        return len(self.tops) * len(self.lefts)

    def cut(self, frames: np.ndarray, index: int) -> Tensor:
        """uint8 frames (F, H, W, 3) -> float32 clip (3, F, h, w) in [-1, 1] of tile `index`, valued as by `to_clip`."""
        (H, W), (h, w) = self.source, self.model
        row, column = divmod(index, len(self.lefts))
        top, left = self.tops[row], self.lefts[column]
        pixels = torch.from_numpy(frames[:, top : top + h, left : left + w]).permute(3, 0, 1, 2).float() / 255  # (3, F, <= h, <= w)
        if h > H or w > W:
            pixels = functional.pad(pixels, (0, max(0, w - W), 0, max(0, h - H), 0, 0), mode="replicate")
        return (pixels - 0.5) / 0.5

    def merge(self, tiles: Iterable[Tensor]) -> Iterator[Band]:
        """Clips (3, F, h, w) of all tiles in order -> the picture, band after band from the top, as soon as each is finished."""
        (H, W), (h, w) = self.source, self.model
        rows, columns = (_normalized_ramps(length, size, at) for length, size, at in ((H, h, self.tops), (W, w, self.lefts)))
        ends = [*self.tops[1:], max(H, h)]
        carried: Tensor | None = None  # sums of rows that the next row of tiles adds to
        iterator = iter(tiles)
        for top, end, by_row in zip(self.tops, ends, rows, strict=True):
            strip: Tensor | None = None
            for left, by_column in zip(self.lefts, columns, strict=True):
                tile = next(iterator)
                if strip is None:
                    strip = tile.new_zeros(3, tile.shape[1], h, max(W, w))
                strip[..., left : left + w] += tile * (by_row[:, None] * by_column).to(tile)
            assert strip is not None
            if carried is not None:
                strip[:, :, : carried.shape[2]] += carried
            carried = strip[:, :, end - top :].clone()
            yield Band(top, strip[:, :, : min(end, H) - top, :W])

    def to_dict(self) -> dict[str, Any]:
        """Plain strings, lists and ints, safe for JSON."""
        return {"policy": POLICY, "source": list(self.source), "model": list(self.model), "overlap": self.overlap}

    def describe(self) -> str:
        """One line for people; sizes as width x height."""
        (H, W), (h, w) = self.source, self.model
        return f"tile: {W}x{H} in {len(self.lefts)} x {len(self.tops)} tiles of {w}x{h}, at least {self.overlap} pixels shared"


Fit = Geometry | Tiling


def plan_fit(policy: str, source: tuple[int, int], model: tuple[int, int], overlap: int | None = None) -> Fit:
    """`Tiling.plan` for the policy "tile", else `Geometry.plan`. Raises ValueError as these do."""
    if policy == POLICY:
        return Tiling.plan(source, model, overlap)
    if overlap is not None:
        raise ValueError(f"tile_overlap={overlap}: is for policy={POLICY!r}; leave it out with policy={policy!r}")
    return Geometry.plan(policy, source, model)


def fit_from_dict(record: dict[str, Any]) -> Fit:
    """What `to_dict` of either wrote. Raises ValueError when keys or values are not those of one."""
    if not isinstance(record, dict) or record.get("policy") != POLICY:
        return Geometry.from_dict(record)
    try:
        (H, W), (h, w) = record["source"], record["model"]
        tiling = Tiling((int(H), int(W)), (int(h), int(w)), int(record["overlap"]))
        if tiling.to_dict() != record or not all(type(n) is int for n in (H, W, h, w, record["overlap"])):
            raise ValueError("other keys or values")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"geometry {record} is not valid ({error!r}); write it with Tiling.to_dict") from error
    return tiling


def starts(length: int, size: int, overlap: int) -> list[int]:
    """Where tiles that cover `length` begin, evenly, sharing at least `overlap`: starts(500, 224, 56) -> [0, 138, 276]."""
    if length <= size:
        return [0]
    count = -(-(length - overlap) // (size - overlap))
    return [round(index * (length - size) / (count - 1)) for index in range(count)]


def _normalized_ramps(length: int, size: int, at: list[int]) -> list[Tensor]:
    """Weights (size,) along one axis of each tile; those of all tiles add up to 1 at every pixel."""
    ramps = [torch.ones(size, dtype=torch.float64) for _ in at]
    for (first, before), (second, after) in pairwise(zip(at, ramps, strict=True)):
        shared = first + size - second
        rise = torch.sin((torch.arange(shared, dtype=torch.float64) + 0.5) / max(1, shared) * (pi / 2)).square()
        before[size - shared :] *= rise.flip(0)
        after[:shared] *= rise
    total = torch.zeros(max(length, size), dtype=torch.float64)
    for start, ramp in zip(at, ramps, strict=True):
        total[start : start + size] += ramp
    return [(ramp / total[start : start + size]).float() for start, ramp in zip(at, ramps, strict=True)]
