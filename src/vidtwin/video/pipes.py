""" "-" as a file's name: standard input and output, by way of temporary files, since videos need to be sought in."""

import contextlib
import os
import select
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

CHUNK = 1 << 20  # bytes in memory at a time


@contextlib.contextmanager
def spooled(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The path itself; for "-", a temporary file that all of standard input has been copied to, removed afterwards.

    Raises:
        ValueError: standard input is a terminal, closed or empty.
        OSError: it cannot be read, or the temporary file not be written (the disk is full).
    """
    if os.fspath(path) != "-":
        yield Path(path)
        return
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise ValueError("-: nothing is piped into standard input; pipe a video into it, or name a file")
    with _folder() as folder:
        copy = folder / "standard-input"
        try:
            with copy.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file, CHUNK)
        except OSError as error:
            raise OSError(
                f"-: standard input cannot be copied to {folder.parent} ({error.strerror}); free some space there, or set TMPDIR"
            ) from error
        if copy.stat().st_size == 0:
            raise ValueError("-: standard input is empty; pipe a video into it, or name a file")
        yield copy


@contextlib.contextmanager
def stdout_output(suffix: str) -> Iterator[Path]:
    """A temporary path of that suffix (".mp4"); the file that is written there goes to standard output, unless an error ends it.

    Raises:
        ValueError: standard output is a terminal or closed.
        OSError: whoever reads it stopped before its end, or the disk is full.
    """
    if sys.stdout is None or sys.stdout.closed or sys.stdout.isatty():
        raise ValueError("-: standard output is not redirected; pipe it into a program or a file, or name an output")
    with _folder() as folder:
        output = folder / f"output{suffix}"
        yield output
        try:
            with output.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer, CHUNK)
            sys.stdout.buffer.flush()
        except BrokenPipeError as error:
            silence_stdout()
            raise OSError("-: standard output was closed before all was written; let its reader read to the end") from error
        except OSError as error:
            raise OSError(f"-: standard output cannot be written ({error.strerror}); free some space or name an output") from error


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    try:
        folder = tempfile.mkdtemp(prefix="vidtwin-")
    except OSError as error:
        raise OSError(f"-: no temporary folder can be made ({error.strerror}); free some space, or set TMPDIR") from error
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def flush_stdout() -> None:
    """Raises BrokenPipeError if its reader has gone."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def reader_has_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLERR)
        return bool(poll.poll(0))
    return False


def silence_stdout() -> None:
    """Python flushes standard output once more when it ends, and would complain of the closed pipe again."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
