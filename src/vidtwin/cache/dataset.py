"""A data set of latents, read back: rows at random or in a stream, normalised, for PyTorch's loaders.

Letters: N rows; C channels of a latent.
"""

import bisect
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from vidtwin.cache.plan import Plan
from vidtwin.cache.rows import latents_in, needs_pyarrow
from vidtwin.cache.statistics import Statistics
from vidtwin.cache.store import read_manifest
from vidtwin.inference.latent_stream import NAMES
from vidtwin.model.latents import Latents, NormalizedLatents

GROUPS_KEPT = 8  # row groups that random access keeps in memory
SMALLEST_STD = 1e-6


@dataclass(frozen=True, eq=False)
class Normalizer:
    """The one place where a data set's statistics are applied, both ways: (z - mean) / std of each channel, and back.

    Attributes:
        mean, std: float32 (C,) of structure, dynamics_x, dynamics_y. A channel that does not vary has std 1.
    """

    mean: tuple[Tensor, Tensor, Tensor]
    std: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def of(cls, statistics: Statistics) -> "Normalizer":
        """Of a data set."""
        mean = [torch.from_numpy(moments.mean).float() for moments in statistics.moments]
        stds = [np.where(moments.std < SMALLEST_STD, 1.0, moments.std) for moments in statistics.moments]
        std = [torch.from_numpy(values).float() for values in stds]
        return cls((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))

    def normalize(self, latents: Latents) -> NormalizedLatents:
        """Of a batch (B, C, ...), wherever it is."""
        return NormalizedLatents(*self._each(latents.tensors, lambda z, mean, std: (z - mean) / std))

    def denormalize(self, latents: NormalizedLatents) -> Latents:
        """Back to what `VidTwin.decode` takes. Raises TypeError for latents that are not normalised."""
        if not isinstance(latents, NormalizedLatents):
            raise TypeError(f"{type(latents).__name__} are not normalised; denormalize takes NormalizedLatents")
        return Latents(*self._each(latents.tensors, lambda z, mean, std: z * std + mean))

    def _each(self, tensors: Sequence[Tensor], function: Any) -> list[Tensor]:
        found = []
        for z, mean, std in zip(tensors, self.mean, self.std, strict=True):
            shape = (1, -1, *[1] * (z.ndim - 2))
            found.append(function(z, mean.to(z).reshape(shape), std.to(z).reshape(shape)))
        return found


Row = dict[str, Any]


class LatentDataset(Dataset[Row]):
    """Rows of a finished data set, by number.

    A row is a dict: "structure", "dynamics_x", "dynamics_y" (float32 tensors, normalised unless `normalize` is False), and
    `columns`, as Python values. PyTorch's loader makes batches of them; `latents_of` takes the three together. The row groups
    last used stay in memory: draw at random near each other (`IterableLatents` does), or have a loader with many workers.

    Args:
        folder: what `vidtwin encode-dataset` wrote.
        columns: further ones wanted, of `names`.
        normalize: by the data set's own statistics, `normalizer`.

    Raises:
        FileNotFoundError: no finished data set. ValueError: a damaged one, or a column that there is not.
    """

    def __init__(self, folder: str | Path, columns: Sequence[str] = (), normalize: bool = True):
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        self.plan = Plan.from_dict(manifest["plan"])
        self.normalizer = Normalizer.of(Statistics.from_dict(manifest["statistics"]))
        self.normalize = normalize
        self._parquet = needs_pyarrow().parquet
        self.groups: list[tuple[Path, int, int]] = []  # file, its row group, rows
        for facts in manifest["files"]:
            footer = self._parquet.read_metadata(self.folder / facts["file"])
            for group in range(footer.num_row_groups):
                self.groups.append((self.folder / facts["file"], group, footer.row_group(group).num_rows))
        self._starts = list(itertools.accumulate((rows for *_, rows in self.groups), initial=0))
        self.names: list[str] = self._parquet.read_schema(self.groups[0][0]).names if self.groups else []
        own = [name for name in self.names if name.removesuffix("_scale") in NAMES]
        if unknown := [name for name in columns if name not in self.names or name in own]:
            raise ValueError(f"{folder}: no column {unknown[0]!r} beside the latents; there are {', '.join(self.names)}")
        self.columns = tuple(columns)
        self._wanted = [*own, *columns]
        self._kept: OrderedDict[int, tuple[Latents, dict[str, list[Any]]]] = OrderedDict()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Row:
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        group = bisect.bisect_right(self._starts, index) - 1
        if group not in self._kept:
            self._kept[group] = self.read_group(group)
            if len(self._kept) > GROUPS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(group)
        return self._row(*self._kept[group], index - self._starts[group])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict()}  # workers read for themselves

    def read_group(self, group: int) -> tuple[Latents, dict[str, list[Any]]]:
        """The latents, normalised if rows are, and the columns of a row group."""
        path, number, _ = self.groups[group]
        with self._parquet.ParquetFile(path) as file:
            table = file.read_row_group(number, columns=self._wanted)
        latents = latents_in(table, self.plan.config)
        if self.normalize:
            latents = Latents(*self.normalizer.normalize(latents).tensors)
        return latents, {name: table.column(name).to_pylist() for name in self.columns}

    def _row(self, latents: Latents, columns: dict[str, list[Any]], place: int) -> Row:
        tensors = {name: tensor[place] for name, tensor in zip(NAMES, latents.tensors, strict=True)}
        return tensors | {name: values[place] for name, values in columns.items()}

    def latents_of(self, batch: Row) -> NormalizedLatents | Latents:
        """Of a batch that a loader made: with the type that says whether they are normalised."""
        tensors = [batch[name] for name in NAMES]
        return NormalizedLatents(*tensors) if self.normalize else Latents(*tensors)


class IterableLatents(IterableDataset[Row]):
    """The rows of a `LatentDataset` as a stream: each of `world` processes, and each of its loader's workers, gives a share.

    Row groups are dealt out; with `shuffle` in an order drawn anew for every epoch (`set_epoch`), and the rows of `MIXED` groups
    are mixed. All rows come once an epoch; shares differ by less than a group for each process and worker.
    """

    MIXED = 4

    def __init__(self, rows: LatentDataset, shuffle: bool = False, seed: int = 0, rank: int = 0, world: int = 1):
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}: give 0 to {world - 1}")
        self.rows, self.shuffle, self.seed, self.rank, self.world, self.epoch = rows, shuffle, seed, rank, world, 0

    def set_epoch(self, epoch: int) -> None:
        """Draw another order."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Row]:
        worker = get_worker_info()
        share, shares = (0, 1) if worker is None else (worker.id, worker.num_workers)
        rng = np.random.default_rng([self.seed, self.epoch])
        groups = rng.permutation(len(self.rows.groups)) if self.shuffle else np.arange(len(self.rows.groups))
        mine = groups[self.rank * shares + share :: self.world * shares].tolist()
        mixing = np.random.default_rng([self.seed, self.epoch, self.rank, share])
        size = self.MIXED if self.shuffle else 1
        for start in range(0, len(mine), size):
            read = [self.rows.read_group(group) for group in mine[start : start + size]]
            places = [(number, place) for number, (latents, _) in enumerate(read) for place in range(len(latents))]
            for place in mixing.permutation(len(places)) if self.shuffle else range(len(places)):
                number, row = places[place]
                yield self.rows._row(*read[number], row)
