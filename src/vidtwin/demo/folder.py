"""The files of a server and of its visitors: in one folder, within a total, gone after a while, and with the server.

A server holds a lock on the file `lock` of its folder as long as it lives. So the next one knows what a killed one has left, and
deletes that alone.
"""

import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PREFIX, LOCK = "vidtwin-demo-", "lock"
LEAST = 2**16  # bytes that a file counts for at least, so that their number has a bound, too
OFTEN = 60.0  # seconds between two looks at what may go


@contextmanager
def server_folder() -> Iterator[Path]:
    """A new folder of this server, for its user alone, deleted at the end; what servers that were killed have left goes before."""
    clear_left(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, ExitStack() as stack:
        new = Path(folder, f"{LOCK}.new")
        fcntl.flock(stack.enter_context(new.open("x")), fcntl.LOCK_EX)
        new.rename(new.with_name(LOCK))  # locked before it has its name, so that nobody takes it for a dead one's
        yield Path(folder).resolve()


def clear_left(place: Path) -> None:
    """Delete folders of servers that are no more: of this user, with a lock file that nobody holds. No others, and no links."""
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError), ExitStack() as stack:
            facts = folder.lstat()
            if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
                continue
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            stack.callback(os.close, lock)
            if stat.S_ISREG(os.fstat(lock).st_mode) and os.fstat(lock).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)


def new_file(name: str, place: Path | None = None) -> Path:
    """A new file's path, in a folder of its own with a name that cannot be guessed; `place`: where, else among temporary files."""
    folder = (place or Path(tempfile.gettempdir())) / f"visitor-{secrets.token_hex(16)}"
    folder.mkdir(mode=0o700)
    return folder / name


def touch(*paths: Path) -> None:
    """Note that files are in use. Raises ValueError, for their visitor, if one of them is gone."""
    for path in paths:
        try:
            os.utime(path)
        except OSError:
            raise ValueError(
                f"{path.name} has been deleted here (others needed the room, or it was long ago); give it again"
            ) from None


class Keeper:
    """Deletes, in a folder, what was not used for `seconds`, and what was used longest ago beyond `most` bytes in all.

    `forget` is told the paths of deleted files; what is in `kept` stays. A context manager: meanwhile it looks every now and then.
    """

    def __init__(
        self,
        folder: Path,
        most: float,
        seconds: float,
        forget: Callable[[set[str]], object] = lambda gone: None,
        kept: Path | None = None,
    ):
        self._folder, self._most, self._seconds, self._forget, self._kept = folder, most, seconds, forget, kept
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="keeper", daemon=True)

    def __enter__(self) -> "Keeper":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(min(OFTEN, self._seconds / 4)):
            self.clear()

    def clear(self, room: float = 0) -> None:
        """Delete what may go, and what must for `room` more bytes."""
        with self._lock:
            old, files, folders = time.time() - self._seconds, [], []
            for place, _, names in os.walk(self._folder, topdown=False):
                if self._kept is not None and Path(place).is_relative_to(self._kept):
                    continue
                if place != str(self._folder):
                    folders.append((_changed(place)[0], place))
                files += [(*_changed(path), path) for path in (os.path.join(place, name) for name in names)]
            files = sorted(file for file in files if file[2] != str(self._folder / LOCK))
            total, gone = sum(size for _, size, _ in files) + room, set()
            for used, size, path in files:
                if used >= old and total <= self._most:
                    break
                with suppress(OSError):
                    os.unlink(path)
                    gone.add(path)
                    total -= size
            for used, path in folders:  # the innermost first
                if used < old:
                    with suppress(OSError):
                        os.rmdir(path)
            self._forget(gone)


def _changed(path: str) -> tuple[float, int]:
    """When something was made or touched last (the time of its inode, which copies do not inherit), and the bytes it counts for."""
    try:
        facts = os.lstat(path)
    except OSError:
        return 0.0, 0
    return facts.st_ctime, max(facts.st_size, LEAST)
