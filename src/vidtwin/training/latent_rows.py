"""Training examples of a generator: item n is a function of (seed, n), whoever asks for it.

Letters: N rows of the data set; B batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vidtwin.generation.config import DiTConfig
from vidtwin.generation.tokens import Volumes, to_volumes
from vidtwin.latent_sets.dataset import LatentDataset
from vidtwin.model.latents import NAMES, NormalizedLatents
from vidtwin.training.generator_recipe import GeneratorRecipe
from vidtwin.training.schedule import noise_generator

MIXED = 8  # row groups whose rows are mixed: as many as LatentDataset keeps in memory


@dataclass(frozen=True, eq=False)
class Examples:
    """B of them.

    Attributes:
        clean, noise: volumes. levels: (B, 2), of Structure and Dynamics; 0 is clean. labels: (B,), the number of classes for none.
        previous: volumes of the windows before, 0 where there is none. has_previous: (B,).
    """

    clean: Volumes
    noise: Volumes
    levels: Tensor
    labels: Tensor
    previous: Volumes
    has_previous: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "Examples":
        """Apply a function to each tensor."""

        def pair(volumes: Volumes) -> Volumes:
            return function(volumes[0]), function(volumes[1])

        levels, labels, there = (function(z) for z in (self.levels, self.labels, self.has_previous))
        return Examples(pair(self.clean), pair(self.noise), levels, labels, pair(self.previous), there)

    def to(self, device: torch.device) -> "Examples":
        return self.map(lambda z: z.to(device, non_blocking=True))

    def pin_memory(self) -> "Examples":
        """For the loader."""
        return self.map(Tensor.pin_memory)


def class_names(rows: LatentDataset, label: str | None) -> list[str]:
    """The classes of a data set, sorted: the values of its column `label`; none if that is None.

    Raises:
        ValueError: no such column.
    """
    if label is None:
        return []
    if label not in rows.names:
        raise ValueError(
            f"{rows.folder}: no column {label!r} to take classes from; encode with label=True, give a list with such a column, "
            "or train without classes (label: null)"
        )
    return sorted({str(value) for value in rows.column(label)})


class TrainingRows(Dataset[Examples]):
    """Examples of a data set, as batches of one.

    Number n is row n mod N of the order of epoch n // N, in which row groups come in a random order and the rows of `MIXED` of
    them are mixed, so that reading stays near. With `count` they are spread evenly over the data set, as many in all.

    Args:
        config: of the denoiser. classes: as `class_names` gives; a label that is not among them is a ValueError.
    """

    def __init__(
        self, folder: str | Path, recipe: GeneratorRecipe, config: DiTConfig, classes: list[str], count: int | None = None
    ):
        label = None if recipe.label is None else (recipe.label,)
        self.rows = LatentDataset(folder, columns=label or ())
        if not len(self.rows):
            raise ValueError(f"{folder}: a data set without rows; encode videos first")
        self.recipe, self.config, self.count = recipe, config, count
        self.numbers = {name: number for number, name in enumerate(classes)}
        self.process = recipe.process
        self.before = self._rows_before() if config.previous else None
        self._order = lru_cache(2)(self._shuffled)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_order": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._order = lru_cache(2)(self._shuffled)

    def __len__(self) -> int:
        return len(self.rows) if self.count is None else self.count

    def row(self, number: int) -> int:
        """Which row example `number` is of."""
        if self.count is not None:
            return number * len(self.rows) // self.count % len(self.rows)
        epoch, place = divmod(number, len(self.rows))
        return int(self._order(epoch)[place])

    def _shuffled(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.recipe.seed, epoch])
        sizes = [rows for *_, rows in self.rows.groups]
        starts = np.cumsum([0, *sizes])
        groups = rng.permutation(len(sizes))
        mixed = [groups[i : i + MIXED] for i in range(0, len(groups), MIXED)]
        return np.concatenate([rng.permutation(np.concatenate([np.arange(starts[g], starts[g + 1]) for g in m])) for m in mixed])

    def _rows_before(self) -> np.ndarray:
        """The row of the window that ends where each one begins, -1 if there is none."""
        before = np.full(len(self.rows), -1)
        if self.rows.plan.every is None:
            videos, starts, anchors = (self.rows.column(name) for name in ("video", "start", "frame_index"))
            for row in range(1, len(before)):
                same = videos[row] == videos[row - 1] and starts[row] == starts[row - 1]
                if same and anchors[row] > anchors[row - 1]:
                    before[row] = row - 1
        if (before < 0).all():
            raise ValueError(
                f"{self.rows.folder}: has no windows that follow one another, which previous: true learns from; "
                "encode longer videos, one window after another"
            )
        return before

    def __getitem__(self, number: int) -> Examples:
        recipe = self.recipe
        row = self.row(number)
        values = self.rows[row]
        clean = self._volumes(values)
        draw = noise_generator(recipe.seed, number)
        noise = (torch.randn(clean[0].shape, generator=draw), torch.randn(clean[1].shape, generator=draw))
        chances = torch.rand(3, generator=draw, dtype=torch.float64).tolist()
        levels = self._levels(draw, chances[0])
        label = len(self.numbers)
        if recipe.label is not None:
            name = str(values[recipe.label])
            if name not in self.numbers:
                raise ValueError(f"{self.rows.folder}: class {name!r} of row {row} is not in {recipe.latents}; leave it out")
            label = label if chances[1] < recipe.class_dropout else self.numbers[name]
        before = -1 if self.before is None or chances[2] < recipe.previous_dropout else int(self.before[row])
        previous = (torch.zeros_like(clean[0]), torch.zeros_like(clean[1])) if before < 0 else self._volumes(self.rows[before])
        return Examples(clean, noise, torch.tensor([levels]).float(), torch.tensor([label]), previous, torch.tensor([before >= 0]))

    def _volumes(self, row: dict[str, Any]) -> Volumes:
        tensors = [row[name][None] for name in NAMES]
        return to_volumes(NormalizedLatents(*tensors))

    def _levels(self, draw: torch.Generator, chance: float) -> tuple[float, float]:
        level, other = self.process.draw_level(draw), self.process.draw_level(draw)
        share = self.recipe.separate_levels / 3
        if chance < share:
            return 0.0, level
        if chance < 2 * share:
            return level, 0.0
        return (level, other) if chance < 3 * share else (level, level)


def collate(examples: list[Examples]) -> Examples:
    """A batch of batches."""

    def pairs(name: str) -> Volumes:
        volumes = [getattr(example, name) for example in examples]
        return torch.cat([v[0] for v in volumes]), torch.cat([v[1] for v in volumes])

    levels, labels, there = (
        torch.cat([getattr(example, name) for example in examples]) for name in ("levels", "labels", "has_previous")
    )
    return Examples(pairs("clean"), pairs("noise"), levels, labels, pairs("previous"), there)
