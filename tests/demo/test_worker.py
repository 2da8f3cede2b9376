"""The process that works for the page: what happens to it happens to nobody else."""

import os
import signal
import time

import pytest

from vidtwin.demo.worker import ENDED, Worker


class Studio:
    """Does what its name says; without the model, which takes long to come."""

    def facts(self):
        return "facts"

    def work(self, steps, progress):
        for step in range(steps):
            progress((step + 1) / steps, "working")
        return os.getpid()

    def die(self, number, progress):
        os.kill(os.getpid(), number)

    def hang(self, progress):
        progress(0.0, "hanging")
        time.sleep(1000)

    def refuse(self, progress):
        raise OSError(5, "no\x1b[31m\nvideo")

    def fail(self, progress):
        raise KeyError("a fault")


class Unusable:
    def __init__(self):
        raise OSError("no such weights")


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    worker = Worker(Studio, tmp_path_factory.mktemp("worker"), patience=1.0)
    yield worker
    worker.close()


def nothing(share, what):
    pass


def test_a_job_is_done_in_another_process_which_tells_how_far_it_is(worker):
    told = []
    assert worker("work", 3, progress=lambda *step: told.append(step)) != os.getpid()
    assert told == [(1 / 3, "working"), (2 / 3, "working"), (1.0, "working")] and worker.facts == "facts"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_job_that_ends_its_process_is_told_so_and_the_next_is_done(worker, number):
    with pytest.raises(ValueError, match="it ended the process that worked on it .* give another$"):
        worker("die", number, progress=nothing)
    assert worker("work", 1, progress=nothing)


def test_a_job_without_progress_is_ended(worker):
    with pytest.raises(ValueError) as told:
        worker("hang", progress=nothing)
    assert str(told.value) == ENDED and worker("work", 1, progress=nothing)


def test_a_job_is_not_blamed_for_a_process_that_died_before_it(worker):
    os.kill(worker("work", 1, progress=nothing), signal.SIGKILL)
    assert worker("work", 1, progress=nothing)


def test_what_is_wrong_with_a_video_comes_as_one_line_and_faults_without_their_details(worker):
    with pytest.raises(ValueError, match=r"^\[Errno 5\] no\\x1b\[31m video$"):
        worker("refuse", progress=nothing)
    with pytest.raises(RuntimeError, match="^KeyError$"):
        worker("fail", progress=nothing)


def test_a_studio_that_cannot_be_made_says_why(tmp_path):
    with pytest.raises(OSError, match="no such weights"):
        Worker(Unusable, tmp_path).facts  # noqa: B018
