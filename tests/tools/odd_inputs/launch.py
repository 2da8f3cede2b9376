"""The command line as processes of their own, each under limits, with its exit code, seconds and peak memory.

They are forked from a process that has imported already what a run imports, which saves the seconds that this takes; or each of
them is a Python that begins anew.
"""

import gc
import io
import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import time
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

SECONDS = 120  # of a run, after which SIGALRM ends it
MEMORY = 6 << 30  # bytes of address space


@dataclass(frozen=True)
class Job:
    """Arguments of `vidtwin`, the folder it is run in, and where its output goes; `piped`: `cat FILE | vidtwin ...`."""

    arguments: list[str]
    folder: str
    stdout: str
    stderr: str
    piped: str | None = None


@dataclass(frozen=True)
class Ended:
    """code: of the exit, or minus the signal that ended it. peak: MiB of the resident set."""

    code: int
    seconds: float
    peak: float


class Launcher:
    """with Launcher() as launch: ended = launch(job)"""

    def __init__(self, fresh: bool = False) -> None:
        self._fresh = fresh

    def __enter__(self) -> "Launcher":
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "tests.tools.odd_inputs.launch", str(theirs.fileno()), str(int(self._fresh))]
            root = Path(__file__).parents[3]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], cwd=root)
        self._socket, self._file = ours, ours.makefile("rw")
        return self

    def __call__(self, job: Job) -> Ended:
        self._file.write(json.dumps(asdict(job)) + "\n")
        self._file.flush()
        return Ended(**json.loads(self._file.readline()))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        self._socket.close()
        self._process.wait()


def serve(descriptor: int, fresh: bool) -> None:
    """Run the jobs that come through a socket. In the process of a job this does not return: it ends as `vidtwin` does."""
    if not fresh:
        import_all()
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rw") as file:
        for line in iter(file.readline, ""):
            job = Job(**json.loads(line))
            feeder: subprocess.Popen[bytes] | None = None
            if job.piped is not None:
                feeder = subprocess.Popen(["cat", job.piped], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            begun = time.perf_counter()
            child = os.fork()
            if child == 0:
                become(job, feeder, fresh)
            if feeder is not None and feeder.stdout is not None:
                feeder.stdout.close()
            _, status, usage = os.wait4(child, 0)
            seconds = time.perf_counter() - begun
            if feeder is not None:
                feeder.wait()
            ended = Ended(os.waitstatus_to_exitcode(status), round(seconds, 2), round(usage.ru_maxrss / 1024, 1))
            file.write(json.dumps(asdict(ended)) + "\n")
            file.flush()


def import_all() -> None:
    """Import what a run imports, early or late, by one that ends in an error; and keep what there is out of garbage collection."""
    import torch

    import vidtwin.cli

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of what others would start, a forked process has nothing but the locks
    with redirect_stderr(io.StringIO()):
        vidtwin.cli.main(["reconstruct", "no such file"])
    torch.set_num_threads(threads)
    gc.collect()
    gc.freeze()


def become(job: Job, feeder: Any, fresh: bool) -> None:
    """Turn this process into `vidtwin ARGUMENTS`; ends with SystemExit."""
    os.chdir(job.folder)
    files = [os.open(job.stdout, os.O_WRONLY | os.O_CREAT, 0o600), os.open(job.stderr, os.O_WRONLY | os.O_CREAT, 0o600)]
    os.dup2(os.open(os.devnull, os.O_RDONLY) if feeder is None else feeder.stdout.fileno(), 0)
    for number, file in enumerate(files, start=1):
        os.dup2(file, number)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(SECONDS)
    if fresh:
        os.execv(sys.executable, [sys.executable, "-m", "vidtwin", *job.arguments])
    sys.argv = ["vidtwin", *job.arguments]
    runpy.run_module("vidtwin", run_name="__main__")


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2] == "1")
