"""Cases read in child processes, each with a bound on its memory and under watch: what kills or holds up a child is a finding."""

import faulthandler
import os
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from tests.tools.fuzzing.cases import make_case
from tests.tools.fuzzing.readers import Finding, Outcome, run_case
from tests.tools.fuzzing.seeds import Seed

GIB = 1 << 30
RUNAWAY = GIB  # bytes that a case may take
START = 300.0  # seconds in which a child must be ready

Read = Callable[[Path, int, Seed, bytes], Outcome]


@dataclass(frozen=True)
class Bounds:
    """seconds: of a case. address_space: bytes of a child's, whose libraries alone take 0.7 GiB."""

    seconds: float = 20.0
    address_space: int = 4 * GIB


def limit_memory(bounds: Bounds) -> None:
    """Of this process, from now on; and no core dumps."""
    resource.setrlimit(resource.RLIMIT_AS, (bounds.address_space, bounds.address_space))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def watched(read: Read, folder: Path, number: int, seed: Seed, data: bytes) -> Outcome:
    """`read`, with the findings that show only from outside: errors that nobody caught, and memory."""
    unraisable: list[str] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda args: unraisable.append(f"{args.exc_type.__name__}: {args.exc_value}")
    try:
        outcome = read(folder, number, seed, data)
    finally:
        sys.unraisablehook = hook
    for text in unraisable:
        outcome = outcome.but(Finding("", "exception ignored", message=text))
    if outcome.memory > RUNAWAY:
        took = f"{outcome.memory / GIB:.1f} GiB for a file of {len(data)} bytes"
        outcome = outcome.but(Finding("", "runaway memory", message=took))
    return outcome


def _serve(pipe: Connection, folder: Path, log: Path, seeds: Sequence[Seed], start: int, bounds: Bounds, read: Read) -> None:
    """A child's life: case numbers in, outcomes out; its standard error and, when it dies, its stack go to `log`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    file = log.open("w")
    os.dup2(file.fileno(), 2)
    faulthandler.enable(file)
    faulthandler.register(signal.SIGUSR1, file)
    torch.set_num_threads(1)
    for seed in {seed.kind: seed for seed in seeds}.values():  # what is loaded at first use is not the first case's memory
        read(folder, 0, seed, seed.data)
    limit_memory(bounds)
    pipe.send("ready")
    while (number := pipe.recv()) is not None:
        os.ftruncate(file.fileno(), 0)
        file.seek(0)
        pipe.send(watched(read, folder, number, *make_case(seeds, start, number)))


class _Worker:
    """A child, the case that it has, and until when."""

    def __init__(self, base: Path, seeds: Sequence[Seed], start: int, bounds: Bounds, read: Read):
        self._bounds = bounds
        self._log = Path(tempfile.mkstemp(dir=base)[1])
        context = get_context("forkserver")  # forks a process that has imported all this, so that a new child is there at once
        context.set_forkserver_preload([__name__])
        self.pipe, theirs = context.Pipe()
        arguments = theirs, Path(tempfile.mkdtemp(dir=base)), self._log, seeds, start, bounds, read
        self._process: BaseProcess = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.case: int | None = None
        self.begin = time.monotonic()
        self.deadline = self.begin + START

    def give(self, case: int | None) -> None:
        """The next case; None ends it."""
        self.case, self.begin = case, time.monotonic()
        self.deadline = self.begin + self._bounds.seconds
        self.pipe.send(case)
        if case is None:
            self._process.join()

    def answer(self) -> "str | Outcome | Finding | None":
        """None while it is busy; "ready" once; an outcome; a finding when it has died or is too late, after which it is no more."""
        try:
            if self.pipe.poll():
                answer: str | Outcome = self.pipe.recv()
                return answer
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode or 0
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return Finding("", f"crash, {how}", self._stack())
        if time.monotonic() > self.deadline:
            self.kill()
            return Finding("", "hang", self._stack(), f"more than {self._bounds.seconds:g} seconds")
        return None

    def kill(self) -> None:
        """With its stack in the log."""
        if self._process.is_alive() and self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGUSR1)
            time.sleep(0.2)
            self._process.kill()
        self._process.join()

    def _stack(self) -> str:
        """The innermost lines of the stack in the log."""
        frames = re.findall(r'File "[^"]*?([^/"]+/[^/"]+)", line ([0-9]+) in (\S+)', self._log.read_text(errors="replace"))
        return ", ".join(f"{file}:{line} {name}" for file, line, name in frames[:4])


def run_cases(
    seeds: Sequence[Seed], start: int, numbers: Iterable[int], workers: int, bounds: Bounds, read: Read = run_case
) -> Iterator[Outcome]:
    """The outcomes of all cases, as they come."""
    coming = iter(numbers)
    with tempfile.TemporaryDirectory() as base:
        crew = [_Worker(Path(base), seeds, start, bounds, read) for _ in range(workers)]
        try:
            while crew:
                wait([worker.pipe for worker in crew], max(0.0, min(worker.deadline for worker in crew) - time.monotonic()))
                for worker in [*crew]:
                    answer = worker.answer()
                    if isinstance(answer, Finding):
                        if worker.case is None:
                            raise RuntimeError(f"a worker did not start: {answer}")
                        seed, _ = make_case(seeds, start, worker.case)
                        took = time.monotonic() - worker.begin
                        yield Outcome(worker.case, seed.kind, seed.name, "finding", took, findings=[answer])
                        crew[crew.index(worker)] = _Worker(Path(base), seeds, start, bounds, read)
                    elif answer is not None:
                        if isinstance(answer, Outcome):
                            yield answer
                        worker.give(next(coming, None))
                        if worker.case is None:
                            crew.remove(worker)
        finally:
            for worker in crew:
                worker.kill()
