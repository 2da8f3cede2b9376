"""Latents to bytes and back: quantised around the posterior mean, coded with integer models of each channel.

A channel c is rounded to q = round(mean / (step sigma_c)), sigma_c the posterior's standard deviation averaged over a data set, and
comes back as float32(q) float32(step sigma_c). q, or where that is smaller the difference to the q before it on the tensor's first
axis after the channels (queries of Structure, frames of Dynamics), is coded as a Gaussian integrated over bins of 1. Its centre and
width, of the first entry of that axis and of the rest, are integers on fixed grids, and so are the bin masses: encoder and decoder
need no floating-point function to agree. The coder is constriction's ANS.

Letters: T tiles of a frame; C channels of a latent, K entries of the axis after them, P values of each.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import torch

from vidtwin.checked import build
from vidtwin.latents.bins import CENTRES, SCALES, BinModel, Operation, needs_constriction
from vidtwin.model.config import VidTwinConfig
from vidtwin.model.latents import NAMES, Latents, Posterior

CODER = "ans, gaussian bins 1"  # changes with whatever changes the bytes
SCALE_RANGE = (-4 * SCALES, 28 * SCALES - 1)  # 2^-4 to just below 2^28 steps
MOST_STEPS = 2**30  # of |q|
MOST_VALUES = 2**24  # of a window


Prior = Literal["fitted", "normal"]


class Moments:
    """What the models of the channels are fitted to, collected window by window.

    Attributes:
        kl: of Structure and of Dynamics, in bits, of all windows; None if there were no log-variances.
    """

    def __init__(self) -> None:
        self._sums: list[np.ndarray] = []  # of each latent: (C, 9), see `_sums_of`
        self._kl: list[float] = []
        self.windows = 0

    def add(self, mean: Latents, logvar: Latents | None) -> None:
        """The posterior of a window, (T, ...) each."""
        self.windows += 1
        logvars = [None] * 3 if logvar is None else logvar.tensors
        sums = [_sums_of(m.numpy(), None if v is None else v.numpy()) for m, v in zip(mean.tensors, logvars, strict=True)]
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)] if self._sums else sums
        if logvar is not None:
            parts = [part.sum().item() for part in Posterior(mean, logvar).kl_bits().values()]
            self._kl = [a + b for a, b in zip(self._kl or (0.0, 0.0), parts, strict=True)]

    @property
    def kl(self) -> tuple[float, float] | None:
        return (self._kl[0], self._kl[1]) if self._kl else None

    @property
    def sigma(self) -> tuple[np.ndarray, ...]:
        """The posterior's standard deviation, averaged: float32 (C,) of each latent. Raises ValueError without log-variances."""
        if not self._kl:
            raise ValueError("holds no log-variances to take the quantiser's sigma from; encode with logvar=True, or give sigma")
        return tuple((sums[:, 8] / (sums[:, 0] + sums[:, 1])).astype(np.float32) for sums in self._sums)

    def gaussians(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (C, 3) of the first entries, the rest, and the differences of the rest to the entry before."""
        sums = self._sums[latent]
        count = np.maximum(sums[:, [0, 1, 1]], 1)
        mean = sums[:, 2:5] / count
        return mean, np.maximum(sums[:, 5:8] / count - mean**2, 0)


def _sums_of(mean: np.ndarray, logvar: np.ndarray | None) -> np.ndarray:
    """(T, C, K, ...) -> (C, 9): first values, other values, three sums and three sums of squares (`gaussians`), sum of sigma."""
    values = _folded(mean).astype(np.float64)
    kinds = values[:, :, :1], values[:, :, 1:], np.diff(values, axis=2)
    counts = [np.full(values.shape[1], kind[:, 0].size, np.float64) for kind in kinds[:2]]
    sigma = np.zeros(values.shape) if logvar is None else np.exp(0.5 * _folded(logvar).astype(np.float64))
    sums = [kind.sum((0, 2, 3)) for kind in (*kinds, *(kind**2 for kind in kinds), sigma)]
    return np.stack([*counts, *sums], axis=1)


def _folded(tensor: np.ndarray) -> np.ndarray:
    """(T, C, K, ...) -> (T, C, K, P)."""
    return tensor.reshape(*tensor.shape[:3], prod(tensor.shape[3:]))


@dataclass(frozen=True, eq=False)
class Channels:
    """The quantiser and the models of a latent's C channels.

    Attributes:
        sigma: float32 (C,).
        differences: bool (C,), whether entries but the first are coded as the difference to the one before.
        centre: (C, 2) of the first entries and the rest, in 1 / CENTRES steps.
        scale: (C, 2) of the same, k for a width of 2^(k / SCALES) steps.
    """

    sigma: np.ndarray
    differences: np.ndarray
    centre: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True, eq=False)
class LatentCoder:
    """Codes the latents of a window, Structure and Dynamics apart. step: of the quantiser, in sigma; channels: of each latent."""

    step: float
    channels: tuple[Channels, ...]

    @classmethod
    def fit(
        cls, moments: Moments, step: float, sigma: Sequence[np.ndarray] | None = None, prior: Prior = "fitted"
    ) -> "LatentCoder":
        """For latents of these moments.

        Args:
            step: in units of sigma. sigma: (C,) of each latent; default that of the moments.
            prior: models fitted to the means, or "normal": N(0, 1) for all channels.

        Raises:
            ValueError: a step that is not above 0, or too small for the means; no sigma, or one that is not above 0.
        """
        check_step(step)
        sigmas = [np.asarray(values, np.float32) for values in (moments.sigma if sigma is None else sigma)]
        channels = []
        for latent, values in enumerate(sigmas):
            mean, variance = moments.gaussians(latent)
            if values.shape != mean.shape[:1] or not _positive(_delta(step, values)):
                raise ValueError(f"sigma of {NAMES[latent]} times step {step:g}: expected {len(mean)} values above 0")
            delta = _delta(step, values).astype(np.float64)[:, None]
            mean, variance = mean / delta, variance / delta**2
            _check_reach(mean)
            variance[:, 2] += 1 / 12  # a difference has the rounding of both
            differences = variance[:, 2] < variance[:, 1]
            if prior == "normal":
                mean, variance, differences = np.zeros_like(mean), np.tile(delta**-2, 3), np.zeros_like(differences)
            other = np.where(differences, 2, 1)
            kinds = np.stack([np.zeros_like(other), other], axis=1)
            centre = np.rint(np.take_along_axis(mean, kinds, 1) * CENTRES)
            width = np.log2(np.maximum(np.take_along_axis(variance, kinds, 1), 1e-12)) / 2
            scale = np.clip(np.rint(SCALES * width), *SCALE_RANGE)
            channels.append(Channels(values, differences, centre.astype(np.int64), scale.astype(np.int64)))
        return cls(step, tuple(channels))

    def quantized(self, latents: Latents) -> Latents:
        """What comes back of latents, without coding them. Raises ValueError as `encode`."""
        pairs = zip(latents.tensors, self.channels, strict=True)
        return Latents(*(self._values(self._steps(t.numpy(), c), c, t.shape) for t, c in pairs))

    def encode(self, latents: Latents) -> tuple[bytes, bytes]:
        """Latents of a window (T, ...) as Structure and Dynamics. Raises ValueError for values too large for the step."""
        coded = []
        for part in (slice(0, 1), slice(1, 3)):
            operations: list[Operation] = []
            for tensor, channels in zip(latents.tensors[part], self.channels[part], strict=True):
                operations += _operations(self._steps(tensor.numpy(), channels), channels)
            ans = needs_constriction().stream.stack.AnsCoder()
            for symbols, model in reversed(operations):
                ans.encode_reverse(symbols.astype(np.int32), model)
            coded.append(ans.get_compressed().astype("<u4").tobytes())
        return coded[0], coded[1]

    def decode(self, structure: bytes, dynamics: bytes, shapes: Sequence[tuple[int, ...]]) -> Latents:
        """What `encode` gave, as latents of these shapes. Raises ValueError if it is not of such latents."""
        tensors = []
        for data, part in ((structure, slice(0, 1)), (dynamics, slice(1, 3))):
            if len(data) % 4:
                raise ValueError("coded values are not whole words")
            ans = needs_constriction().stream.stack.AnsCoder(np.frombuffer(data, "<u4").astype(np.uint32))
            for shape, channels in zip(shapes[part], self.channels[part], strict=True):
                tensors.append(self._values(_steps(ans, shape, channels), channels, shape))
            if not ans.is_empty():
                raise ValueError("coded values do not end where they should")
        return Latents(*tensors)

    def _steps(self, mean: np.ndarray, channels: Channels) -> np.ndarray:
        """(T, C, ...) -> q, int64 (T, C, K, P)."""
        delta = _delta(self.step, channels.sigma).astype(np.float64)
        q = np.rint(_folded(mean).astype(np.float64) / delta[:, None, None])
        _check_reach(q)
        return q.astype(np.int64)

    def _values(self, q: np.ndarray, channels: Channels, shape: tuple[int, ...]) -> torch.Tensor:
        values = q.astype(np.float32) * _delta(self.step, channels.sigma)[:, None, None]
        return torch.from_numpy(values.reshape(shape))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, safe for JSON, that keep each float32; `from_dict` reads them back."""
        latents = {
            name: {
                "sigma": [float(str(value)) for value in c.sigma],
                "differences": [int(value) for value in c.differences],
                "centre": c.centre.tolist(),
                "scale": c.scale.tolist(),
            }
            for name, c in zip(NAMES, self.channels, strict=True)
        }
        return {"coder": CODER, "step": self.step, "latents": latents}

    @staticmethod
    def from_dict(facts: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]) -> "LatentCoder":
        """What `to_dict` wrote, for latents of shapes (T, C, ...). Raises KeyError, TypeError, ValueError if it is not that."""
        found = build(_Coder, facts, more=True)
        if found.coder != CODER:
            raise ValueError(f"coder {found.coder!r}; this vidtwin knows {CODER!r}")
        if sum(prod(shape) for shape in shapes) > MOST_VALUES:
            raise ValueError(f"windows of more than {MOST_VALUES} values")
        step = found.step
        check_step(step)
        channels = []
        for name, (_, count, *_) in zip(NAMES, shapes, strict=True):
            table = found.latents[name]
            with np.errstate(over="ignore"):  # which is refused below
                sigma = np.array(table.sigma, np.float32)
            differences, centre, scale = (np.array(t, np.int64) for t in (table.differences, table.centre, table.scale))
            fits = sigma.shape == differences.shape == (count,) and centre.shape == scale.shape == (count, 2)
            if not fits or not _positive(_delta(step, sigma)) or not np.isin(differences, (0, 1)).all():
                raise ValueError(f"models of {name} are not those of {count} channels")
            bound = 2 * CENTRES * MOST_STEPS
            if not all(low <= v.min() and v.max() <= high for v, low, high in ((centre, -bound, bound), (scale, *SCALE_RANGE))):
                raise ValueError(f"models of {name} are out of range")
            channels.append(Channels(sigma, differences.astype(bool), centre, scale))
        return LatentCoder(step, tuple(channels))


