"""What changes from step to step, as functions of the step alone: learning rates, the data's order, seeds."""

import math
from collections.abc import Iterator

import numpy as np
import torch


def learning_rate(step: int, peak: float, warmup: int, steps: int, final_ratio: float, start: int = 0) -> float:
    """Linear warm-up from `start` to the peak at step start + warmup - 1, then a cosine to final_ratio of it at `steps`."""
    if step - start < warmup:
        return peak * (step - start + 1) / warmup
    done = (step - start - warmup) / max(1, steps - start - warmup)
    return peak * (final_ratio + (1 - final_ratio) * (1 + math.cos(math.pi * done)) / 2)


def clip_numbers(step: int, batch_size: int, processes: int, rank: int, accumulate: int) -> list[list[int]]:
    """Numbers of the clips of a step for one process, a list for each of its passes.

    A step takes batch_size consecutive numbers whatever the number of processes: step 3 of 8 clips, 2 processes, rank 1 and 2
    passes: [[28, 29], [30, 31]].
    """
    share = batch_size // processes
    first = step * batch_size + rank * share
    size = share // accumulate
    return [list(range(first + size * i, first + size * (i + 1))) for i in range(accumulate)]


class StepBatches:
    """The lists of `clip_numbers`, pass after pass, of steps first..steps-1: a batch sampler for one process."""

    def __init__(self, first: int, steps: int, batch_size: int, processes: int, rank: int, accumulate: int):
        self.steps, self.rest = range(first, steps), (batch_size, processes, rank, accumulate)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            yield from clip_numbers(step, *self.rest)

    def __len__(self) -> int:
        return len(self.steps) * self.rest[-1]


def noise_generator(seed: int, clip: int) -> torch.Generator:
    """The generator of the posterior noise of clip number `clip`: the same in any batch and on any process."""
    return torch.Generator().manual_seed(_number(seed, 2, clip))


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's global generators (dropout) for a step."""
    torch.manual_seed(_number(seed, 3, step, rank))


def _number(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
