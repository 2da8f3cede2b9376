"""Clips as principal coefficients of their patches: what the first and the last map of the network see of pixels, computed once.

A block is b x b pixels of one frame in three colours: a row of D = 3 b b numbers in [-1, 1], colour first, as a convolution kernel
lies. Less the mean block it is projected on K orthonormal principal components. A patch of p x p pixels is m x m blocks,
m = p / b, so has k = m m K coefficients.

What lies outside the K components is the same for every reconstruction inside them: the squared error of pixels is that of the
coefficients plus a constant, so a squared error on coefficients has the gradients of the one on pixels, inside the subspace.

Components are even or odd under mirroring (mirrored blocks count when they are fitted), so mirroring a clip is a sign for each.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

BLOCK = 16  # pixels, where it divides the patch


def block_side(patch: int) -> int:
    """b, the side of a block, for patches of a side: 16 if it divides the patch, else the patch itself."""
    return BLOCK if patch % BLOCK == 0 else patch


def to_blocks(frames: Tensor, b: int) -> Tensor:
    """Frames (..., 3, H, W) -> rows of blocks (..., H / b, W / b, 3 b b)."""
    return rearrange(frames, "... c (h p) (w q) -> ... h w (c p q)", p=b, q=b)


def to_patches(blocks: Tensor, m: int) -> Tensor:
    """Rows of blocks (..., h m, w m, K) -> rows of patches (..., h w, m m K): the blocks of a patch one after the other."""
    return rearrange(blocks, "... (h i) (w j) k -> ... (h w) (i j k)", i=m, j=m)


@dataclass(frozen=True, eq=False)
class PatchBasis:
    """K principal components of blocks.

    Attributes:
        side: b. mean: (D,). vectors: (K, D), orthonormal rows, the largest variance first, float32.
        signs: (K,) 1 or -1: what mirroring left and right does to a coefficient.
    """

    side: int
    mean: Tensor
    vectors: Tensor
    signs: Tensor

    def __len__(self) -> int:
        return len(self.vectors)

    def project(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (..., 3, H, W) in [-1, 1] -> coefficients (..., H / b, W / b, K), and the squared error of a block outside the
        subspace (..., H / b, W / b)."""
        rows = to_blocks(frames, self.side) - self.mean
        coefficients = rows @ self.vectors.T
        outside = rows.square().sum(-1) - coefficients.square().sum(-1)
        return coefficients, outside.clamp(min=0)

    def of_patches(self, patch: int) -> tuple[Tensor, Tensor]:
        """The same for patches of p x p pixels, float64: vectors (k, 3 p p) and mean (3 p p,)."""
        m, b = patch // self.side, self.side
        vectors = torch.zeros(m, m, len(self), 3, patch, patch, dtype=torch.float64)
        mean = torch.zeros(3, patch, patch, dtype=torch.float64)
        for i in range(m):
            for j in range(m):
                place = (..., slice(b * i, b * (i + 1)), slice(b * j, b * (j + 1)))
                vectors[i, j][place] = self.vectors.double().view(-1, 3, b, b)
                mean[place] = self.mean.double().view(3, b, b)
        return vectors.flatten(0, 2).flatten(1), mean.flatten()


class BasisFit:
    """Mean and covariance of blocks, taken in piece by piece; `basis` gives the components."""

    def __init__(self, side: int):
        self.side, size = side, 3 * side * side
        self.count = 0
        self.total = torch.zeros(size, dtype=torch.float64)
        self.products = torch.zeros(size, size, dtype=torch.float64)

    def add(self, frames: Tensor) -> None:
        """Take in frames (..., 3, H, W) in [-1, 1]."""
        rows = to_blocks(frames, self.side).reshape(-1, len(self.total)).float()
        self.count += len(rows)
        self.total += rows.double().sum(0)
        self.products += (rows.T @ rows).double()

    def merge(self, count: int, total: Tensor, products: Tensor) -> None:
        """Take in what another fit has."""
        self.count, self.total, self.products = self.count + count, self.total + total, self.products + products

    def basis(self, components: int) -> PatchBasis:
        """The first `components` principal components of all blocks and their mirror images.

        Even and odd components are found apart, each in the half of the space that mirroring keeps, or turns to its negative.
        """
        b, size = self.side, len(self.total)
        mirror = torch.arange(size).view(3, b, b).flip(-1).flatten()
        mean = (self.total + self.total[mirror]) / (2 * self.count)
        covariance = (self.products + self.products[mirror][:, mirror]) / (2 * self.count) - torch.outer(mean, mean)
        pairs = torch.arange(size)[torch.arange(size) <= mirror]  # a middle column is its own mirror image
        eye, found = torch.eye(size, dtype=torch.float64), []
        for sign in (1, -1):
            half = eye[pairs] + sign * eye[mirror[pairs]]
            half = half[half.norm(dim=1) > 0]
            half = half / half.norm(dim=1, keepdim=True)
            variances, inner = torch.linalg.eigh(half @ covariance @ half.T)
            found += [(variance, sign, row) for variance, row in zip(variances.tolist(), inner.T @ half, strict=True)]
        found.sort(key=lambda component: -component[0])
        first = found[:components]
        vectors = torch.stack([row for _, _, row in first]).float()
        return PatchBasis(b, mean.float(), vectors, torch.tensor([float(sign) for _, sign, _ in first]))


def fit_basis(clips: Iterable[Tensor], patch: int, components: int) -> PatchBasis:
    """The basis for patches of a side, fitted to clips (3, F, H, W) in [-1, 1]."""
    fit = BasisFit(block_side(patch))
    for clip in clips:
        fit.add(clip.movedim(1, 0))
    return fit.basis(components)
