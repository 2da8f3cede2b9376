"""What of a source is encoded: recordings with an identity that does not depend on where the data set lies."""

import csv
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vidtwin.data.sources import COLUMN, SUFFIXES, Recording, listed_lines, recordings
from vidtwin.files import file_hash
from vidtwin.video.read.decode import TarMember, file_holding

WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?(e[+-]?\d{1,2})?", re.IGNORECASE)
BLOCK = 1 << 20  # bytes that are copied at once
Value = str | int | float
Columns = tuple[tuple[str, Value], ...]


@dataclass(frozen=True, slots=True)
class Item:
    """A recording to encode.

    Attributes:
        video: its identity: the path below the source's folder, or the URL; "shard.tar!a.mp4" in a tar.
        file: what to open, or to get if it is a URL. start, stop: of its frames.
        columns: what is carried over to every row.
    """

    video: str
    file: Path | TarMember | str
    start: int = 0
    stop: int | None = None
    columns: Columns = ()

    @property
    def key(self) -> str:
        """Of the item, unique in a data set: the video, and which frames of it."""
        return self.video if (self.start, self.stop) == (0, None) else f"{self.video}[{self.start}:{self.stop}]"


@dataclass(frozen=True, slots=True)
class Content:
    """What tells whether a file has changed: bytes, modification time (ns; 0 if it is not known), and SHA-256."""

    size: int
    modified: int
    sha256: str


def list_items(source: str, label: bool = False, root: Path | None = None) -> list[Item]:
    """The items of a source, in an order that depends on its content alone.

    Args:
        source: as `data.sources.recordings`; or a .csv or .txt with URLs; or the URL of such a list, or of a folder of videos
            (any scheme that fsspec knows: s3://, gs://, hf://, https://).
        label: carry over, as "label", the first folder of each video's path below the source.
        root: the folder that paths of a list are relative to; default the list's own.

    Raises:
        OSError, ValueError: as `recordings`; a scheme that is not known, or whose package is not installed; two items with one key.
    """
    if root is not None and (is_url(source) or not source.lower().endswith((".csv", ".txt"))):
        raise ValueError(f"root={str(root)!r}: is for lists (.csv, .txt) of this machine; {source} is none; leave it out")
    items = _remote(source) if is_url(source) else list(_local(Path(source), root))
    if label:
        items = [replace(item, columns=(*item.columns, ("label", _folder(item)))) for item in items]
    seen: set[str] = set()
    for item in items:
        if item.key in seen:
            raise ValueError(f"{source}: {item.key} is there twice; keep one of them")
        seen.add(item.key)
        if not item.key.isascii():
            try:
                item.key.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{item.key!a}: its name is not UTF-8; rename it") from None
    return typed(items)


def typed(items: list[Item]) -> list[Item]:
    """Columns of text of which every value is a whole number, or a number, as such."""
    for kind in (int, float):
        for name in {name for item in items for name, value in item.columns if isinstance(value, str)}:
            values = [value for item in items for column, value in item.columns if column == name]
            if all(_is(kind, value) for value in values):
                items = [replace(item, columns=tuple((c, kind(v) if c == name else v) for c, v in item.columns)) for item in items]
    return items


def _is(kind: type, value: Value) -> bool:
    """Whether text is a number: "007" and "" are none."""
    return (WHOLE if kind is int else NUMBER).fullmatch(str(value)) is not None


def _local(source: Path, root: Path | None = None) -> Iterator[Item]:
    if source.suffix.lower() in (".csv", ".txt") and source.is_file():
        root = source.parent if root is None else root
        for one, line in zip(recordings(source, root), listed_names(source), strict=True):
            yield Item(line, line, columns=one.columns) if is_url(line) else _item(one, root)
        return
    found = recordings(source)
    root = source if source.is_dir() else source.parent
    for one in found:
        yield _item(one, root)


def _item(one: Recording, root: Path) -> Item:
    file = one.file
    name = os.path.relpath(file_holding(file), root).replace(os.sep, "/")
    if isinstance(file, TarMember):
        return Item(f"{name}!{file.name}", replace(file, tar=file.tar.absolute()), one.start, one.stop, one.columns)
    return Item(name, file.absolute(), one.start, one.stop, one.columns)  # for processes in other folders


