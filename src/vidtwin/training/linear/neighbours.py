"""What the places beside a place tell of it: the part of the linear coder that smooths the borders of patches.

Patches are coded each for itself, and what one leaves is correlated with what its neighbours say. Heads of the decoder's first
spatial attention look at the place to the left, right, above and below, by the space table alone (weights (s, s), nearly a shift; a
place at the border looks at itself). What Structure and Dynamics leave at a place, r, is then predicted from the features y of the
place and those that the heads see:

    r_hat(p) = C_0 y(p) + sum_d C_d sum_q weights_d(p, q) y(q),

C by least squares with a ridge, the one that does best on clips that were left out; each C_d of a head's rank at most: what can be
read of y and written by so many channels. y are the codes
of queries and of Dynamics, each as it is at a frame (`LinearCoder.features`).

Letters: N clips, f frames, s places, k coefficients of a patch, n features, D heads, d channels of a head.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from vidtwin.model.backbone import Attention
from vidtwin.training.linear.directions import untouched

OFFSETS = ((0, -1), (0, 1), (-1, 0), (1, 0))  # rows, columns: left, right, above, below
SHARP = 6.0  # how far the logit of the place that a head looks at is above those beside it
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e9)  # of features of deviation 1; the last leaves nothing
LEFT_OUT = 4  # every so many parts of the clips are left out, to choose the ridge by
WEAKEST = 0.01  # of the singular values of what tells places apart, as a share of the largest; weaker ones are not read


@dataclass(frozen=True, eq=False)
class Neighbours:
    """What `fit_neighbours` found.

    Attributes:
        weights: (D, s, s) what each head looks at. readers: (D, d, n), writers: (D, k, d), C_d = writer reader. own: C_0 (k, n).
        patterns: (k, m), orthonormal: of coefficients that no query of constants has, those that are written besides.
    """

    weights: Tensor
    readers: Tensor
    writers: Tensor
    own: Tensor
    patterns: Tensor

    def correct(self, y: Tensor) -> Tensor:
        """Features (N, f, s, n) -> r_hat (N, f, s, k)."""
        r_hat = y @ self.own.T.to(y)
        for weights, reader, writer in zip(self.weights, self.readers, self.writers, strict=True):
            r_hat = r_hat + weights.to(y) @ (y @ reader.T.to(y)) @ writer.T.to(y)
        return r_hat


class Products:
    """Sums of products of regressors (rows, n) and of what they predict (rows, k); float64."""

    def __init__(self) -> None:
        self.gram, self.cross, self.rows = torch.zeros(()), torch.zeros(()), 0

    def add(self, regressors: Tensor, predicted: Tensor) -> None:
        self.gram = self.gram + (regressors.T @ regressors).double()
        self.cross = self.cross + (regressors.T @ predicted).double()
        self.rows += len(regressors)

    def __add__(self, other: "Products") -> "Products":
        both = Products()
        both.gram, both.cross, both.rows = self.gram + other.gram, self.cross + other.cross, self.rows + other.rows
        return both

    def solve(self, scale: Tensor, ridge: float) -> Tensor:
        """C (k, n): least squares, with a ridge for regressors divided by `scale` (n,)."""
        gram = self.gram / self.rows / scale / scale[:, None] + ridge * torch.eye(len(scale), dtype=torch.float64)
        return torch.linalg.solve(gram, self.cross / self.rows / scale[:, None]).T / scale

    def error(self, C: Tensor) -> float:
        """Squared error of a prediction by C, less that of none."""
        if not self.rows:
            return 0.0
        return float(((C @ self.gram) * C).sum() - 2 * (C * self.cross.T).sum())


def fit_neighbours(
    weights: Tensor, pairs: Iterable[tuple[Tensor, Tensor]], components: Tensor, patterns: int, rank: int
) -> Neighbours:
    """Least squares of what is left on features, for heads that look at places by `weights` (D, s, s).

    Args:
        pairs: features (N, f, s, n) and what is left (N, f, s, k), some clips at a time.
        components: (k, j), orthonormal: what queries of constants write. patterns: how many more can be written.
        rank: channels of a head.
    """
    heads, sums = len(weights), [Products(), Products()]
    for number, (y, r) in enumerate(pairs):
        seen = torch.cat([y, *(weights[d].to(y) @ y for d in range(heads))], -1)
        sums[number % LEFT_OUT == LEFT_OUT - 1].add(seen.flatten(0, 2), r.flatten(0, 2))
    kept, left_out = sums
    n = len(kept.gram) // (heads + 1)
    scale = (kept.gram.diagonal()[:n] / kept.rows).sqrt().clamp(min=1e-12).repeat(heads + 1)
    ridge = min(RIDGES, key=lambda ridge: left_out.error(kept.solve(scale, ridge)))
    both = kept + left_out
    C = both.solve(scale, ridge) * scale  # (k, (D + 1) n), of features of deviation 1
    gram = both.gram / both.rows / scale / scale[:, None]

    outside = untouched(components.T)  # (k - j, k)
    _, vectors = torch.linalg.eigh(outside @ C @ gram @ C.T @ outside.T)
    extra = outside.T @ vectors.flip(1)[:, :patterns]
    written = torch.cat([components.double(), extra], 1)
    C = written @ (written.T @ C)
    root = torch.linalg.cholesky(gram[:n, :n] + RIDGES[0] * torch.eye(n))  # of features of any place
    readers, writers = [], []
    for d in range(heads):
        U, S, V = torch.linalg.svd(C[:, (d + 1) * n : (d + 2) * n] @ root, full_matrices=False)
        U, S, V = U[:, :rank], S[:rank].sqrt(), V[:rank]
        writers.append(U * S)
        readers.append(S[:, None] * torch.linalg.solve_triangular(root, V, upper=False, left=False) / scale[:n])
    return Neighbours(
        weights.float(), torch.stack(readers).float(), torch.stack(writers).float(), (C[:, :n] / scale[:n]).float(), extra.float()
    )


@torch.no_grad()
def look_beside(attention: Attention, tokens: Tensor, taken: Tensor, grid: tuple[int, int]) -> Tensor:
    """Queries and keys of heads that look at the places beside a place.

    Args:
        tokens: (s, c) what the attention reads at each place, without content. taken: (m, c) directions that content moves in.

    Returns:
        (D, s, s): the weights of these heads.
    """
    c, heads = attention.proj.weight.shape[0], attention.heads
    width, count = c // heads, min(heads, len(OFFSETS))
    if width < 4:
        return torch.zeros(0, len(tokens), len(tokens), dtype=torch.float64)
    tokens = tokens.double()
    mean, free = tokens.mean(0), untouched(taken)
    angles, circles = _on_circles(grid)
    seen = torch.linalg.lstsq((tokens - mean) @ free.T, circles - circles.mean(0), rcond=WEAKEST, driver="gelsd").solution
    read = free.T @ seen  # (c, 4)
    offset = circles.mean(0) - mean @ read
    weight, bias = attention.qkv.weight, attention.qkv.bias
    found = []
    for d, steps in enumerate(OFFSETS[:count]):
        turn, strength = torch.eye(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
        for axis, (step, angle, side) in enumerate(zip(steps, angles, grid, strict=True)):
            a, part = step * angle, slice(2 * axis, 2 * axis + 2)
            turn[part, part] = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64)
            strength[part] = math.sqrt(SHARP / (1 - math.cos(angle)) * math.sqrt(width)) if side > 1 else 0.0
        queries, keys = slice(d * width, (d + 1) * width), slice(c + d * width, c + (d + 1) * width)
        weight[queries], bias[queries], bias[keys] = 0, 0, 0
        for rows, maps in ((queries, strength[:, None] * turn), (keys, strength.diag())):
            weight[rows][:4], bias[rows][:4] = (maps @ read.T).float(), (maps @ offset).float()
        point = tokens @ read + offset
        found.append((point * strength @ turn.T @ (point * strength).T / math.sqrt(width)).softmax(1))
    return torch.stack(found)


def _on_circles(grid: tuple[int, int]) -> tuple[list[float], Tensor]:
    """Angle of a step along each axis, half a circle for a whole side; row and column of each place as points on circles (s, 4)."""
    angles = [math.pi / side for side in grid]
    along = [torch.arange(side, dtype=torch.float64) * angle for side, angle in zip(grid, angles, strict=True)]
    return angles, torch.stack(
        [wave for axis in torch.meshgrid(*along, indexing="ij") for wave in (axis.cos(), axis.sin())], -1
    ).flatten(0, 1)
