"""Case number -> damaged file, the same each time."""

from collections.abc import Sequence
from random import Random

from tests.tools.fuzzing.mutations import mutate
from tests.tools.fuzzing.seeds import KINDS, Seed


def make_case(seeds: Sequence[Seed], start: int, number: int) -> tuple[Seed, bytes]:
    """The intact file, and its damaged bytes. start: the run's --seed."""
    rng, kind = _draw(start, number)
    alike = [seed for seed in seeds if seed.kind == kind]
    seed = rng.choice(alike)
    other = rng.choice(alike if rng.random() < 0.7 else seeds)
    return seed, mutate(rng, seed, other.data)


def kind_of(start: int, number: int) -> str:
    """The kind of file that a case is of."""
    return _draw(start, number)[1]


def _draw(start: int, number: int) -> tuple[Random, str]:
    rng = Random(f"{start} {number}")
    return rng, rng.choices(list(KINDS), list(KINDS.values()))[0]
