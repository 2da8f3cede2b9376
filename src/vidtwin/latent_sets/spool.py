"""What came of each item, in a folder where any number of processes put it, each item once."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vidtwin.checked import fact, parse_json, read_json
from vidtwin.files import atomic_output, write_json
from vidtwin.latent_sets.encode import Failure, Rows
from vidtwin.latent_sets.items import Content, Item, content, glance
from vidtwin.latent_sets.plan import Plan
from vidtwin.latent_sets.rows import columns_of, needs_pyarrow, schema, unpack
from vidtwin.latent_sets.statistics import Statistics
from vidtwin.model.latents import NAMES

METADATA = b"vidtwin"


@dataclass(frozen=True)
class Entry:
    """What a part, or `work`, knows of an item that is done: its content, how many rows it has or why it has none, and what was
    carried over to them."""

    key: str
    content: Content | None
    rows: int
    reason: str | None = None
    columns: tuple[tuple[str, Any], ...] = ()

    def is_of(self, item: Item) -> bool:
        """Whether the item is as it was. Its file is read only if its size is the same and its modification time is not."""
        if self.content is None or (self.reason is None and self.columns != item.columns):
            return False
        if isinstance(item.file, str):
            return True  # a remote file is taken to be what it was
        seen = glance(item)
        if seen is None or seen[0] != self.content.size:
            return False
        if seen[1] == self.content.modified:
            return True
        try:
            return content(item.file).sha256 == self.content.sha256
        except OSError:
            return False


class Spool:
    """A file for each item that is done: its rows (Arrow), or why it has none (JSON). Each is whole or not there."""

    def __init__(self, folder: Path, plan: Plan):
        self.folder, self.plan = folder, plan

    def pending(self, item: Item) -> Entry | None:
        """What there is of an item; None if that is nothing, or not whole."""
        rows, failure = self._files(item)
        try:
            if rows.is_file():
                entry = self._entry(rows, item)
            elif failure.is_file():
                entry = entry_of(read_json(failure))
            else:
                return None
        except (OSError, KeyError, TypeError, ValueError, IndexError, needs_pyarrow().ArrowException):
            return None  # encoded again
        return entry if entry.key == item.key and failure.is_file() == (entry.reason is not None) else None

    def _entry(self, rows: Path, item: Item) -> Entry:
        """Of a file of rows. Raises ValueError if they are not those of an item of this plan: a part takes them as they are."""
        pa = needs_pyarrow()
        with pa.memory_map(str(rows)) as file:
            table = pa.ipc.open_file(file).read_all()
        (entry,), statistics = _stated(table)
        if not table.schema.equals(schema(self.plan, item.columns)) or entry.rows != table.num_rows or not entry.rows:
            raise ValueError("other rows than it says")
        if statistics.channels != tuple(shape[0] for shape in self.plan.config.latent_shapes):
            raise ValueError("statistics of other latents")
        table.validate(full=True)
        return entry

    def _files(self, item: Item) -> tuple[Path, Path]:
        name = hashlib.sha256(item.key.encode()).hexdigest()[:32]
        return self.folder / f"{name}.arrow", self.folder / f"{name}.json"

    def keep(self, outcome: Rows | Failure) -> Entry:
        """Put down what came of an item, in place of what was there of it."""
        rows, failure = self._files(outcome.item)
        if isinstance(outcome, Failure):
            entry = Entry(outcome.item.key, outcome.content, 0, outcome.reason)
            write_json(failure, asdict(entry))
            self._tries(outcome.item).unlink(missing_ok=True)
            return entry
        pa = needs_pyarrow()
        entry = Entry(outcome.item.key, outcome.content, outcome.table.num_rows, columns=outcome.item.columns)
        statistics = Statistics.of(stored_values(outcome.table, self.plan))
        table = outcome.table.replace_schema_metadata({METADATA: to_json([entry], statistics)})
        with atomic_output(rows) as partial, pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        for path in (failure, self._tries(outcome.item)):
            path.unlink(missing_ok=True)
        return entry

    def rows(self, item: Item) -> tuple[Any, Entry, Statistics]:
        """The table of an item that has one, with what it says of it."""
        pa = needs_pyarrow()
        with pa.OSFile(str(self._files(item)[0])) as file:
            table = pa.ipc.open_file(file).read_all()
        (entry,), statistics = _stated(table)
        return table, entry, statistics

    def attempt(self, item: Item) -> int:
        """Count that an item is begun: how often it was, this time included."""
        tries = self.tries(item) + 1
        with atomic_output(self._tries(item)) as partial:
            partial.write_text("x" * tries)
        return tries

    def tries(self, item: Item) -> int:
        """How often an item was begun, and not done."""
        path = self._tries(item)
        return len(path.read_text()) if path.is_file() else 0

    def _tries(self, item: Item) -> Path:
        return self._files(item)[0].with_suffix(".tries")

    def forget(self, item: Item) -> None:
        """Delete what there is of an item."""
        for path in (*self._files(item), self._tries(item)):
            path.unlink(missing_ok=True)


def _stated(table: Any) -> tuple[list[Entry], Statistics]:
    """What a table of rows says of itself. Raises ValueError, or TypeError or KeyError, if that is nothing."""
    metadata = table.schema.metadata[METADATA]
    return entries_in(metadata), Statistics.from_dict(fact(parse_json(metadata), "statistics", dict))


def stored_values(table: Any, plan: Plan) -> list[Any]:
    """The three latents of rows as they will be read back, float32 (N, C, ...)."""
    names = [name for name in table.schema.names if name in NAMES or name.removesuffix("_scale") in NAMES]
    columns = columns_of(table, names)
    return [unpack(columns, name, shape) for name, shape in zip(NAMES, plan.config.latent_shapes, strict=True)]


def to_json(entries: Sequence[Entry], statistics: Statistics) -> bytes:
    return json.dumps({"items": [asdict(entry) for entry in entries], "statistics": statistics.to_dict()}).encode()


def entries_in(metadata: bytes) -> list[Entry]:
    """What `to_json` wrote. Raises ValueError if it is not that."""
    return [entry_of(facts) for facts in fact(parse_json(metadata), "items", list)]


def entry_of(facts: Any) -> Entry:
    """An entry from plain values. Raises ValueError if they are none."""
    own, content = [fact({"column": pair}, "column", list) for pair in fact(facts, "columns", list)], None
    if any(len(pair) != 2 or type(pair[0]) is not str or type(pair[1]) not in (str, int, float) for pair in own):
        raise ValueError("columns are not pairs of a name and a value")
    if "content" not in facts or facts["content"] is not None:
        there = fact(facts, "content", dict)
        content = Content(fact(there, "size", int, 0), fact(there, "modified", int), fact(there, "sha256", str))
    reason = None if "reason" in facts and facts["reason"] is None else fact(facts, "reason", str)
    return Entry(fact(facts, "key", str), content, fact(facts, "rows", int, 0), reason, tuple((name, v) for name, v in own))
