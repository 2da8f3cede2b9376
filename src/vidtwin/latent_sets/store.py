"""A cache on disk: a folder that is whole at every moment, whatever is killed when.

    plan.json                    what decides its values, from the first moment on
    data/part-00000.parquet      rows, item after item in the source's order; each file's metadata says which items are in it
    failures.jsonl               items without rows: key, video, start, stop, size, sha256, modified, reason
    README.md                    a card, so that Hugging Face's datasets and hub take data/ for the rows; kept if it is there
    manifest.json                written last: files with rows, bytes and SHA-256; statistics; totals
    work                         while it is made: the rows, or the failure, of each item as it was encoded; a lock

An item's rows are first a file of its own in `work`. As soon as the items before it are done they go into a part, and their files
are deleted after the part has its name. What is in a part counts, whatever else is in `work`.
"""

import fcntl
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vidtwin.checked import fact, parse_json, read_json
from vidtwin.data.sources import MOST_LIST
from vidtwin.files import atomic_output, check_regular, clear_partial, file_hash, first_line, in_line, write_json
from vidtwin.latent_sets.items import Columns, Content, Item
from vidtwin.latent_sets.manifest import DAMAGED, read_manifest
from vidtwin.latent_sets.plan import FORMAT, Plan
from vidtwin.latent_sets.rows import latent_fields, needs_pyarrow, schema
from vidtwin.latent_sets.spool import METADATA, Entry, Spool, entries_in, stored_values, to_json
from vidtwin.latent_sets.statistics import Statistics
from vidtwin.version import __version__

REMEDY = "use the same options, or another folder"
PART_BYTES = 128 * 2**20  # of values in a part: it is closed after the item that reaches it
FAILURES = "failures.jsonl"
FORMER_FAILURES = "failures.parquet"  # of former versions, read still
CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/part-*.parquet
---
# Latents of videos

