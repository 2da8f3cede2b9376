"""Pictures in another size: bilinear with antialias, as `torch.nn.functional.interpolate` has it, on the CPU.

Each row and column of the result is a weighted mean of a few that lie near it in the source: a product with a matrix that is
nearly all zeros. Here it is cut into blocks along its diagonal. NumPy does a product that small in the thread that asks for it,
so that pictures can be made in several threads at once, each on its own core.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

STRIP = 2048  # columns whose rows are mixed at once, at most: floats of large pictures take much memory
SERIAL = 2**18  # multiplications of one product; OpenBLAS starts threads above


def resample(planes: np.ndarray, size: tuple[int, int], rows: range, columns: range) -> np.ndarray:
    """Planes (C, H, W), uint8 or float32 -> these rows and columns of them resized to `size`, float32 (C, rows, columns).

    Floats are taken times 255, which gives the bits of the same levels as uint8.
    """
    H, W = planes.shape[1:]
    across = _blocks(W, size[1], columns, len(rows))
    left, right = across[0].begin, across[-1].end
    strip = -(-(right - left) // -(-(right - left) // STRIP))  # of even strips
    down = _blocks(H, size[0], rows, strip)
    top, bottom = down[0].begin, down[-1].end
    floats = np.empty((bottom - top, strip), np.float32)
    mixed = np.empty((len(rows), right - left), np.float32)
    result = np.empty((len(planes), len(rows), len(columns)), np.float32)
    for plane, resized in zip(planes, result, strict=True):
        for start in range(left, right, strip):
            source, target = plane[top:bottom, start : min(start + strip, right)], mixed[:, start - left : start - left + strip]
            _mix_rows(source, down, floats[:, : source.shape[1]], target)
        for block in across:
            near = mixed[:, block.begin - left : block.end - left]
            np.matmul(near, block.weights.T, out=resized[:, block.first : block.first + len(block.weights)])
    return result


@dataclass(frozen=True)
class _Block:
    """Places `first`, `first` + 1, ... of a result: weights (places, end - begin) of the source's places begin..end-1."""

    first: int
    begin: int
    end: int
    weights: np.ndarray


@lru_cache(maxsize=64)
def _blocks(source: int, target: int, kept: range, width: int) -> tuple[_Block, ...]:
    """A length resized: weights of the places `kept` of `target` ones, a triangle around each; for products `width` wide."""
    scale = source / target
    reach = max(1.0, scale)
    count = 2  # places of a block, which need about so many of the source's:
    while (count + 1) * ((count + 1) * scale + 2 * reach + 2) * width <= SERIAL:
        count += 1
    number, blocks = -(-len(kept) // count), []
    for first, stop in pairwise(block * len(kept) // number for block in range(number + 1)):  # of even sizes
        centres = (np.array(kept[first:stop]) + 0.5) * scale
        begin, end = max(0, int(centres[0] - reach)), min(source, int(np.ceil(centres[-1] + reach)))
        weights = np.maximum(0, 1 - np.abs(np.arange(begin, end) + 0.5 - centres[:, None]) / reach)
        blocks.append(_Block(first, begin, end, (weights / weights.sum(1, keepdims=True)).astype(np.float32)))
    return tuple(blocks)


def _mix_rows(source: np.ndarray, down: tuple[_Block, ...], floats: np.ndarray, target: np.ndarray) -> None:
    """Rows of `source`, which begins with the first block's first, mixed to `target`; `floats` is where they are made floats."""
    top, made = down[0].begin, 0
    for block in down:
        begin, end = block.begin - top, block.end - top
        if source.dtype == np.uint8:
            floats[made:end] = source[made:end]
        else:
            np.multiply(source[made:end], 255, out=floats[made:end])
        made = end
        np.matmul(block.weights, floats[begin:end], out=target[block.first : block.first + len(block.weights)])
