"""Items encoded by processes of this machine, each with the model and one thread for it."""

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vidtwin.inference.engine import Engine
from vidtwin.latent_sets.encode import Failure, encode_items
from vidtwin.latent_sets.items import Item, content
from vidtwin.latent_sets.plan import Plan
from vidtwin.latent_sets.spool import Entry, Spool
from vidtwin.model.vidtwin import VidTwin
from vidtwin.processes import Pool

CHUNK = 8  # items that a process is given at once: it reads the next while it encodes this one
KILLED = "killed the process that encoded it, each time: a broken decoder, or too little memory"


@dataclass(frozen=True)
class Setup:
    """What a process needs to encode.

    Attributes:
        model: a checkpoint folder. spool: folder to put rows into. scratch: for copies of remote files. All are absolute.
    """

    plan: Plan
    model: Path
    spool: Path
    scratch: Path

    def engine(self, rank: int = 0) -> Engine:
        """For process number `rank`, which takes the next GPU if the plan's device is one."""
        torch.set_num_threads(self.plan.threads)
        device = f"cuda:{rank % torch.cuda.device_count()}" if self.plan.device == "cuda" else self.plan.device
        model = VidTwin.from_pretrained(self.model).to(device)
        return Engine(model, encode_dtype=getattr(torch, self.plan.dtype), batch=self.plan.batch)


def encode_chunk(engine: Engine, setup: Setup, items: Sequence[Item]) -> list[Entry]:
    """Encode items and put down what came of each."""
    spool = Spool(setup.spool, setup.plan)
    setup.scratch.mkdir(exist_ok=True)
    return [spool.keep(outcome) for outcome in encode_items(engine, setup.plan, items, setup.scratch, spool.attempt)]


def killed(spool: Spool, item: Item) -> Entry:
    """Put down that an item ends the processes that encode it."""
    try:
        facts = None if isinstance(item.file, str) else content(item.file)
    except OSError:
        facts = None
    return spool.keep(Failure(item, facts, KILLED))


def encode_locally(setup: Setup, items: Sequence[Item], processes: int) -> Iterator[Entry]:
    """Encode items in so many processes; what came of each, as it is done.

    A process that dies is replaced. The items that were begun then are done again, one after the other, and one that ends its
    process again is a failure.

    Raises:
        RuntimeError: processes end before they have begun.
    """
    size = max(1, min(CHUNK, len(items) // (4 * processes)))
    chunks = deque(list(items[start : start + size]) for start in range(0, len(items), size))
    spool = Spool(setup.spool, setup.plan)
    while chunks:
        lost: list[Item] = []
        yield from _run(setup, chunks, processes, lost)
        done = {item.key: entry for item in lost if (entry := spool.pending(item)) is not None}
        yield from done.values()
        left = [item for item in lost if item.key not in done]
        begun = [item for item in left if spool.tries(item)]
        if others := [item for item in left if not spool.tries(item)]:
            chunks.appendleft(others)
        for item in begun:
            again: list[Item] = []
            yield from _run(setup, deque([[item]]), 1, again)
            if again:
                yield killed(spool, item)


def _run(setup: Setup, chunks: deque[list[Item]], processes: int, lost: list[Item]) -> Iterator[Entry]:
    """Until all chunks are done, or a process dies; `lost` gets the items that were being encoded then."""
    running: dict[Future[list[Entry]], list[Item]] = {}
    values = multiprocessing.get_context("spawn")
    counter, ready = values.Value("i", 0), values.Value("i", 0)
    pool = Pool(processes, _begin, (setup, counter, ready))
    try:
        while chunks or running:
            while chunks and len(running) < 2 * processes:
                try:
                    running[pool.submit(_work, chunks[0])] = chunks[0]
                except BrokenProcessPool:
                    break
                chunks.popleft()
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                items = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    lost += items
                else:
                    yield from future.result()
            if lost:
                for future, items in running.items():  # all of them end so
                    if future.exception() is None:
                        yield from future.result()
                    else:
                        lost += items
                if not ready.value:
                    raise RuntimeError(
                        "the processes that encode end before they begin; free some memory, or use fewer processes (in a script, "
                        'keep what starts it under `if __name__ == "__main__":`)'
                    )
                return
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_process: tuple[Engine, Setup] | None = None


def _begin(setup: Setup, counter: Any, ready: Any) -> None:
    """Of a process: the model."""
    global _process
    with counter.get_lock():
        rank = counter.value
        counter.value += 1
    _process = setup.engine(rank), setup
    ready.value = 1


def _work(items: list[Item]) -> list[Entry]:
    assert _process is not None
    return encode_chunk(*_process, items)
