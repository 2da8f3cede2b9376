"""Outputs that are either whole or not there: written beside the target under a temporary name, then renamed."""

import contextlib
import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError


def in_line(text: object, most: int = 400) -> str:
    """What a file made say, safe to show: one line, printable characters only, its middle left out if it is long."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text)[: 100 * most])
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 4 :]}"


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
        raise OSError(f"{in_line(path)}: is a pipe, a socket or a device, not a file; copy what comes of it to a file first")
    if most is not None and (size := file.stat().st_size) > most:
        raise ValueError(f"{in_line(path)}: has {size:,} bytes, more than {most:,}; split it")


def read_json(text: str | bytes) -> Any:
    """Plain values of JSON. Raises ValueError for what is none, is not finite, or is nested too deeply."""

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"{number} is not a finite number")
        return value

    try:
        return json.loads(text, parse_float=finite, parse_constant=finite)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


Kind = TypeVar("Kind", bool, int, float, str, list, dict)
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "an object"}


def fact(facts: Any, name: str, kind: type[Kind], least: float = -math.inf) -> Kind:
    """The value `name` of an object of JSON, held against its kind; numbers are finite, at least `least`, whole ones below 2^63.

    Raises ValueError, in one line without the file, for another kind, or if it is missing.
    """
    if not isinstance(facts, dict) or name not in facts:
        raise ValueError(f"{name} is missing")
    value = facts[name]
    right = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if right and kind in (int, float):
        right = least <= value and abs(value) < (2**63 if kind is int else math.inf)
    if not right:
        beyond = f" of at least {least:g}" if least > -math.inf else ""
        raise ValueError(f"{name} is {in_line(repr(value), 60)}, not {KINDS[kind]}{beyond}")
    return value


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
