"""The folder beside an output in which it grows: a journal of what is durable, and a lock, so that a killed job can go on.

`.out.mp4.partial/journal.jsonl` begins with what the job is; each further line is a checkpoint: what is stored so far, and the
state that the caller wants back. A line counts once it is whole; what a killed process wrote after the last one is discarded.
"""

import json
import os
import shutil
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from vidtwin.files import beside

JOURNAL = "journal.jsonl"
KIND = "vidtwin partial video 1"  # in the first line: what tells our folders from others
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
AS_IT_IS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class WorkFolder:
    """A folder that one process owns from `open` to `close`.

    Args:
        target: the output that it belongs to.
        job: what is written and how, JSON-able; None: nothing can be resumed.
        resume: go on from what the folder holds.

    Attributes:
        path: of the folder.
        checkpoints: the lines of the journal that hold, in order, as dictionaries.
    """

    def __init__(self, target: Path, job: dict[str, Any] | None, resume: bool) -> None:
        self._target, self._job, self._resume = target, job, resume
        self.path = beside(target, f".{target.name}", ".partial")
        self.checkpoints: list[dict[str, Any]] = []
        self._journal = -1
        self._ends: list[int] = []  # of the journal's lines, in bytes

    @property
    def durable(self) -> bool:
        """Whether what is written has to survive a crash."""
        return self._job is not None

    def open(self) -> None:
        """Make the folder, or take over the one that is there.

        Raises:
            FileExistsError: something else has its name. BlockingIOError: another process is writing the same output.
            ValueError: it is to be resumed and holds another job; the message names what differs.
        """
        try:
            self._claim()
            found = self._read()
            if self._resume and len(found) > 1:
                self._check_same_job(found[0].get("job") or {})
                self.checkpoints = found[1:]
            else:
                self._clear()
                self._append({"kind": KIND, "job": self._job})
        except BaseException:
            self._unlock()
            raise

    def add(self, checkpoint: dict[str, Any]) -> None:
        """Journal a checkpoint; durable when this returns."""
        self._append(checkpoint)
        self.checkpoints.append(checkpoint)

    def forget(self, count: int) -> None:
        """Keep only the first `count` checkpoints."""
        os.ftruncate(self._journal, self._ends[count])
        del self.checkpoints[count:], self._ends[count + 1 :]

    def sync(self) -> None:
        """Make the names in the folder durable."""
        if self.durable:
            sync_folder(self.path)

    def close(self, keep: bool) -> None:
        """Give up the folder; it is deleted unless there is something to keep."""
        if self._journal >= 0 and not keep:
            with suppress(OSError):
                self._delete_others()
                os.unlink(self.path / JOURNAL)  # last: without it the folder would be nobody's
                self.path.rmdir()
        self._unlock()

    def _claim(self) -> None:
        """Open and lock the journal; afterwards nobody else uses the folder."""
        while True:
            with suppress(FileExistsError):
                self.path.mkdir()
            try:
                self._check_ours()
                self._journal = os.open(self.path / JOURNAL, os.O_RDWR | os.O_CREAT | NO_FOLLOW | AS_IT_IS, 0o666)
                _lock(self._journal)
                there, here = os.stat(self.path / JOURNAL, follow_symlinks=False), os.fstat(self._journal)
                if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
                    return
            except BlockingIOError as error:
                raise BlockingIOError(
                    f"{self._target}: another process is writing it; wait until it is done, or choose another output"
                ) from error
            except FileNotFoundError:  # the process that had it is done, and has deleted it
                pass
            self._unlock()

    def _check_ours(self) -> None:
        status = os.stat(self.path, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            raise self._foreign("is no folder")
        names = os.listdir(self.path)
        if names and JOURNAL not in names:
            raise self._foreign("holds other files")
        if names and not stat.S_ISREG(os.stat(self.path / JOURNAL, follow_symlinks=False).st_mode):
            raise self._foreign("holds other files")

    def _foreign(self, reason: str) -> FileExistsError:
        return FileExistsError(f"{self.path}: {reason}, but is where the output grows; move it away, or choose another output")

    def _read(self) -> list[dict[str, Any]]:
        """The whole lines of the journal; the rest of it is cut off."""
        with os.fdopen(os.dup(self._journal), "rb") as journal:
            data = journal.read()
        lines: list[dict[str, Any]] = []
        for line in data.splitlines(keepends=True):
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except (ValueError, RecursionError):
                entry = None
            if not isinstance(entry, dict):
                break
            lines.append(entry)
            self._ends.append(len(line) + sum(self._ends[-1:]))
        begin = json.dumps({"kind": KIND}).encode()[:-1]
        if (lines and lines[0].get("kind") != KIND) or (not lines and not begin.startswith(data[: len(begin)])):
            raise self._foreign("holds a journal of something else")
        os.ftruncate(self._journal, sum(self._ends[-1:]))
        return lines

    def _check_same_job(self, before: dict[str, Any]) -> None:
        now = json.loads(json.dumps(self._job))
        keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        if keys:
            changes = ", ".join(f"{key} (was {_short(before.get(key))}, is {_short(now.get(key))})" for key in keys)
            raise ValueError(f"{self._target}: was started differently: {changes}; run without resume=True to start over")

    def _clear(self) -> None:
        """Begin anew."""
        os.ftruncate(self._journal, 0)
        self._ends.clear()
        self._delete_others()

    def _delete_others(self) -> None:
        """Delete all that is in the folder but the journal."""
        for entry in os.scandir(self.path):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            elif entry.name != JOURNAL:
                os.unlink(entry.path)

    def _append(self, line: dict[str, Any]) -> None:
        os.lseek(self._journal, 0, os.SEEK_END)
        data = _line(line)
        write_all(self._journal, data)
        self._ends.append(len(data) + sum(self._ends[-1:]))
        if self.durable:
            os.fsync(self._journal)
            self.sync()

    def _unlock(self) -> None:
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1


def write_all(file: int, data: bytes) -> None:
    """Write all of `data`: the system may take a part at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    with suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _lock(file: int) -> None:
    """Take the file for this process until it is closed; BlockingIOError when another one has it."""
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks
            pass
