"""The best linear coder of VidTwin's form, fitted to clips in closed form.

Structure. Query n serves one temporal function phi_k, a cosine of k half-waves in a clip, and d_S - 1 spatial components W_n of
what that function sees at a place:

    z_n = W_n^T sum_t psi_k(t) x(t),      x_S(t) = sum_n phi_k(n)(t) W_n z_n.

psi_k is the window that reads phi_k (about phi_k / f). Components are principal, in groups of d_S - 1: a function that has m
queries has the first m groups. Which function gets the next query is decided by what it adds to the mean PSNR of the clips.

Dynamics. What Structure leaves, r = x - x_S, is predicted from means over rows and columns of r' = x - sum_k M_k x W_k W_k^T, what
a temporal attention (M_k, f x f) can leave of x:

    z_x = A mean_h r',  z_y = A mean_w r',      x_D(t, h, w) = B (z_x(t, w) + z_y(t, h)),

with A and B of rank d_D by reduced-rank regression (Izenman 1975): B the first eigenvectors of C_rq C_qq^-1 C_qr,
A = B^T C_rq C_qq^-1, q = mean_h r' + mean_w r'.

A branch that downsamples codes means of blocks of places and repeats them (`Pooling`).

Letters: N clips, f frames, s = h w places, k coefficients of a patch; T temporal functions; `per` = d_S - 1.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vidtwin.model.config import VidTwinConfig, halved
from vidtwin.training.linear.neighbours import Neighbours, fit_neighbours
from vidtwin.training.linear.reading import TimeReading

CHUNK = 16  # clips at a time


@dataclass(frozen=True, eq=False)
class Pooling:
    """Stride-2 means of places, and nearest repetition back, as matrices of each axis: down (short, side), up (side, short)."""

    down_h: Tensor
    down_w: Tensor
    up_h: Tensor
    up_w: Tensor

    @classmethod
    def times(cls, grid: tuple[int, int], times: int) -> "Pooling":
        (down_h, up_h), (down_w, up_w) = (_axis(side, times) for side in grid)
        return cls(down_h, down_w, up_h, up_w)

    def down(self, y: Tensor) -> Tensor:
        """(..., h, w, k) -> (..., h_S, w_S, k)."""
        return torch.einsum("ah,bw,...hwk->...abk", self.down_h.to(y), self.down_w.to(y), y)

    def up(self, y: Tensor) -> Tensor:
        """(..., h_S, w_S, k) -> (..., h, w, k)."""
        return torch.einsum("ha,wb,...abk->...hwk", self.up_h.to(y), self.up_w.to(y), y)


def _axis(side: int, times: int) -> tuple[Tensor, Tensor]:
    """down, up of one axis. A mean is of places 2 i and 2 i + 1; past the border the convolutions read zeros."""
    down = torch.eye(side)
    for _ in range(times):
        short = halved(len(down), 1)
        step = torch.zeros(short, len(down))
        for i in range(short):
            step[i, 2 * i : 2 * i + 2] = 0.5
        down = step @ down
    top = (len(down) * 2**times - side) // 2  # what the decoder's centre crop leaves out
    up = torch.zeros(side, len(down))
    up[torch.arange(side), (torch.arange(side) + top) // 2**times] = 1
    return down, up


@dataclass(frozen=True, eq=False)
class LinearCoder:
    """What `fit_coder` found.

    Attributes:
        config: of the model. reading: psi, phi and M.
        functions: (n_q,) k of each query. groups: (n_q,) which of the function's groups of components it has.
        components: (n_q, k, per), W_n, orthonormal columns. deviations: (n_q, per) of z_n.
        analysis, synthesis: A (d_D, k) and B (k, d_D). dynamics_deviations: (d_D,) of z_x and z_y together.
        structure_pooling, dynamics_pooling: of each branch.
        neighbours: what the places beside a place tell of it; None if nothing does.
    """

    config: VidTwinConfig
    reading: TimeReading
    functions: list[int]
    groups: list[int]
    components: Tensor
    deviations: Tensor
    analysis: Tensor
    synthesis: Tensor
    dynamics_deviations: Tensor
    structure_pooling: Pooling
    dynamics_pooling: Pooling
    neighbours: Neighbours | None = None

    def structure(self, x: Tensor) -> Tensor:
        """Coefficients (N, f, s, k) -> x_S, the same shape: what Structure says of them."""
        seen = self.structure_pooling.down(self._grid(torch.einsum("kf,nfsj->knsj", self.reading.windows.to(x), x)))
        heard = torch.zeros_like(seen)
        for k, basis in self.bases():
            heard[k] = seen[k] @ basis.to(x) @ basis.T.to(x)
        places = self.structure_pooling.up(heard).flatten(2, 3)
        return torch.einsum("kf,knsj->nfsj", self.reading.functions.to(x), places)

    def left(self, x: Tensor) -> Tensor:
        """r', what Dynamics reads: (N, f, s, k) -> the same."""
        rest = x
        for k, basis in self.bases():
            if self.reading.kernels[k].any():
                rest = rest - torch.einsum("fg,ngsj->nfsj", self.reading.kernels[k].to(x), x) @ basis.to(x) @ basis.T.to(x)
        return rest

    def axes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means of r' over height and over width: (N, f, w_D, k), (N, f, h_D, k)."""
        grid = self.dynamics_pooling.down(self._grid(self.left(x)))
        return grid.mean(-3), grid.mean(-2)

    def summed(self, over_h: Tensor, over_w: Tensor) -> Tensor:
        """Values on the two axes, (N, f, w_D, j) and (N, f, h_D, j) -> their sum at each place (N, f, s, j)."""
        pooling = self.dynamics_pooling
        at_w = torch.einsum("wb,nfbj->nfwj", pooling.up_w.to(over_h), over_h)
        at_h = torch.einsum("ha,nfaj->nfhj", pooling.up_h.to(over_w), over_w)
        return (at_w[:, :, None] + at_h[:, :, :, None]).flatten(2, 3)

    def dynamics(self, x: Tensor) -> Tensor:
        """x_D, (N, f, s, k) -> the same: what Dynamics says of what Structure leaves."""
        codes = (axis @ self.analysis.T.to(x) for axis in self.axes(x))
        return self.summed(*codes) @ self.synthesis.T.to(x)

    def features(self, x: Tensor) -> Tensor:
        """(N, f, s, k) -> (N, f, s, n_q per + d_D): phi_k(n)(t) z_n of all queries, then z_x + z_y of the place."""
        seen = self.structure_pooling.down(self._grid(torch.einsum("kf,nfsj->knsj", self.reading.windows.to(x), x)))
        places = [self.structure_pooling.up(seen[k] @ W.to(x)) for k, W in zip(self.functions, self.components, strict=True)]
        phi = self.reading.functions[self.functions].to(x)
        structure = torch.einsum("qf,qnsi->nfsqi", phi, torch.stack(places).flatten(2, 3)).flatten(3)
        codes = (axis @ self.analysis.T.to(x) for axis in self.axes(x))
        return torch.cat([structure, self.summed(*codes)], -1)

    def plain(self, features: Tensor) -> Tensor:
        """x_S + x_D of features: (N, f, s, n) -> (N, f, s, k)."""
        return features @ torch.cat([*self.components, self.synthesis], 1).T.to(features)

    def reconstruct(self, x: Tensor) -> Tensor:
        """(N, f, s, k) -> the same: x_S + x_D, and what neighbours tell besides."""
        y = self.features(x)
        return self.plain(y) if self.neighbours is None else self.plain(y) + self.neighbours.correct(y)

    def with_neighbours(self, weights: Tensor, x: Tensor, patterns: int, rank: int) -> "LinearCoder":
        """The coder with `neighbours` fitted to clips (N, f, s, k); arguments as of `fit_neighbours`."""

        def left() -> Iterator[tuple[Tensor, Tensor]]:
            for part in x.split(max(1, min(CHUNK, len(x) // 8))):
                y = self.features(part.float())
                yield y, part.float() - self.plain(y)

        constants = [W for k, W in zip(self.functions, self.components, strict=True) if k == 0]
        written = torch.cat([*constants, self.components[0][:, :0]], 1)
        return replace(self, neighbours=fit_neighbours(weights, left(), written, patterns, rank))

    def bases(self) -> Iterator[tuple[int, Tensor]]:
        """(k, all components of temporal function k) for those that have queries."""
        for k in sorted(set(self.functions)):
            yield k, torch.cat([self.components[n] for n, of in enumerate(self.functions) if of == k], 1)

    def _grid(self, x: Tensor) -> Tensor:
        return x.unflatten(2, self.config.grid)


def fit_coder(
    config: VidTwinConfig, reading: TimeReading, x: Tensor, outside: Tensor, fits: Callable[[list[int]], bool]
) -> LinearCoder:
    """The best linear coder for clips.

    Args:
        x: coefficients (N, f, s, k) of clips. outside: (N,) the squared error of a clip outside the subspace.
        fits: whether the network has room for so many queries of each function (`start.heads_needed`).

    Raises:
        ValueError: there are fewer coefficients than components of a query, or clips than are needed.
    """
    per = config.structure_channels - 1
    if per > x.shape[-1]:
        raise ValueError(
            f"structure_channels={config.structure_channels}: a patch has {x.shape[-1]} coefficients; use at most one more"
        )
    pooling = Pooling.times(config.grid, config.structure_downsamples)
    spectra = _spectra(config, reading, pooling, x)
    counts = _allocate(config, reading, pooling, x, outside, [vectors for _, vectors in spectra], fits)
    functions = [k for k, count in enumerate(counts) for _ in range(count)]
    groups = [j for count in counts for j in range(count)]
    parts = [slice(j * per, (j + 1) * per) for j in groups]
    d_D = config.dynamics_x_shape[0]
    coder = LinearCoder(
        config,
        reading,
        functions,
        groups,
        torch.stack([spectra[k][1][:, part] for k, part in zip(functions, parts, strict=True)]),
        torch.stack([spectra[k][0][part].clamp(min=1e-12).sqrt() for k, part in zip(functions, parts, strict=True)]),
        torch.zeros(d_D, x.shape[-1]),
        torch.zeros(x.shape[-1], d_D),
        torch.ones(d_D),
        pooling,
        Pooling.times(config.grid, config.dynamics_downsamples),
    )
    return _with_dynamics(coder, x) if d_D else coder


def _spectra(config: VidTwinConfig, reading: TimeReading, pooling: Pooling, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Variances (k,), falling, and principal components (k, k) of what each temporal function sees."""
    products = torch.zeros(len(reading.windows), x.shape[-1], x.shape[-1], dtype=torch.float64)
    rows = 0
    for seen in _seen(config, reading, pooling, x):
        flat = seen.flatten(1, 3)
        products += torch.einsum("kri,krj->kij", flat, flat).double()
        rows += flat.shape[1]
    spectra = []
    for product in products:
        variances, vectors = torch.linalg.eigh(product / rows)
        spectra.append((variances.flip(0).float(), vectors.flip(1).float()))
    return spectra


def _seen(config: VidTwinConfig, reading: TimeReading, pooling: Pooling, x: Tensor) -> Iterator[Tensor]:
    """What temporal functions see of some clips at a time: (T, n, h_S, w_S, k)."""
    for part in x.split(CHUNK):
        places = torch.einsum("kf,nfsj->knsj", reading.windows.float(), part.float())
        yield pooling.down(places.unflatten(2, config.grid))


def _allocate(
    config: VidTwinConfig,
    reading: TimeReading,
    pooling: Pooling,
    x: Tensor,
    outside: Tensor,
    vectors: list[Tensor],
    fits: Callable[[list[int]], bool],
) -> list[int]:
    """How many queries each temporal function gets: greedily, by what one more adds to the mean PSNR."""
    per, most = config.structure_channels - 1, min(config.num_queries, x.shape[-1] // (config.structure_channels - 1))
    caught = torch.cat([_caught(seen, pooling, vectors, per, most, reading) for seen in _seen(config, reading, pooling, x)])
    error = torch.cat([part.float().square().sum((1, 2, 3)) for part in x.split(CHUNK)]) + outside
    counts = [0] * len(vectors)
    for _ in range(config.num_queries):
        choices = []
        for k in range(len(vectors)):
            more = [count + (j == k) for j, count in enumerate(counts)]
            if counts[k] < most and fits(more):
                left = (error - caught[:, k, counts[k]]).clamp(min=1e-6 * float(error.mean()))
                choices.append((-left.log().mean().item(), k))
        if not choices:
            raise ValueError(
                f"query_heads={config.query_heads}: with query_dim={config.query_dim} they cannot read the components of "
                f"{config.num_queries} queries; use more, or a wider query_dim"
            )
        k = max(choices)[1]
        error = (error - caught[:, k, counts[k]]).clamp(min=1e-6 * float(error.mean()))
        counts[k] += 1
    return counts


def _caught(seen: Tensor, pooling: Pooling, vectors: list[Tensor], per: int, most: int, reading: TimeReading) -> Tensor:
    """Squared norm of what each group of components keeps of each clip: (n, T, groups)."""
    frames = reading.windows.shape[1]
    energies = []
    for places, basis in zip(seen, vectors, strict=True):  # places (n, h_S, w_S, k)
        kept = pooling.up(places @ basis[:, : most * per]).square().sum((1, 2)) * frames
        energies.append(kept.unflatten(1, (most, per)).sum(2))
    return torch.stack(energies, 1)


def _with_dynamics(coder: LinearCoder, x: Tensor) -> LinearCoder:
    """The coder with A, B and the deviations of z_D, by reduced-rank regression of r on q."""
    k, d_D = x.shape[-1], coder.config.dynamics_x_shape[0]
    C_rq, C_qq, C_zz = (torch.zeros(k, k, dtype=torch.float64) for _ in range(3))
    rows = 0
    for part in x.split(CHUNK):
        part = part.float()
        r = (part - coder.structure(part)).flatten(0, 2)
        axes = coder.axes(part)
        q = coder.summed(*axes).flatten(0, 2)
        C_rq += (r.T @ q).double()
        C_qq += (q.T @ q).double()
        for axis in axes:
            flat = axis.flatten(0, 2)
            C_zz += (flat.T @ flat).double()
            rows += len(flat)
    ridge = 1e-6 * C_qq.diagonal().mean() * torch.eye(k, dtype=torch.float64)
    regression = torch.linalg.solve(C_qq + ridge, C_rq.T).T
    _, vectors = torch.linalg.eigh(regression @ C_rq.T)
    B = vectors.flip(1)[:, :d_D]
    A = B.T @ regression
    deviations = (A @ C_zz @ A.T / rows).diagonal().clamp(min=1e-12).sqrt()
    return replace(coder, analysis=A.float(), synthesis=B.float(), dynamics_deviations=deviations.float())