@dataclass(frozen=True)
class _Table:
    """What `LatentCoder.to_dict` says of a latent."""

    sigma: list[float]
    differences: list[int]
    centre: list[tuple[int, int]]
    scale: list[tuple[int, int]]


@dataclass(frozen=True)
class _Coder:
    """What `LatentCoder.to_dict` gives."""

    coder: str
    step: float
    latents: dict[str, _Table]


def check_step(step: float) -> None:
    """Raise a ValueError for a step that cannot be."""
    if not 0 < step < math.inf:
        raise ValueError(f"step={step:g}: give a number above 0, in units of the posterior's sigma")


def check_channels(config: VidTwinConfig) -> None:
    """Raise a ValueError for a model one of whose latents has no values to code."""
    if not all(map(prod, config.latent_shapes)):
        raise ValueError("a model without Dynamics (dynamics_branch: none) has no compressed latents; keep the plain form")


def _check_reach(q: np.ndarray) -> None:
    if not (np.abs(q) < MOST_STEPS).all():
        raise ValueError(f"values of {np.abs(q).max():.3g} steps; at most {MOST_STEPS} can be coded: give a larger step")


def _positive(values: np.ndarray) -> bool:
    return bool((np.isfinite(values) & (values > 0)).all())


def _delta(step: float, sigma: np.ndarray) -> np.ndarray:
    """Width of the quantiser's bins, float32 (C,)."""
    with np.errstate(over="ignore", under="ignore"):
        delta: np.ndarray = np.float32(step) * sigma
    return delta


def _operations(q: np.ndarray, channels: Channels) -> Iterator[Operation]:
    """q (T, C, K, P) as symbols and their models, in the order in which they are decoded."""
    for c, different in enumerate(channels.differences):
        first, rest = q[:, c, :1], np.diff(q[:, c], axis=1) if different else q[:, c, 1:]
        for kind, values in enumerate((first, rest)):
            if values.size:
                yield from BinModel.of(channels.centre[c, kind], channels.scale[c, kind]).operations(values.ravel())


def _steps(ans: Any, shape: tuple[int, ...], channels: Channels) -> np.ndarray:
    """q (T, C, K, P) from a coder."""
    tiles, count, entries, *more = shape
    q = np.empty((tiles, count, entries, prod(more)), np.int64)
    for c, different in enumerate(channels.differences):
        for kind, part in enumerate((q[:, c, :1], q[:, c, 1:])):
            if part.size:
                model = BinModel.of(channels.centre[c, kind], channels.scale[c, kind])
                part[...] = model.decode(ans, part.size).reshape(part.shape)
        if different:
            np.cumsum(q[:, c], axis=1, out=q[:, c])
    return q
