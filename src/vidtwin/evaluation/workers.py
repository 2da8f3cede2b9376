"""The same work on many videos, in this process or in several, with the same results."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch

from vidtwin.evaluation.scoring import Networks, Rules, Scorer
from vidtwin.model.vidtwin import VidTwin
from vidtwin.processes import Pool

T = TypeVar("T")
Outcome = tuple[str, T | str]  # of a video: its name, what came of it, or the reason why nothing did

_scorer: Scorer | None = None  # of a worker process


class Workers:
    """A `Scorer` in this process, or one in each of several, to which the weights go by way of a folder.

    Each of N processes has an N-th of torch's threads. A context manager.
    """

    def __init__(self, model: VidTwin, rules: Rules, networks: Networks, processes: int = 1):
        if processes < 1:
            raise ValueError(f"workers={processes}: give at least 1")
        self._own = Scorer(model, rules, networks)  # also refuses, before any work, what cannot be
        self._processes, self._setting = processes, (rules, networks)
        self._pool: Pool | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "Workers":
        if self._processes > 1:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vidtwin-"))
            self._own.model.save_pretrained(folder)
            threads = max(1, torch.get_num_threads() // self._processes)
            arguments = folder, str(self._own.device), self._own.dtype, threads, *self._setting
            self._pool = Pool(self._processes, _begin, arguments)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._stack.close()

    @property
    def controls(self) -> dict[str, dict[str, Any]]:
        """As `Scorer.controls`."""
        return self._own.controls

    def each(self, method: Callable[..., T], tasks: Iterable[tuple[str, Path, tuple[Any, ...]]]) -> Iterator[Outcome[T]]:
        """method(scorer, name, path, *more) of each video (name, path, more), in their order."""
        if self._pool is None:
            for name, path, more in tasks:
                yield name, _tried(self._own, method, name, path, more)
            return
        waiting: list[tuple[str, Future[T | str]]] = [
            (name, self._pool.submit(_work, method, name, path, more)) for name, path, more in tasks
        ]
        for name, future in waiting:
            yield name, future.result()


def _begin(folder: str, device: str, dtype: torch.dtype, threads: int, rules: Rules, networks: Networks) -> None:
    global _scorer
    torch.set_num_threads(threads)
    _scorer = Scorer(VidTwin.from_pretrained(folder).to(device, dtype), rules, networks)


def _work(method: Callable[..., T], name: str, path: Path, more: tuple[Any, ...]) -> T | str:
    assert _scorer is not None
    return _tried(_scorer, method, name, path, more)


def _tried(scorer: Scorer, method: Callable[..., T], name: str, path: Path, more: tuple[Any, ...]) -> T | str:
    """What comes of a video, or why it cannot be read."""
    try:
        return method(scorer, name, path, *more)
    except (OSError, ValueError) as error:
        return str(error).removeprefix(f"{path}: ").replace(str(path), name)
