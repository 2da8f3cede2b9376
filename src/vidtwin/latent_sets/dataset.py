"""A data set of latents, read back: rows at random or in a stream, normalised, for PyTorch's loaders.

Letters: N rows; C channels of a latent.
"""

import bisect
import itertools
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from vidtwin.files import check_regular, first_line
from vidtwin.latent_sets.manifest import read_manifest
from vidtwin.latent_sets.plan import Plan
from vidtwin.latent_sets.rows import latent_fields, latents_in, needs_pyarrow, schema
from vidtwin.latent_sets.statistics import Statistics
from vidtwin.model.latents import NAMES, Latents, NormalizedLatents
from vidtwin.parquet import check_pages

AGAIN = "run vidtwin encode-dataset again"
GROUP_BYTES = 2**29  # that a row group may take, as float32
GROUPS_KEPT = 8  # row groups that random access keeps in memory


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

    It is of the folder as it was when this was made: reading rows that were replaced since is a ValueError, and where only
    others came, a warning.

    Raises:
        FileNotFoundError: no finished data set, or a part of it is missing. ValueError: a damaged one, or an unknown column.
    """

    def __init__(self, folder: str | Path, columns: Sequence[str] = (), normalize: bool = True):
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        self.plan = Plan.from_dict(manifest["plan"])
        self.normalizer = Statistics.from_dict(manifest["statistics"]).normalizer()
        self.normalize = normalize
        self.groups: list[tuple[Path, int, int]] = []  # file, its row group, rows
        self._stamps = {self.folder / "manifest.json": _stamp(self.folder / "manifest.json")}
        for facts in manifest["files"]:
            path = self.folder / facts["file"]
            self.groups += _groups(path, facts["rows"], self.plan, manifest["columns"])
            self._stamps[path] = _stamp(path)
        self._starts = list(itertools.accumulate((rows for *_, rows in self.groups), initial=0))
        self.names: list[str] = [*schema(self.plan).names, *manifest["columns"]]
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
        self._check_unchanged(path)
        try:
            with _parquet().ParquetFile(path, read_dictionary=self.columns) as file:
                for name in self._wanted:
                    check_pages(path, name, file.metadata, [number])
                table = file.read_row_group(number, columns=self._wanted)
        except (OSError, needs_pyarrow().ArrowException) as error:
            raise ValueError(f"{path}: cannot be read ({first_line(error)}); {AGAIN}") from error
        if gaps := next((name for name in self._wanted if name not in self.columns and table.column(name).null_count), None):
            raise ValueError(f"{path}: column {gaps} has gaps; {AGAIN}")
        latents = latents_in(table, self.plan.config)
        if self.normalize:
            latents = Latents(*self.normalizer.normalize(latents).tensors)
        return latents, {name: _values(table.column(name)) for name in self.columns}

    def _check_unchanged(self, path: Path) -> None:
        """Refuse a part that has changed since this was made, and say once that the data set has."""
        if _stamp(path) != self._stamps[path]:
            raise ValueError(f"{self.folder}: was updated since it was opened ({path.name} is another file or gone); open it again")
        manifest = self.folder / "manifest.json"
        if (now := _stamp(manifest)) != self._stamps[manifest]:
            self._stamps[manifest] = now
            warnings.warn(f"{self.folder}: was updated since it was opened; open it again for its new rows", stacklevel=3)

    def _row(self, latents: Latents, columns: dict[str, list[Any]], place: int) -> Row:
        tensors = {name: tensor[place] for name, tensor in zip(NAMES, latents.tensors, strict=True)}
        return tensors | {name: values[place] for name, values in columns.items()}

    def column(self, name: str) -> list[Any]:
        """A column of all rows, as Python values; no other is read. Raises ValueError if there is none."""
        if name not in self.names:
            raise ValueError(f"{self.folder}: no column {name!r}; there are {', '.join(self.names)}")
        paths = dict.fromkeys(path for path, *_ in self.groups)
        for path in paths:
            self._check_unchanged(path)
            check_pages(path, name, footer := _parquet().read_metadata(path), range(footer.num_row_groups))
        tables = (_parquet().read_table(path, columns=[name], read_dictionary=[name]) for path in paths)
        return [value for table in tables for value in _values(table.column(0))]

    def latents_of(self, batch: Row) -> NormalizedLatents | Latents:
        """Of a batch that a loader made: with the type that says whether they are normalised."""
        tensors = [batch[name] for name in NAMES]
        return NormalizedLatents(*tensors) if self.normalize else Latents(*tensors)


def _parquet() -> Any:
    return needs_pyarrow().parquet  # a module cannot be pickled, so it is no attribute


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What tells that a file is still the same; None if it is gone."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _values(column: Any) -> list[Any]:
    """As Python values, of which those that rows share are there once."""
    if not hasattr(column.type, "index_type"):
        return list(column.to_pylist())
    found: list[Any] = []
    for chunk in column.chunks:
        shared = chunk.dictionary.to_pylist()
        found += [None if place is None else shared[place] for place in chunk.indices.to_pylist()]
    return found


def _groups(path: Path, rows: int, plan: Plan, columns: Sequence[str]) -> list[tuple[Path, int, int]]:
    """The row groups of a part. Raises OSError or ValueError, in one line, for one that is missing or not of the plan."""
    pa = needs_pyarrow()
    check_regular(path)
    try:
        with pa.parquet.ParquetFile(path) as file:
            footer, there = file.metadata, file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: cannot be read ({first_line(error)}); {AGAIN}") from error
    most = GROUP_BYTES // (4 * sum(map(prod, latent_fields(plan).values())))
    groups = [(path, group, footer.row_group(group).num_rows) for group in range(footer.num_row_groups)]
    if (largest := max((size for *_, size in groups), default=0)) > most:  # a few bytes may stand for any number of equal rows
        raise ValueError(f"{path}: has a row group of {largest:,} rows, more than {most:,}; {AGAIN}")
    wrong = [field.name for field in schema(plan) if field.name not in there.names or there.field(field.name).type != field.type]
    wrong += [name for name in columns if there.get_field_index(name) < 0]
    if wrong or footer.num_rows != rows:
        what = f"column {wrong[0]} is not that of its plan" if wrong else f"has {footer.num_rows} rows, the manifest says {rows}"
        raise ValueError(f"{path}: {what}; {AGAIN}")
    return groups


class IterableLatents(IterableDataset[Row]):
    """The rows of a `LatentDataset` as a stream: each of `world` processes, and each of its loader's workers, gives a share.

    Rows are dealt out in runs, over row groups in order; with `shuffle` in an order drawn anew for every epoch (`set_epoch`), and
    the rows of `MIXED` groups are mixed. All rows come once an epoch; the shares of processes differ by one row at most.

    Raises:
        ValueError: `rank` is not in 0..world-1, or there are fewer rows than processes.
    """

    MIXED = 4

    def __init__(self, rows: LatentDataset, shuffle: bool = False, seed: int = 0, rank: int = 0, world: int = 1):
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}: give 0 to {world - 1}")
        if len(rows) < world:
            raise ValueError(f"world={world}: {rows.folder} has {len(rows)} rows, too few for each process to get one; use fewer")
        self.rows, self.shuffle, self.seed, self.rank, self.world, self.epoch = rows, shuffle, seed, rank, world, 0

    def set_epoch(self, epoch: int) -> None:
        """Draw another order."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Row]:
        worker = get_worker_info()
        share, shares = (0, 1) if worker is None else (worker.id, worker.num_workers)
        rng = np.random.default_rng([self.seed, self.epoch])
        groups = rng.permutation(len(self.rows.groups)) if self.shuffle else np.arange(len(self.rows.groups))
        mine = self._runs(groups.tolist(), share, shares)
        mixing = np.random.default_rng([self.seed, self.epoch, self.rank, share])
        size = self.MIXED if self.shuffle else 1
        for start in range(0, len(mine), size):
            runs = mine[start : start + size]
            read = [self.rows.read_group(group) for group, _ in runs]
            places = [(number, place) for number, (_, run) in enumerate(runs) for place in run]
            for place in mixing.permutation(len(places)) if self.shuffle else range(len(places)):
                number, row = places[place]
                yield self.rows._row(*read[number], row)

    def _runs(self, groups: list[int], share: int, shares: int) -> list[tuple[int, range]]:
        """Of one worker: groups, and which of their rows."""
        total = len(self.rows)
        begin, end = (total * (self.rank + one) // self.world for one in (0, 1))
        begin, end = (begin + (end - begin) * (share + one) // shares for one in (0, 1))
        runs, first = [], 0
        for group in groups:
            size = self.rows.groups[group][2]
            if run := range(max(0, begin - first), min(size, end - first)):
                runs.append((group, run))
            first += size
        return runs