Made by `vidtwin encode-dataset`. `vidtwin.LatentDataset` reads this folder; so do `datasets.load_dataset` and every reader of
Parquet. `manifest.json` has the model, the options and the statistics of the latents; `failures.jsonl` the recordings without
rows.
"""
GROUP_ROWS = 256  # rows of a row group: what is read to get one row at random


class Store:
    """The folder of a cache, for the one process that puts it together. A context manager, which holds the folder's lock.

    Raises:
        ValueError: the folder holds something else, a cache of another plan, or is being written by another process.
        OSError: it cannot be written.
    """

    def __init__(self, folder: str | Path, plan: Plan, columns: Columns = ()):
        self.folder, self.plan, self.columns = Path(folder), plan, columns
        self.work, self.data = self.folder / "work", self.folder / "data"
        self.copies = self.work / "copies"  # of remote files, for the time they are needed
        self.schema = schema(plan, columns)
        self.spool = Spool(self.work, plan)
        self._old: set[Path] = set()

    def __enter__(self) -> "Store":
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder}: is a file; name a folder for the data set")
        described = self.folder / "plan.json"
        begun = {"work", "data"}  # of a run that was killed before it wrote its plan
        if self.folder.exists() and not described.is_file() and {path.name for path in self.folder.iterdir()} - begun:
            raise ValueError(f"{self.folder}: has something else in it; choose another folder, or an empty one")
        self.work.mkdir(parents=True, exist_ok=True)
        self.data.mkdir(exist_ok=True)
        if (self.work / "lock").exists():
            check_regular(self.work / "lock")
        self._lock = (self.work / "lock").open("a")  # which changes nothing where a link leads out of the folder
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise ValueError(f"{self.folder}: another run is writing it; wait for it, or stop it") from None
        try:
            self._agree(described)
        except BaseException:
            self._lock.close()
            raise
        shutil.rmtree(self.copies, ignore_errors=True)
        for folder in (self.data, self.work, self.folder):
            clear_partial(folder)
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _agree(self, described: Path) -> None:
        mine = self.plan.to_dict() | {"columns": [[name, type(value).__name__] for name, value in self.columns]}
        if not described.is_file():
            write_json(described, mine)
            return
        try:
            found = read_json(described)
            there, columns = Plan.from_dict(found), fact(found, "columns", list)
            if any(not isinstance(pair, list) or [type(text) for text in pair] != [str, str] for pair in columns):
                raise ValueError("columns are not pairs of a name and a kind")
        except DAMAGED as error:
            raise ValueError(f"{described}: not the plan of a data set of latents ({error}); choose another folder") from error
        if difference := self.plan.difference(there):
            raise ValueError(f"{self.folder}: was made with {difference}; use the same options, or another folder")
        if columns != mine["columns"]:
            raise ValueError(f"{self.folder}: was made with {_difference(columns, mine['columns'])}; {REMEDY}")

    def parts(self) -> dict[Path, list[Entry]]:
        """The parts in order, each with its items. Raises ValueError for a part that is damaged, or not of this plan."""
        found = {path: read_entries(path, self.plan) for path in sorted(self.data.glob("part-*.parquet"))}
        self._old = set(found)
        return found

    def failures(self) -> list[Entry]:
        """Of the run before, if one ended. Raises ValueError for a table that is damaged."""
        path = self.folder / FAILURES
        try:
            if path.is_file():
                check_regular(path, MOST_LIST)
                rows = [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
            elif (path := self.folder / FORMER_FAILURES).is_file():
                rows = needs_pyarrow().parquet.read_table(path).to_pylist()
            else:
                return []
            return [_failure(row) for row in rows]
        except (OSError, ValueError, needs_pyarrow().ArrowException) as error:
            raise ValueError(f"{path}: cannot be read ({first_line(error)}); delete it and run again") from error

    def _known(self) -> dict[str, dict[str, Any]]:
        """What the manifest of the run before says of its files."""
        try:
            return {file["file"]: file for file in read_manifest(self.folder)["files"]}
        except (OSError, ValueError):
            return {}

    def next_number(self) -> int:
        """Of the next part."""
        numbers = [int(name[1]) for path in self.data.iterdir() if (name := re.fullmatch(r"part-(\d{1,18})\.parquet", path.name))]
        return max(numbers, default=-1) + 1

    def write_part(self, items: Sequence[Item]) -> Path:
        """The rows of items that are done, out of `work` into a part; their files are deleted."""
        path = self.data / f"part-{self.next_number():05d}.parquet"
        self._write(path, map(self.spool.rows, items))
        for item in items:
            self.spool.forget(item)
        return path

    def without(self, path: Path, keys: set[str]) -> Path | None:
        """A part again without some items, under a new name; None if nothing is left. The old one is not deleted."""
        entries, parquet = read_entries(path), needs_pyarrow().parquet
        kept = [entry for entry in entries if entry.key not in keys]
        if not kept:
            return None
        table = parquet.read_table(path)

        def tables() -> Iterator[tuple[Any, Entry, Statistics]]:
            row = 0
            for entry in entries:
                if entry.key not in keys:
                    part = table.slice(row, entry.rows)
                    yield part, entry, Statistics.of(stored_values(part, self.plan))
                row += entry.rows

        new = self.data / f"part-{self.next_number():05d}.parquet"
        self._write(new, tables())
        return new

    def _write(self, path: Path, tables: Iterable[tuple[Any, Entry, Statistics]]) -> None:
        parquet, entries = needs_pyarrow().parquet, []
        statistics = Statistics.none([shape[0] for shape in self.plan.config.latent_shapes])
        text = [field.name for field in self.schema if field.type in (needs_pyarrow().string(),)]
        values = [f"{name}.list.element" for name in latent_fields(self.plan)]
        # Values hardly compress; what is the same in many rows does. Parquet's own int8 takes 4 bytes, an entry of a dictionary 1.
        compression = {leaf: "NONE" if leaf in values else "ZSTD" for leaf in _leaves(self.schema)}
        dictionaries = [*text, *(values if self.plan.stored == "int8" else [])]
        with atomic_output(path) as partial:
            metadata = {METADATA: json.dumps(self.plan.to_dict()).encode()}
            with parquet.ParquetWriter(
                partial, self.schema.with_metadata(metadata), compression=compression, use_dictionary=dictionaries,
                write_statistics=[*text, "frame_index", "start"], store_schema=True,
            ) as writer:  # fmt: skip
                waiting: list[Any] = []
                for table, entry, of_item in tables:
                    entries.append(entry)
                    statistics = statistics.merged(of_item)
                    waiting.append(table.replace_schema_metadata(metadata).cast(writer.schema))
                    while sum(map(len, waiting)) >= GROUP_ROWS:
                        joined = needs_pyarrow().concat_tables(waiting)
                        writer.write_table(joined.slice(0, GROUP_ROWS).combine_chunks(), row_group_size=GROUP_ROWS)
                        waiting = [joined.slice(GROUP_ROWS)]
                if sum(map(len, waiting)):
                    writer.write_table(needs_pyarrow().concat_tables(waiting).combine_chunks(), row_group_size=GROUP_ROWS)
                writer.add_key_value_metadata({"vidtwin.items": to_json(entries, statistics).decode()})

    def finish(self, parts: Sequence[Path], failures: Sequence[tuple[Item, Entry]], took: dict[str, Any]) -> dict[str, Any]:
        """Write the failures and the manifest, then delete what neither needs. Returns the manifest."""
        pa = needs_pyarrow()
        with atomic_output(self.folder / FAILURES) as partial:
            partial.write_text("".join(f"{json.dumps(_failure_row(*failure))}\n" for failure in failures), encoding="utf-8")
        (self.folder / FORMER_FAILURES).unlink(missing_ok=True)
        if not (self.folder / "README.md").exists():
            with atomic_output(self.folder / "README.md") as partial:
                partial.write_text(CARD, encoding="utf-8")
        statistics = Statistics.none([shape[0] for shape in self.plan.config.latent_shapes])
        files, items = [], 0
        known = self._known()
        for path in parts:
            footer = pa.parquet.read_metadata(path)
            statistics = statistics.merged(Statistics.from_dict(json.loads(footer.metadata[b"vidtwin.items"])["statistics"]))
            items += len(read_entries(path))
            facts = {"file": f"data/{path.name}", "rows": footer.num_rows, "bytes": path.stat().st_size}
            before = known.get(facts["file"], {})
            # Parts do not change once they have their name.
            same = path in self._old and all(before.get(name) == value for name, value in facts.items())
            files.append(facts | {"sha256": before["sha256"] if same else file_hash(path)})
        manifest = {
            "format": FORMAT,
            "plan": self.plan.to_dict(),
            "columns": [name for name, _ in self.columns],
            "rows": sum(file["rows"] for file in files),
            "items": items,
            "failures": len(failures),
            "files": files,
            "statistics": statistics.to_dict(),
            "vidtwin": __version__,
            "run": took,
        }
        write_json(self.folder / "manifest.json", manifest)
        for path in self.data.glob("part-*.parquet"):
            if path not in parts:
                path.unlink()
        shutil.rmtree(self.work, ignore_errors=True)
        return manifest


def _difference(before: list[list[str]], now: list[list[str]]) -> str:
    """In which columns two data sets differ."""
    kinds = {"int": "whole numbers", "float": "numbers", "str": "text"}
    there = dict(before)
    for name, kind in now:
        if len(before) == len(now) and there.get(name, kind) != kind:
            was = kinds.get(there[name], in_line(there[name], 40))
            return f"{was} in column {in_line(name)!r} of the source, which holds {kinds[kind]} now"
    names = (in_line(", ".join(name for name, _ in some)) or "no columns" for some in (before, now))
    return "{} of the source, now {}".format(*names)


def _failure_row(item: Item, entry: Entry) -> dict[str, Any]:
    content = entry.content
    about = {name: content and getattr(content, name) for name in ("size", "sha256", "modified")}
    span = {"key": item.key, "video": item.video, "start": item.start, "stop": item.stop}
    return span | about | {"reason": entry.reason}


def _failure(row: Any) -> Entry:
    """Of a failure that was written. Raises ValueError for what is none."""
    known = isinstance(row, dict) and row.get("sha256") is not None
    content = Content(fact(row, "size", int, 0), fact(row, "modified", int), fact(row, "sha256", str)) if known else None
    return Entry(fact(row, "key", str), content, 0, fact(row, "reason", str))


def read_entries(path: Path, plan: Plan | None = None) -> list[Entry]:
    """The items of a part. Raises ValueError for a file that is not one, or not of this plan."""
    pa = needs_pyarrow()
    try:
        check_regular(path)
        footer = pa.parquet.read_metadata(path)
        metadata = footer.metadata[b"vidtwin.items"]
        entries, statistics = entries_in(metadata), Statistics.from_dict(fact(parse_json(metadata), "statistics", dict))
        if sum(entry.rows for entry in entries) != footer.num_rows or any(entry.reason is not None for entry in entries):
            raise ValueError(f"its items have not its {footer.num_rows} rows")
        if plan is not None and statistics.channels != tuple(shape[0] for shape in plan.config.latent_shapes):
            raise ValueError("its statistics are of other latents")
        return entries
    except (OSError, *DAMAGED, pa.ArrowException) as error:
        raise ValueError(f"{path}: not a part of a data set of latents ({first_line(error)}); delete it, run again") from error


def _leaves(schema: Any) -> list[str]:
    return [f"{field.name}.list.element" if hasattr(field.type, "list_size") else field.name for field in schema]