def listed_names(path: Path) -> list[str]:
    """The lines of a list that `recordings` has read, as they are: in a path "//" would become "/"."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() == ".csv":
            return [row[COLUMN] for row in csv.DictReader(file)]
        return listed_lines(file)


def _folder(item: Item) -> str:
    first, slash, _ = item.video.rpartition("!")[2].partition("/")
    return first if slash and not is_url(item.video) else Path(item.video).parent.name


def is_url(text: str) -> bool:
    """Whether it has a scheme: "s3://bucket/a.mp4"."""
    scheme, colon, _ = text.partition("://")
    return bool(colon) and scheme.isidentifier()


def _remote(source: str) -> list[Item]:
    fs, path = filesystem(source)
    scheme = source.partition("://")[0]
    if source.lower().endswith((".csv", ".txt")):
        with TemporaryDirectory(prefix="vidtwin-") as folder:
            local = Path(folder, "list" + source[-4:].lower())
            copy(source, local)
            items = list(_local(local))
        base = source.rpartition("/")[0]
        return [
            item if is_url(item.video) else replace(item, video=f"{base}/{item.video}", file=f"{base}/{item.video}")
            for item in items
        ]
    try:
        names = sorted(name for name in fs.find(path) if name.lower().endswith(SUFFIXES))
    except Exception as error:  # each file system has errors of its own
        raise OSError(f"{source}: cannot be listed ({_said(error)}); check the address") from error
    if not names:
        raise FileNotFoundError(f"{source}: no videos there; give a folder of videos, or a .csv with a column {COLUMN!r}")
    urls = [name if is_url(name) else f"{scheme}://{name}" for name in names]
    return [Item(url, url) for url in urls]


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path there. Raises ValueError for a scheme that is not to be had."""
    try:
        import fsspec

        fs, path = fsspec.core.url_to_fs(url)
        return fs, str(path)
    except Exception as error:  # each file system has errors of its own
        raise ValueError(f"{url}: cannot be opened ({_said(error)}); install what is missing, or copy the files") from error


def copy(url: str, target: Path) -> None:
    """Get a remote file. Raises OSError, naming the URL."""
    fs, path = filesystem(url)
    try:
        with fs.open(path, "rb") as source, target.open("wb") as file:
            while block := source.read(BLOCK):
                file.write(block)
    except Exception as error:
        raise OSError(f"{url}: cannot be read ({_said(error)}); check the address") from error


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def opened(item: Item, scratch: Path | None = None) -> Iterator[tuple[Path | TarMember, Content]]:
    """A file with the item's bytes, and what they are; of a URL a copy in a temporary folder (in `scratch`).

    Raises:
        OSError, ValueError: the file cannot be read.
    """
    if isinstance(item.file, str):
        with TemporaryDirectory(prefix="vidtwin-", dir=scratch) as folder:
            target = Path(folder, Path(item.file.partition("?")[0]).name or "video")
            copy(item.file, target)
            yield target, Content(target.stat().st_size, 0, file_hash(target))
        return
    yield item.file, content(item.file)


def content(file: Path | TarMember) -> Content:
    """Of a local file, read once as long as it does not change. Raises OSError in one line."""
    path = file_holding(file)
    try:
        stat = path.stat()
        span = (file.offset, file.size) if isinstance(file, TarMember) else (0, stat.st_size)
        return Content(span[1], stat.st_mtime_ns, _remembered(str(path), *span, stat.st_mtime_ns))
    except OSError as error:
        raise type(error)(f"{file}: cannot be read ({error.strerror}); check the path and its permissions") from error


def glance(item: Item) -> tuple[int, int] | None:
    """Size and modification time of an item's file without reading it; None if it is remote or not there."""
    if isinstance(item.file, str):
        return None
    try:
        stat = file_holding(item.file).stat()
    except OSError:
        return None
    return (item.file.size if isinstance(item.file, TarMember) else stat.st_size), stat.st_mtime_ns


@lru_cache(maxsize=256)
def _remembered(path: str, offset: int, size: int, modified: int) -> str:
    """Many episodes may lie in one file."""
    return file_hash(path, offset, size)
