"""A source of videos to a data set of latents: what is missing is encoded, put together, and described."""

import datetime
import hashlib
import itertools
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidtwin.files import file_hash
from vidtwin.inference.engine import Engine
from vidtwin.latent_sets.encode import Failure, Rows, encode_items
from vidtwin.latent_sets.items import Item, list_items
from vidtwin.latent_sets.local import Setup, encode_locally
from vidtwin.latent_sets.manifest import read_manifest, stored_bytes
from vidtwin.latent_sets.plan import Plan
from vidtwin.latent_sets.rows import latent_fields, needs_pyarrow
from vidtwin.latent_sets.spool import Entry
from vidtwin.latent_sets.store import PART_BYTES, Store, read_entries
from vidtwin.latents.stream import Identity
from vidtwin.model.vidtwin import VidTwin
from vidtwin.threads import cores

Encoder = Callable[[Setup, Sequence[Item]], Iterator[Entry]]  # `local.encode_locally`, or that of a cluster
Progress = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        items: of the source. kept: that were there already. encoded, failed: now; of the failed, `failures` has keys and reasons.
        gone: items of the data set that the source has no more; their rows stay.
        rows, bytes: of the data set. seconds: of the run. plan: how rows are made.
    """

    items: int
    kept: int
    encoded: int
    failures: tuple[tuple[str, str], ...]
    gone: int
    rows: int
    bytes: int
    seconds: float
    plan: Plan

    def table(self) -> str:
        """As aligned lines."""
        rate = f", {self.encoded / self.seconds:.2f} a second" if self.encoded else ""
        lines = {
            "recordings": f"{self.items:,}",
            "encoded": f"{self.encoded:,} in {self.seconds:.1f} s{rate}",
            "kept": f"{self.kept:,} that were there and have not changed",
            "failed": f"{len(self.failures):,}",
            "rows": f"{self.rows:,} of {self.plan.config.latent_values:,} values ({self.plan.stored})",
            "size": stored_bytes(self.rows, self.bytes),
            "rate": f"{self.plan.config.compression_rate:.2%} of the pixel values of a clip",
        }
        if self.gone:
            lines["gone"] = f"{self.gone:,} that the source has no more; their rows are still there"
        return "\n".join(f"{name:14}{value}" for name, value in lines.items())


def encode_dataset(
    source: str,
    out: str | Path,
    model: VidTwin,
    plan: Plan,
    *,
    label: bool = False,
    root: Path | None = None,
    cameras: Sequence[str] = (),
    processes: int | None = None,
    retry: bool = False,
    scratch: Path | None = None,
    encoder: Encoder | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Make, complete or bring up to date a data set of latents. Long for its arguments and what it reports.

    Items (recordings) are known by what they are called in the source and by their content: what is there and has not changed
    is kept, what has changed is replaced, what failed and has not changed is not tried again. Whatever is killed when, the same
    call goes on, and the rows are those of a run that was not stopped.

    Args:
        source: see `items.list_items`. out: the folder to make.
        model: in float32, of the plan's weights.
        label, root, cameras: as in `list_items`.
        processes: default one for each core, or each GPU.
        retry: try again what failed before.
        scratch: folder in which copies of remote files lie for the time they are needed; default in `out`.
        encoder: what encodes items; default processes of this machine.
        progress: called with (done, total, failed) items, at the beginning and after each.

    Raises:
        OSError, ValueError: of `list_items` and `Store`. What is wrong with a video is a failure in the summary.
    """
    begun = time.perf_counter()
    needs_pyarrow()
    items = {item.key: item for item in list_items(source, label, root, cameras)}
    columns = next(iter(items.values())).columns
    names = [name for name, _ in columns]
    if odd := next((item for item in items.values() if [name for name, _ in item.columns] != names), None):
        raise ValueError(f"{odd.key}: has the columns {[name for name, _ in odd.columns]}, others {names}; give all the same")
    if scratch is not None and not scratch.is_dir():
        raise FileNotFoundError(f"scratch={str(scratch)!r}: no such folder; create it, or leave it out")
    with Store(out, plan, columns) as store:
        if scratch is not None:
            store.copies = scratch.absolute() / f"vidtwin-{hashlib.sha256(str(Path(out).absolute()).encode()).hexdigest()[:12]}"
            shutil.rmtree(store.copies, ignore_errors=True)
        work = _Work(store, items, retry)
        new = _Parts(store, work.waiting, work.done)
        encoded = 0
        for entry in itertools.chain([None], _encoded(store, model, plan, work.todo, processes, encoder)):
            if entry is not None:
                work.done[entry.key] = entry
                encoded += 1
            if progress is not None:
                progress(len(items) - len(work.todo) + encoded, len(items), len(work.reasons()))
            new.write(whole=False)
        new.write(whole=True)
        missing = [item.key for item in work.waiting if item.key not in work.done]
        if missing:
            raise RuntimeError(f"{missing[0]} and {len(missing) - 1} more were not encoded, for no known reason; run it again")
        seconds, reasons = time.perf_counter() - begun, work.reasons()
        tried = {item.key for item in work.todo}
        encoded -= len(reasons.keys() & tried)
        date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        took = {"date": date, "seconds": round(seconds, 1), "encoded": encoded}
        final = work.without_replaced(new.written)
        shutil.rmtree(store.copies, ignore_errors=True)
        manifest = store.finish(final, [(items[key], work.done[key]) for key in items if key in reasons], took)
    return Summary(
        items=len(items),
        kept=len(items) - len(work.todo) - len(reasons.keys() - tried),
        encoded=encoded,
        failures=tuple(reasons.items()),
        gone=len(work.there.keys() - items.keys()),
        rows=manifest["rows"],
        bytes=sum(file["bytes"] for file in manifest["files"]),
        seconds=seconds,
        plan=plan,
    )


