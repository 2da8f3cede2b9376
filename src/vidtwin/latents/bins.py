"""Integers coded as a Gaussian integrated over bins of 1, whose masses come from whole numbers alone, by constriction's ANS."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

CENTRES = 8  # on the grid of centres, a step
SCALES = 8  # on the grid of widths, an octave
PLAIN = 4  # octave: of wider models the low bits are stored as they are, so that 16 to 32 steps are left
REACH = 6  # widths of a table to each side; what is beyond is escaped
HALF = 1 << 16

_ONE = 1 << 30  # bin masses are in units of 1 / _ONE
_FINE, _END = 10, 8  # the table of the normal distribution: 2^_FINE entries a width, up to _END widths
_MANTISSAS = (65536, 71468, 77936, 84990, 92682, 101070, 110218, 120194)  # round(2^16 2^(j / 8))

Operation = tuple[np.ndarray, Any]  # symbols and their model


def needs_constriction() -> Any:
    """The module, imported when it is used. Raises ValueError if it is not installed."""
    try:
        import constriction
    except ImportError:
        raise ValueError("compressed latents need the package constriction: pip install 'vidtwin[compress]'") from None
    return constriction


@dataclass(frozen=True, eq=False)
class BinModel:
    """Integers as a Gaussian of a centre and width: v = centre + 2^shift high + low.

    high is a symbol of a table, `low` of `shift` bits as it is; a high beyond the table is symbol 0, and v follows in 32 bits.
    """

    centre: int
    shift: int
    reach: int  # the table is of -reach to reach
    table: Any

    @classmethod
    def of(cls, centre: int, scale: int) -> "BinModel":
        """centre in 1 / CENTRES, scale k for a width of 2^(k / SCALES)."""
        whole = (int(centre) + CENTRES // 2) // CENTRES
        shift = max(0, int(scale) // SCALES - PLAIN)
        reach, table = _table(int(scale) - SCALES * shift, 0 if shift else int(centre) - CENTRES * whole)
        return cls(whole - (1 << shift >> 1), shift, reach, table)

    def operations(self, values: np.ndarray) -> Iterator[Operation]:
        """Symbols and models that give the values (n,) back."""
        uniform = needs_constriction().stream.model.Uniform
        high = (values - self.centre) >> self.shift
        inside = np.abs(high) <= self.reach
        yield np.where(inside, high + self.reach + 1, 0), self.table
        if self.shift and inside.any():
            yield ((values - self.centre) & ((1 << self.shift) - 1))[inside], uniform(1 << self.shift)
        if not inside.all():
            wide = values[~inside] + HALF * HALF // 2
            yield np.stack([wide // HALF, wide % HALF], axis=1).ravel(), uniform(HALF)

    def decode(self, ans: Any, count: int) -> np.ndarray:
        """The next values, int64 (count,)."""
        uniform = needs_constriction().stream.model.Uniform
        symbols = ans.decode(self.table, count).astype(np.int64)
        inside = symbols > 0
        values = ((symbols - self.reach - 1) << self.shift) + self.centre
        if self.shift and inside.any():
            values[inside] += ans.decode(uniform(1 << self.shift), int(inside.sum()))
        if not inside.all():
            halves = ans.decode(uniform(HALF), 2 * int((~inside).sum())).astype(np.int64)
            values[~inside] = halves[::2] * HALF + halves[1::2] - HALF * HALF // 2
        return values


@cache
def _table(scale: int, offset: int) -> tuple[int, Any]:
    """Reach, and the model of 2 reach + 2 symbols: an escape, then bins of 1 of a Gaussian whose centre is offset / CENTRES."""
    reach, masses = bin_masses(scale, offset)
    return reach, needs_constriction().stream.model.Categorical(masses.astype(np.float64), perfect=False)


def bin_masses(scale: int, offset: int) -> tuple[int, np.ndarray]:
    """Reach r, and masses in units of 2^-30, int64 (2 r + 2,), of an escape and of -r ... r; by integers alone."""
    octave, mantissa = divmod(scale, SCALES)
    width = _MANTISSAS[mantissa] << (octave + PLAIN)  # in 2^-20
    reach = 1 + ((REACH * width) >> 20)
    edges = np.arange(-reach, reach + 2) * (2 * CENTRES) - CENTRES - 2 * offset  # in 1 / (2 CENTRES)
    place = (edges << (_FINE + 8 + 16)) // width  # in 2^-(_FINE + 8) widths; 16 = 20 - log2(2 CENTRES)
    place = np.clip(place, -(_END << (_FINE + 8)), (_END << (_FINE + 8)) - 1) + (_END << (_FINE + 8))
    table, whole, part = _normal(), place >> 8, place & 255
    below = table[whole] + (((table[whole + 1] - table[whole]) * part) >> 8)
    return reach, np.concatenate([[_ONE >> 14], np.diff(below)])


@cache
def _normal() -> np.ndarray:
    """The normal distribution function at -_END ... _END in steps of h = 2^-_FINE, in units of 1 / _ONE; int64.

    Densities follow from e^(-(x + h)^2 / 2) = e^(-x^2 / 2) e^(-h x - h^2 / 2), in whole numbers; they are summed by trapezia.
    """
    unit = 96  # bits after the point
    square, fourth = (1 << unit) >> (2 * _FINE), (1 << unit) >> (4 * _FINE)
    factor = (1 << unit) - square // 2 + fourth // 8  # e^(-h^2 / 2)
    narrower = factor * factor >> unit
    density, sums = 1 << unit, [0]
    for _ in range(_END << _FINE):
        following = density * factor >> unit
        factor = factor * narrower >> unit
        sums.append(sums[-1] + density + following)
        density = following
    half = [value * (_ONE // 2) // sums[-1] for value in sums]
    return np.array([_ONE // 2 - value for value in reversed(half[1:])] + [_ONE // 2 + value for value in half], np.int64)
