"""Outputs that are either whole or not there: written beside the target under a temporary name, then renamed."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


def in_line(text: object, most: int = 400) -> str:
    """What a file made say, safe to show: one line, printable characters only, its middle left out if it is long."""
    line = printable(str(text)[: 100 * most])
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 4 :]}"


def printable(text: str, kept: str = "") -> str:
    """Text with an escape in place of each character that a terminal would not show but obey, but for those of `kept`."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c in kept else ascii(c)[1:-1] for c in text)


def first_line(error: Exception) -> str:
    """The first line of what an error says, safe to show."""
    return in_line(next(iter(str(error).splitlines()), type(error).__name__))


def plural(count: int, noun: str) -> str:
    """ "1 shot cut", "2 shot cuts"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def html_table(facts: Mapping[str, object], kind: str = "") -> str:
    """Facts as an HTML table of one line each; `kind`: its class. Text is escaped."""
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{escape(in_line(value))}</td></tr>" for name, value in facts.items()
    )
    return f"<table{f' class={kind!r}' if kind else ''}>{rows}</table>"


@contextlib.contextmanager
def atomic_output(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path` (same suffix); rename it to `path` on success, delete it on any error.

    An existing file is replaced in one step; until then it is untouched.

    Raises:
        OSError: as `check_writable`, or the disk is full.
    """
    target = Path(path)
    check_writable(target)
    partial = beside(target, f".{target.stem}", f".partial-{os.getpid()}{target.suffix}")
    try:
        yield partial
        make_readable(partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def beside(target: Path, start: str, end: str) -> Path:
    """The path `start` + `end` in the folder of `target`; where that name is too long, the start becomes 16 digits of its hash."""
    if len(os.fsencode(start + end)) > longest_name(target):
        start = "." * start.startswith(".") + hashlib.sha256(os.fsencode(start)).hexdigest()[:16]
    return target.with_name(start + end)


def longest_name(path: Path) -> int:
    """How many bytes a file's name may have in the folder of `path`."""
    try:
        return os.pathconf(path.absolute().parent, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        return 255


def check_regular(path: str | os.PathLike[str], most: int | None = None) -> None:
    """Raise the OSError or ValueError, in one line, for a path that is no regular file, or has more than `most` bytes.

    Opening a pipe, a socket or a device could wait for ever.
    """
    file = Path(path)
    if file.is_dir():
        raise IsADirectoryError(f"{in_line(path)}: is a folder; name a file")
    if not file.exists():
        raise FileNotFoundError(f"{in_line(path)}: no such file; check the name")
    if not file.is_file():
        raise OSError(f"{in_line(path)}: is a pipe, a socket or a device, not a file; copy its contents to a file first")
    if most is not None and (size := file.stat().st_size) > most:
        raise ValueError(f"{in_line(path)}: has {size:,} bytes, more than {most:,}; split it")


def is_same(one: Path, other: Path) -> bool:
    """Whether both are there, and one file."""
    return one.exists() and other.exists() and one.samefile(other)


def clear_partial(folder: Path) -> None:
    """Remove what processes that were killed left unfinished in a folder, which no other one is writing."""
    for path in folder.glob(".*.partial-*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def clear_killed(target: Path) -> None:
    """Remove what processes of this machine that were killed left unfinished of one output, a file or a folder."""
    mine = re.compile(re.escape(f".{target.stem}") + r"(\.\w+)?\.partial-(\d+)\b.*")
    for path in target.absolute().parent.glob(".*.partial-*"):
        found = mine.fullmatch(path.name)
        if found and not Path("/proc", found[2]).exists() and Path("/proc/self").exists():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], values: Any, indent: int = 2, allow_nan: bool = True) -> None:
    """Plain values as a JSON file, with the options of `json.dumps`. Raises OSError as `atomic_output`."""
    with atomic_output(path) as partial:
        partial.write_text(json.dumps(values, indent=indent, allow_nan=allow_nan) + "\n")


@contextlib.contextmanager
def tensor_output(path: str | os.PathLike[str]) -> Iterator[Path]:
    """`atomic_output` for safetensors and torch.save, whose write errors are no OSErrors: they become one, in one line."""
    with atomic_output(path) as partial:
        try:
            yield partial
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = next(filter(None, str(error).splitlines()), type(error).__name__)
            raise OSError(f"{path}: writing failed ({reason}); free some space or choose another output") from error


_held: set[int] = set()  # descriptors of locked folders


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """A folder that is written by this process alone inside; a file system without locks cannot promise it.

    The lock leaves nothing behind, ends with the process however that ends, and is not its children's.

    Raises:
        OSError: another process, or another call in this one, is inside; no such folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"{folder}: another run is writing it; wait for it, stop it, or choose another folder") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        _held.discard(descriptor)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _release() -> None:
    """In a forked child, which would keep its parent's locks."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_release)


def file_hash(path: str | os.PathLike[str], offset: int = 0, size: int | None = None) -> str:
    """SHA-256 of `size` bytes of a file from `offset` on (to its end if None), in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(offset)
        while block := file.read(1 << 20 if size is None else min(1 << 20, size)):
            digest.update(block)
            size = None if size is None else size - len(block)
    return digest.hexdigest()


def make_readable(path: Path) -> None:
    """Give a new file the permissions that the user's umask asks for; some writers make files for the owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise the OSError, in one line with its remedy, that writing a file at `path` would end in; call it before long work.

    Raises:
        FileNotFoundError, NotADirectoryError, PermissionError: of the folder that should hold it.
        IsADirectoryError: `path` is a folder.
        OSError: the name is longer than the file system allows.
    """
    folder = Path(path).absolute().parent
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            most = longest_name(Path(path))
            raise OSError(f"{path}: the name has more than the {most} bytes that are possible; choose a shorter one") from error
    if not folder.exists():
        raise FileNotFoundError(f"{path}: the folder {folder} does not exist; create it or choose another output")
    if not folder.is_dir():
        raise NotADirectoryError(f"{path}: {folder} is not a folder; choose another output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: the folder {folder} is not writable; choose another output")
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a file as the output")