class _Work:
    """What of a source is in a store already, and what is to be done.

    Attributes:
        parts: files of the store, with their entries. there: entries by key. stale: keys of items that have changed since.
        waiting: items that are in no part, in order. done: of these, what came of them. todo: of these, what is to be encoded.
    """

    def __init__(self, store: Store, items: dict[str, Item], retry: bool):
        self.store, self.parts = store, store.parts()
        self.there = {entry.key: entry for entries in self.parts.values() for entry in entries}
        self.stale: set[str] = set()
        self.waiting: list[Item] = []
        self.done: dict[str, Entry] = {}
        self.todo: list[Item] = []
        failed = {entry.key: entry for entry in store.failures()}
        for key, item in items.items():
            if key in self.there and self.there[key].is_of(item):
                store.spool.forget(item)
                continue
            if key in self.there:
                self.stale.add(key)
            self.waiting.append(item)
            before = store.spool.pending(item) or failed.get(key)
            if before is not None and before.is_of(item) and not (retry and before.reason is not None):
                self.done[key] = before
            else:
                store.spool.forget(item)
                self.todo.append(item)

    def reasons(self) -> dict[str, str]:
        """Of the items that failed, by key."""
        return {key: entry.reason for key, entry in self.done.items() if entry.reason is not None}

    def without_replaced(self, written: list[Path]) -> list[Path]:
        """All parts, those written now included, without rows of items that were encoded again.

        What could not be read at all, as when a disk is not there, keeps the rows that it has.
        """
        newest = {entry.key: path for path, entries in self.parts.items() for entry in entries}  # a killed run may leave older ones
        replaced = {key for key in self.stale if self.done[key].reason is None or self.done[key].content is not None}
        final: list[Path | None] = []
        for path in (*self.parts, *written):
            keys = {entry.key for entry in self.parts.get(path, ())}
            dropped = {key for key in keys if key in replaced or newest[key] != path}
            final.append(self.store.without(path, dropped) if dropped else path)
        return [path for path in final if path is not None]


def _encoded(
    store: Store, model: VidTwin, plan: Plan, todo: list[Item], processes: int | None, encoder: Encoder | None
) -> Iterator[Entry]:
    """What comes of items, by processes of this machine or by another encoder, in any order."""
    if not todo:
        return
    folder = store.work / "model"
    model.save_pretrained(folder)
    setup = Setup(plan, folder.absolute(), store.work.absolute(), store.copies.absolute())
    if encoder is not None:
        yield from encoder(setup, todo)
        return
    count = processes or (torch.cuda.device_count() if plan.device == "cuda" else cores())
    yield from encode_locally(setup, todo, min(count, len(todo)))


class _Parts:
    """Puts items into parts, in order, as soon as all before them are done."""

    def __init__(self, store: Store, items: list[Item], done: dict[str, Entry]):
        self.store, self.items, self.done = store, items, done
        self.next = 0
        self.written: list[Path] = []
        self._collected: list[Item] = []
        self._bytes = 0
        values = sum(map(prod, latent_fields(store.plan).values()))
        self._row_bytes = values * {"float32": 4, "float16": 2, "int8": 1}[store.plan.stored]

    def write(self, whole: bool) -> None:
        """The parts that are full; with `whole` what is left, too."""
        while self.next < len(self.items) and (entry := self.done.get(self.items[self.next].key)) is not None:
            if entry.reason is None:
                self._collected.append(self.items[self.next])
                self._bytes += entry.rows * self._row_bytes
            self.next += 1
            if self._bytes >= PART_BYTES:
                self._close()
        if whole and self._collected:
            self._close()

    def _close(self) -> None:
        self.written.append(self.store.write_part(self._collected))
        self._collected, self._bytes = [], 0


