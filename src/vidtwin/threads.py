"""Work side by side with bounded queues: frames are read ahead, and written behind, while the model computes."""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

POLL = 0.1  # seconds between looks at whether the other side is still there


def single_threaded() -> None:
    """From here on torch's operators in this thread use no other threads; for threads beside the model's.

    Each thread has helpers of its own for them, which keep a processor busy while they wait for the next operator: small operators
    in one thread so take twice the processors' time, and the model in another waits for them.
    """
    default = torch.get_num_threads()
    if default > 1:
        torch.set_num_threads(1)  # of this thread, but also of all that have not begun
        other = threading.Thread(target=torch.set_num_threads, args=(default,))
        other.start()
        other.join()


class _End:
    """The last thing in a queue: the error that ended the work, or None."""

    def __init__(self, error: BaseException | None):
        self.error = error


def ahead(items: Iterable[T], depth: int = 1, single: bool = False) -> Iterator[T]:
    """The same items, made in a thread (with `single`, a `single_threaded` one), at most `depth` finished ones waiting.

    What making them raises is raised here, in its place. Closing the iterator ends the thread, after the item that it is at.
    """
    waiting: queue.Queue[T | _End] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: T | _End) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=POLL)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        if single:
            single_threaded()
        error: BaseException | None = None
        iterator = iter(items)
        try:
            for item in iterator:
                if not put(item):
                    break
        except BaseException as raised:  # all of it belongs to whoever asked for the items
            error = raised
        close = getattr(iterator, "close", None)
        if close is not None:
            close()  # here, in the thread that ran it
        put(_End(error))

    thread = threading.Thread(target=work, name="read ahead", daemon=True)
    thread.start()
    try:
        while True:
            item = waiting.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stopped.set()
        thread.join()


def side_by_side(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """function(item) of each item, in their order, computed in so many `single_threaded` threads; with one, where it is asked for.

    At most `threads` + 1 results are computed or wait. What making an item or its result raises is raised in its place, and
    nothing comes after it. Closing the iterator ends the threads, after the items that they are at.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    waiting: deque[Future[R]] = deque()
    iterator, failure = iter(items), None
    with ThreadPoolExecutor(threads, "side by side", initializer=single_threaded) as pool:
        try:
            while True:
                try:
                    waiting.append(pool.submit(function, next(iterator)))
                except StopIteration:
                    break
                except Exception as error:  # those before it come first
                    failure = error
                    break
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            if isinstance(iterator, Generator):
                iterator.close()  # here, in the thread that ran it
    if failure is not None:
        raise failure


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Behind:
    """Calls done in a `single_threaded` thread, one after another in their order, at most `depth` waiting.

        with Behind() as later:
            later(writer.write, frames)

    The block ends when all of them are done. What one of them raises is raised by the next call or by the end of the block, and
    the calls after it are not done. If the block ends by an error of its own, waiting calls are still done, and their errors lost.
    """

    def __init__(self, depth: int = 2):
        self._waiting: queue.Queue[tuple[Callable[..., Any], tuple[Any, ...]] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="write behind", daemon=True)

    def __enter__(self) -> "Behind":
        self._thread.start()
        return self

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Do function(*arguments) after the calls before; waits while `depth` of them wait."""
        self._raise()
        self._waiting.put((function, arguments))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._waiting.put(None)
        self._thread.join()
        if error is None:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        single_threaded()
        while (call := self._waiting.get()) is not None:
            if self._error is None:
                function, arguments = call
                try:
                    function(*arguments)
                except BaseException as raised:
                    self._error = raised
