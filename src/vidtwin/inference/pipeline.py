"""Work side by side with bounded queues: frames are read ahead, and written behind, while the model computes."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

POLL = 0.1  # seconds between looks at whether the other side is still there


class _End:
    """The last thing in a queue: the error that ended the work, or None."""

    def __init__(self, error: BaseException | None):
        self.error = error


def ahead(items: Iterable[T], depth: int = 1) -> Iterator[T]:
    """The same items, made in a thread, at most `depth` finished ones waiting.

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


class Behind:
    """Calls done in a thread, one after another in their order, at most `depth` waiting.

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
        while (call := self._waiting.get()) is not None:
            if self._error is None:
                function, arguments = call
                try:
                    function(*arguments)
                except BaseException as raised:
                    self._error = raised