@dataclass(frozen=True)
class Check:
    """What `verify_dataset` looked at: files whose SHA-256 is that of the manifest, rows, each there once, items encoded again."""

    files: int
    rows: int
    items: int
    rows_again: int


def verify_dataset(
    source: str,
    out: str | Path,
    model: VidTwin,
    count: int = 16,
    *,
    seed: int = 0,
    label: bool = False,
    root: Path | None = None,
    cameras: Sequence[str] = (),
) -> Check:
    """Hold a data set against its manifest, and some of its items, drawn at random, against what encoding them again gives.

    Raises:
        ValueError: it is not what it should be, in the first respect that is found; one line.
        OSError, ValueError: as `encode_dataset`.
    """
    folder = Path(out)
    manifest = read_manifest(folder)
    plan = Plan.from_dict(manifest["plan"])
    items = {item.key: item for item in list_items(source, label, root, cameras)}
    entries, parquet = _entries_of(folder, manifest), needs_pyarrow().parquet
    rows = sum(entry.rows for _, _, entry in entries.values())
    present = [key for key in entries if key in items and entries[key][2].is_of(items[key])]
    drawn = random.Random(seed).sample(sorted(present), min(count, len(present)))
    chosen = [items[key] for key in sorted(drawn, key=lambda key: entries[key][:2])]  # part after part: each is read once
    if not chosen:
        raise ValueError(f"{folder}: none of its recordings is in {source} as it was; give the source that it was made of")
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{folder}: was encoded on a GPU; verify it where there is one")
    if plan.weights.hash != (given := Identity.of(model)).hash:
        raise ValueError(f"{folder}: was encoded with weights {plan.weights}, not {given.hash[:12]}; use a model with those")
    engine = Engine(model.to(plan.device), encode_dtype=getattr(torch, plan.dtype), batch=plan.batch)
    before, again = torch.get_num_threads(), 0
    part: Path | None = None
    torch.set_num_threads(plan.threads)
    try:
        for outcome in encode_items(engine, plan, chosen):
            path, row, entry = entries[outcome.item.key]
            if path != part:
                part, stored = path, parquet.read_table(path)
            _compare(outcome, path, stored.slice(row, entry.rows))
            again += entry.rows
    finally:
        torch.set_num_threads(before)
    return Check(len(manifest["files"]), rows, len(chosen), again)


def _entries_of(folder: Path, manifest: dict[str, Any]) -> dict[str, tuple[Path, int, Entry]]:
    """By key: the file of each entry, its first row there, and the entry. ValueError if files are not those of the manifest."""
    entries: dict[str, tuple[Path, int, Entry]] = {}
    for facts in manifest["files"]:
        path = folder / facts["file"]
        if not path.is_file() or file_hash(path) != facts["sha256"]:
            raise ValueError(f"{path}: is missing or has changed since it was written; delete it and encode the data set again")
        places = needs_pyarrow().parquet.read_table(path, columns=["frame_index"]).column(0).to_numpy()
        row = 0
        for entry in read_entries(path):
            own = places[row : row + entry.rows]
            if entry.key in entries or len(own) != entry.rows or (np.diff(own) <= 0).any():
                raise ValueError(
                    f"{path}: rows of {entry.key} are missing or appear twice; delete it and encode the data set again"
                )
            entries[entry.key] = path, row, entry
            row += entry.rows
        if row != len(places) or row != facts["rows"]:
            raise ValueError(f"{path}: has {len(places)} rows, not {facts['rows']}; delete it and encode the data set again")
    return entries


def _compare(outcome: Rows | Failure, path: Path, stored: Any) -> None:
    """Hold the rows that a part has of an item against those encoded now."""
    if isinstance(outcome, Failure):
        raise ValueError(f"{outcome.item.key}: has rows, but cannot be encoded now: {outcome.reason}")
    for name in outcome.table.schema.names:
        if not stored.column(name).combine_chunks().equals(outcome.table.column(name).combine_chunks()):
            raise ValueError(f"{path}: {name} of {outcome.item.key} is not what encoding it again gives")
