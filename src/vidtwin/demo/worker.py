"""The studio in a process of its own: what a file does to a decoder, it does to that process, and the page goes on."""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidtwin.files import in_line
from vidtwin.processes import Pool

if TYPE_CHECKING:
    from vidtwin.demo.studio import Progress, Studio

PATIENCE = 300.0  # seconds that a job may go without progress
POLL = 0.05  # seconds between looks at the process
ENDED = (
    "it ended the process that worked on it (a broken decoder, too little memory, or no progress for minutes); convert the video "
    "to MP4, or give another"
)
EXPECTED = (OSError, ValueError, MemoryError, ArithmeticError)  # of a video, not of this program


class Worker:
    """A studio in another process, which does one job at a time; a process that dies is replaced.

    Args:
        make: the studio, in that process; it must travel there. folder: for temporary files. patience: seconds without progress
            after which a job is ended.
    """

    def __init__(self, make: "Callable[[], Studio]", folder: Path, patience: float = PATIENCE):
        self._make, self._folder, self._patience, self._lock = make, folder, patience, threading.Lock()
        self._pid: int | None = None
        self._closed = False
        self._start()

    @cached_property
    def facts(self) -> Any:
        """What the studio says of itself. Raises what `make` raises."""
        return self("facts")

    def __call__(self, method: str, *arguments: Any, progress: "Progress | None" = None) -> Any:
        """studio.method(*arguments, progress), done there; without `progress`, studio.method(*arguments).

        Raises:
            ValueError: one line for people: what is wrong with a video, or that it ended the process, or took too long.
            RuntimeError: a fault of this program.
        """
        with self._lock:
            for last in (False, True):
                begun = False
                try:
                    future = self._pool.submit(_work, self._make, method, arguments, progress is not None)
                    begun = self._watch(future, progress)
                    return future.result()
                except BrokenProcessPool:
                    self._start()
                    if begun or last:  # otherwise it died before this job, which is not to blame
                        raise ValueError(ENDED) from None

    def _start(self) -> None:
        if self._closed:
            return
        context = multiprocessing.get_context("spawn")
        self._told, teller = context.Pipe(duplex=False)
        self._pid, self._pool = None, Pool(1, _begin, (teller, str(self._folder)))
        self._pool.submit(os.getpid)  # begins the process now, which takes a while

    def _watch(self, future: "Future[Any]", progress: "Progress | None") -> bool:
        """Wait for a job, hand on its progress, and end it when there is none; returns whether it had begun."""
        begun, seen = False, time.monotonic()
        while not future.done() or self._told.poll():
            if self._told.poll(POLL):
                begun, seen, told = True, time.monotonic(), self._told.recv()
                if isinstance(told, int):
                    self._pid = told
                    if self._closed:
                        self._kill()
                elif progress is not None:
                    progress(*told)
            elif begun and time.monotonic() - seen > self._patience:
                self._kill()
                seen = time.monotonic()
        return begun

    def _kill(self) -> None:
        if self._pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._pid = None

    def close(self) -> None:
        """End the process, whatever it does."""
        self._closed = True
        self._kill()
        self._pool.shutdown(wait=True, cancel_futures=True)


_teller: Connection | None = None  # of the process
_studio: "Studio | None" = None


def _begin(teller: Connection, folder: str) -> None:
    global _teller
    _teller, tempfile.tempdir = teller, folder
    warnings.showwarning = lambda message, *rest: print(f"vidtwin: warning: {in_line(message)}", file=sys.stderr)
    with suppress(OSError):  # where memory runs out, Linux ends this process first, not the page's
        Path("/proc/self/oom_score_adj").write_text("1000")


def _work(make: "Callable[[], Studio]", method: str, arguments: tuple[Any, ...], tells: bool) -> Any:
    global _studio
    assert _teller is not None
    if _studio is None:
        _studio = make()
    _teller.send(os.getpid())
    try:
        return getattr(_studio, method)(*arguments, *([lambda *told: _teller.send(told)] if tells else []))
    except EXPECTED as error:  # not as they are: some do not travel
        raise ValueError(in_line(" ".join(str(error).split())) or "there is too little memory for it here") from None
    except Exception as error:
        raise RuntimeError(type(error).__name__) from None
