"""Directions that are free of others, and layers in which they are written."""

import torch
from torch import Tensor, nn


def orthonormal_complement(rows: Tensor, count: int | None, generator: torch.Generator, least: float = 1e-3) -> Tensor:
    """Random orthonormal rows (count, c), float64, orthogonal to the span of `rows` (m, c); all there are for count None.

    Directions in which `rows` have less than `least` of their largest singular value count as free.

    Raises:
        ValueError: there are fewer than `count`.
    """
    c = rows.shape[1]
    _, sizes, vectors = torch.linalg.svd(rows.double(), full_matrices=True)
    free = vectors[int((sizes > least * sizes[0]).sum()) :]
    if count is not None and len(free) < count:
        raise ValueError(f"{len(free)} of {c} directions are free, {count} are needed")
    mixed, _ = torch.linalg.qr(torch.randn(len(free), len(free), generator=generator, dtype=torch.float64))
    return (mixed @ free)[:count]


def quietest(table: Tensor, taken: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Orthonormal rows (count, c), float64, orthogonal to the span of `taken` (m, c), in which the rows of `table` (s, c) are
    smallest; turned at random among themselves.

    Raises:
        ValueError: fewer than `count` are orthogonal to `taken`.
    """
    free = orthonormal_complement(taken, None, generator)
    if len(free) < count:
        raise ValueError(f"{len(free)} of {table.shape[1]} directions are free, {count} are needed")
    _, _, vectors = torch.linalg.svd(table.double() @ free.T, full_matrices=True)  # the largest first
    mixed, _ = torch.linalg.qr(torch.randn(count, count, generator=generator, dtype=torch.float64))
    return mixed @ vectors[len(free) - count :] @ free


def untouched(rows: Tensor) -> Tensor:
    """Orthonormal rows, float64, of all that is orthogonal to `rows` (m, c), whatever their lengths."""
    rows = rows.double()
    if not len(rows):
        return torch.eye(rows.shape[1], dtype=torch.float64)
    _, sizes, vectors = torch.linalg.svd(rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12), full_matrices=True)
    return vectors[int((sizes > 1e-6 * sizes[0]).sum()) :]


Layer = nn.Linear | nn.Conv1d | nn.Conv2d


def bias_of(layer: Layer) -> Tensor:
    """The bias of a layer that has one."""
    assert layer.bias is not None
    return layer.bias


def clear(layer: Layer, rows: int | None = None) -> None:
    """Zero the first rows of a layer's weight, all for None, and its bias."""
    layer.weight[:rows] = 0
    bias_of(layer).zero_()
