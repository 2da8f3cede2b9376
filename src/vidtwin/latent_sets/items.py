"""What of a source is encoded: recordings with an identity that does not depend on where the data set lies."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from http.client import responses
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vidtwin.data.folders import is_video
from vidtwin.data.recording import Columns, Recording
from vidtwin.data.sources import COLUMN, LISTS, MOST_LIST, listed, recordings
from vidtwin.files import check_regular, file_hash, in_line
from vidtwin.video.read.decode import TableColumn, TarMember, file_holding

WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d{1,15})?(e[+-]?\d{1,2})?", re.IGNORECASE)  # what float64 holds
SCHEMES = ("file", "http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "ftp", "sftp", "memory")
NUMBERS: dict[type[int] | type[float], re.Pattern[str]] = {int: WHOLE, float: NUMBER}  # "007" and "" are neither
LABEL = "label"
BLOCK = 1 << 20  # bytes that are copied at once
Value = str | int | float


@dataclass(frozen=True, slots=True)
class Item:
    """A recording to encode.

    Attributes:
        video: its identity: the path below the source's folder, or the URL; "shard.tar!a.mp4" in a tar.
        file: what to open, or to get if it is a URL. start, stop: of its frames.
        columns: what is carried over to every row.
        length: frames that the source says it has. problem: why it cannot be encoded, if listing showed that.
    """

    video: str
    file: Path | TarMember | TableColumn | str
    start: int = 0
    stop: int | None = None
    columns: Columns = ()
    length: int | None = None
    problem: str | None = None

    @property
    def stated(self) -> int | None:
        """Frames that it must have; None if nothing says so."""
        return self.stop - self.start if self.length is None and self.stop is not None else self.length

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


def list_items(source: str, label: bool = False, root: Path | None = None, cameras: Sequence[str] = ()) -> list[Item]:
    """The items of a source, in an order that depends on its content alone.

    Args:
        source: as `data.sources.recordings`; or a .csv or .txt with URLs; or the URL of such a list, or of a folder of videos
            (one of SCHEMES: s3://, gs://, hf://, https://, ...).
        label: carry over, as "label", the first folder of each video's path below the source.
        root: the folder that paths of a list are relative to; default the list's own.
        cameras: of a LeRobot data set, as `recordings`.

    Raises:
        OSError, ValueError: as `recordings`; a scheme that is not taken, or whose package is not installed; two items with one key.
    """
    if root is not None and (is_url(source) or not source.lower().endswith(LISTS)):
        raise ValueError(f"root={str(root)!r}: is for lists (.csv, .txt) of this machine; {source} is none; leave it out")
    if cameras and is_url(source):
        raise ValueError(f"cameras={', '.join(cameras)!r}: is for LeRobot data sets; {source} is none; leave it out")
    items = _remote(source) if is_url(source) else list(_local(Path(source), root, cameras))
    if label:
        items = [replace(item, columns=(*item.columns, (LABEL, _folder(item)))) for item in items]
    seen: set[str] = set()
    for item in items:
        if item.key in seen:
            raise ValueError(f"{source}: {item.key} appears twice; keep one of them")
        seen.add(item.key)
        if not item.key.isascii():
            try:
                item.key.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{item.key!a}: its name is not UTF-8; rename it") from None
    return typed(items)


def typed(items: list[Item]) -> list[Item]:
    """Columns of text of which every value is a whole number, or a number, as such; labels stay text."""
    left: dict[str, set[type[int] | type[float]]] = {}  # by column: what all its values so far can be
    for item in items:
        for name, value in item.columns:
            kinds = left.setdefault(name, set(NUMBERS) if isinstance(value, str) and name != LABEL else set())
            kinds -= {kind for kind in kinds if not NUMBERS[kind].fullmatch(str(value))}
    made = {name: int if int in kinds else float for name, kinds in left.items() if kinds}

    def columns(item: Item) -> Columns:
        return tuple((name, made[name](value) if name in made else value) for name, value in item.columns)

    return [replace(item, columns=columns(item)) for item in items] if made else items


def _local(source: Path, root: Path | None = None, cameras: Sequence[str] = ()) -> Iterator[Item]:
    found = recordings(source, root, cameras)
    root = root or (source if source.is_dir() else source.parent)
    # In a path "//" would become "/", so the lines of a list are taken as they are.
    lines = [name for name, _ in listed(source)] if source.suffix.lower() in LISTS and source.is_file() else [""] * len(found)
    for one, line in zip(found, lines, strict=True):
        yield Item(line, checked_url(line), columns=one.columns) if is_url(line) else _item(one, root)


def _item(one: Recording, root: Path) -> Item:
    file = one.file
    name = os.path.relpath(file_holding(file), root).replace(os.sep, "/")
    if isinstance(file, TarMember):
        name, file = f"{name}!{file.name}", replace(file, tar=file.tar.absolute())
    elif isinstance(file, TableColumn):
        name, file = f"{name}!{file.name}", replace(file, table=file.table.absolute())
    else:
        file = file.absolute()  # for processes in other folders
    return Item(name, file, one.start, one.stop, one.columns, one.length, one.problem)


def _folder(item: Item) -> str:
    first, slash, _ = item.video.rpartition("!")[2].partition("/")
    return first if slash and not is_url(item.video) else Path(item.video).parent.name


def is_url(text: str) -> bool:
    """Whether it has a scheme: "s3://bucket/a.mp4", "reference://x::https://y"."""
    scheme, colon, _ = text.partition("://")
    return bool(colon) and re.fullmatch(r"[\w+.:-]+", scheme) is not None


def checked_url(url: str) -> str:
    """A URL that fsspec may open. Raises ValueError for other schemes, some of which run programs, and for chains of them."""
    scheme = url.partition("://")[0]
    if "::" in url:
        raise ValueError(f"{in_line(url)}: cannot be opened (:: makes it a chain of URLs); name the file itself, or copy it")
    if scheme not in SCHEMES:
        raise ValueError(f"{in_line(url)}: cannot be opened ({in_line(scheme)} is none of {', '.join(SCHEMES)}); copy the files")
    return url


def _remote(source: str) -> list[Item]:
    fs, path = filesystem(source)
    scheme = source.partition("://")[0]
    if source.lower().endswith(LISTS):
        with TemporaryDirectory(prefix="vidtwin-") as folder:
            local = Path(folder, "list" + source[-4:].lower())
            copy(source, local, MOST_LIST)
            items = list(_local(local))
        if scheme != "file" and (own := next((item.video for item in items if item.video.startswith("file:")), None)):
            raise ValueError(f"{in_line(source)}: names {in_line(own)}, a file of this machine; use a list of this machine for it")
        base = source.rpartition("/")[0]
        return [
            item if is_url(item.video) else replace(item, video=f"{base}/{item.video}", file=f"{base}/{item.video}")
            for item in items
        ]
    try:
        names = sorted(name for name in fs.find(path) if is_video(name))
        if not names and scheme in ("http", "https"):
            fs.info(path)  # listing says nothing of 404
    except Exception as error:  # each file system has errors of its own
        raise OSError(f"{source}: cannot be listed ({_said(error)}); {_remedy(error)}") from error
    if not names:
        raise FileNotFoundError(f"{source}: no videos there; give a folder of videos, or a .csv with a column {COLUMN!r}")
    urls = [checked_url(name if is_url(name) else f"{scheme}://{name}") for name in names]
    return [Item(url, url) for url in urls]


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path there. Raises ValueError for a scheme that is not taken, or not to be had."""
    checked_url(url)
    try:
        import fsspec

        fs, path = fsspec.core.url_to_fs(url)
        return fs, str(path)
    except Exception as error:  # each file system has errors of its own
        raise ValueError(f"{url}: cannot be opened ({_said(error)}); install what is missing, or copy the files") from error


def copy(url: str, target: Path, most: int | None = None) -> None:
    """Get a remote file of at most `most` bytes. Raises OSError or ValueError, naming the URL."""
    fs, path = filesystem(url)
    if url.startswith("file:"):
        check_regular(path, most)
    done = 0
    try:
        with fs.open(path, "rb") as source, target.open("wb") as file:
            while block := source.read(BLOCK):
                done += file.write(block)
                if most is not None and done > most:
                    break
    except Exception as error:
        raise OSError(f"{url}: cannot be read ({_said(error)}); {_remedy(error)}") from error
    if most is not None and done > most:
        raise ValueError(f"{url}: has more than {most:,} bytes; split it")


def _said(error: BaseException) -> str:
    """What is the matter; fsspec says "not found" for whatever else it met, which is the cause."""
    if status := _status(error):
        return f"HTTP {status} {responses.get(status, '')}".rstrip()
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return in_line(" ".join(str(error).split()) or type(error).__name__)


def _status(error: BaseException | None) -> int:
    """That of HTTP; 0 without."""
    while error is not None and not isinstance(getattr(error, "status", None), int):
        error = error.__cause__
    return 0 if error is None else int(error.status)  # type: ignore[attr-defined]


def _remedy(error: Exception) -> str:
    status = _status(error)
    if status in (401, 403, 407):
        return "ask for access to it, or copy it"
    return "try again later" if status == 429 or status >= 500 else "check the address"


@contextmanager
def opened(item: Item, scratch: Path | None = None) -> Iterator[tuple[Path | TarMember | TableColumn, Content]]:
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


def content(file: Path | TarMember | TableColumn) -> Content:
    """Of a local file, read once as long as it does not change. Raises OSError in one line."""
    path = file_holding(file)
    check_regular(path)
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
