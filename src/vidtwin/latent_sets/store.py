"""A cache on disk: a folder that is whole at every moment, whatever is killed when.

    plan.json                    what decides its values, from the first moment on
    data/part-00000.parquet      rows, item after item in the source's order; each file's metadata says which items are in it
    failures.parquet             items without rows: video, start, stop, size, sha256, reason
    manifest.json                written last: files with rows, bytes and SHA-256; statistics; totals
    work                         while it is made: the rows, or the failure, of each item as it was encoded; a lock

An item's rows are first a file of its own in `work`. As soon as the items before it are done they go into a part, and their files
are deleted after the part has its name. What is in a part counts, whatever else is in `work`.
"""

import fcntl
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vidtwin.files import atomic_output, file_hash, write_json
from vidtwin.latent_sets.items import Columns, Content, Item
from vidtwin.latent_sets.plan import FORMAT, Plan
from vidtwin.latent_sets.rows import latent_fields, needs_pyarrow, schema
from vidtwin.latent_sets.spool import METADATA, Entry, Spool, entries_in, stored_values, to_json
from vidtwin.latent_sets.statistics import Statistics
from vidtwin.version import __version__

PART_BYTES = 128 * 2**20  # of values in a part: it is closed after the item that reaches it
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
        self._lock = (self.work / "lock").open("w")
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
        for stale in (*self.data.glob(".*.partial-*"), *self.work.glob(".*.partial-*"), *self.folder.glob(".*.partial-*")):
            stale.unlink()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _agree(self, described: Path) -> None:
        mine = self.plan.to_dict() | {"columns": [[name, type(value).__name__] for name, value in self.columns]}
        if not described.is_file():
            write_json(described, mine)
            return
        try:
            found = json.loads(described.read_text())
            there, columns = Plan.from_dict(found), [[str(name), str(kind)] for name, kind in found["columns"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{described}: not the plan of a data set of latents ({error}); choose another folder") from error
        if difference := self.plan.difference(there):
            raise ValueError(f"{self.folder}: was made with {difference}; use the same options, or another folder")
        if columns != mine["columns"]:
            before, now = (", ".join(name for name, _ in some) or "no columns" for some in (columns, mine["columns"]))
            raise ValueError(
                f"{self.folder}: was made with {before} of the source, now {now}; use the same options, or another folder"
            )

    def parts(self) -> dict[Path, list[Entry]]:
        """The parts in order, each with its items. Raises ValueError for a part that is damaged."""
        found = {path: read_entries(path) for path in sorted(self.data.glob("part-*.parquet"))}
        self._old = set(found)
        return found

    def failures(self) -> list[Entry]:
        """Of the run before, if one ended. Raises ValueError for a table that is damaged."""
        pa, path = needs_pyarrow(), self.folder / "failures.parquet"
        if not path.is_file():
            return []
        try:
            rows = pa.parquet.read_table(path).to_pylist()
            return [
                Entry(row["key"], row["sha256"] and Content(row["size"], row["modified"], row["sha256"]), 0, row["reason"])
                for row in rows
            ]
        except (OSError, KeyError, pa.ArrowException) as error:
            raise ValueError(f"{path}: cannot be read ({str(error).splitlines()[0]}); delete it and run again") from error

    def _known(self) -> dict[str, dict[str, Any]]:
        """What the manifest of the run before says of its files."""
        try:
            return {file["file"]: file for file in read_manifest(self.folder)["files"]}
        except (OSError, ValueError):
            return {}

    def next_number(self) -> int:
        """Of the next part."""
        numbers = [int(path.stem.removeprefix("part-")) for path in self.data.glob("part-*.parquet")]
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
        columns: dict[str, tuple[Any, list[Any]]] = {
            "key": (pa.string(), [item.key for item, _ in failures]),
            "video": (pa.string(), [item.video for item, _ in failures]),
            "start": (pa.int64(), [item.start for item, _ in failures]),
            "stop": (pa.int64(), [item.stop for item, _ in failures]),
            "size": (pa.int64(), [entry.content and entry.content.size for _, entry in failures]),
            "sha256": (pa.string(), [entry.content and entry.content.sha256 for _, entry in failures]),
            "modified": (pa.int64(), [entry.content and entry.content.modified for _, entry in failures]),
            "reason": (pa.string(), [entry.reason for _, entry in failures]),
        }
        with atomic_output(self.folder / "failures.parquet") as partial:
            arrays = {name: pa.array(values, kind) for name, (kind, values) in columns.items()}
            pa.parquet.write_table(pa.table(arrays), partial)
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


def read_entries(path: Path) -> list[Entry]:
    """The items of a part. Raises ValueError for a file that is not one."""
    pa = needs_pyarrow()
    try:
        return entries_in(pa.parquet.read_metadata(path).metadata[b"vidtwin.items"])
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise ValueError(
            f"{path}: not a part of a data set of latents ({str(error).splitlines()[0]}); delete it, run again"
        ) from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """Of a finished data set. Raises FileNotFoundError or ValueError for a folder without one."""
    path = folder / "manifest.json"
    if not path.is_file():
        begun = (folder / "plan.json").is_file()
        raise FileNotFoundError(
            f"{folder}: is not finished; run the same vidtwin encode-dataset again"
            if begun
            else f"{folder}: is no data set of latents; make one with vidtwin encode-dataset"
        )
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        if any(".." in Path(file["file"]).parts or Path(file["file"]).is_absolute() for file in manifest["files"]):
            raise ValueError("names files outside its folder")
        Plan.from_dict(manifest["plan"]), Statistics.from_dict(manifest["statistics"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path}: not the manifest of a data set of latents ({error}); run vidtwin encode-dataset again"
        ) from error
    return manifest


def _leaves(schema: Any) -> list[str]:
    return [f"{field.name}.list.element" if hasattr(field.type, "list_size") else field.name for field in schema]
