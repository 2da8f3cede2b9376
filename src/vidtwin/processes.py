"""Worker processes that end quietly: with Ctrl-C, whenever it comes, and with the process that began them, however it ended."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import connection
from typing import Any


class Pool(ProcessPoolExecutor):
    """A `ProcessPoolExecutor` of fresh processes, each of which begins with `begin(*arguments)`."""

    def __init__(self, processes: int, begin: Callable[..., object] | None = None, arguments: tuple[Any, ...] = ()):
        super().__init__(processes, multiprocessing.get_context("spawn"), _begin, (begin, arguments))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As in the base class, which begins processes here: with Ctrl-C held back until they can end of it quietly."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(begin: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel
    threading.Thread(target=lambda: (connection.wait([sentinel]), os._exit(1)), daemon=True).start()
    if begin is not None:
        begin(*arguments)
