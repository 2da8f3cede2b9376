import threading
import time

import pytest
import torch

from vidtwin.threads import Behind, ahead, side_by_side


def test_items_come_in_order_and_not_too_early():
    made: list[int] = []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    for number in ahead(items(), depth=2):
        time.sleep(0.002)
        assert len(made) <= number + 1 + 2 + 1  # taken, waiting, and the one that finds the queue full
    assert made == list(range(20))


def test_what_making_an_item_raises_is_raised_in_its_place():
    def items():
        yield 1
        raise ValueError("broken")

    iterator = ahead(items())
    assert next(iterator) == 1
    with pytest.raises(ValueError, match="broken"):
        next(iterator)


def test_leaving_early_ends_the_thread_and_closes_the_source():
    closed = []

    def items():
        try:
            yield from range(1000)
        finally:
            closed.append(threading.current_thread().name)

    before = threading.active_count()
    iterator = ahead(items())
    assert next(iterator) == 0
    iterator.close()
    assert threading.active_count() == before
    assert closed == ["read ahead"]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order_from_threads_that_do_not_run_away(threads):
    taken: list[int] = []

    def items():
        for number in range(30):
            taken.append(number)
            yield number

    def slow(number):
        time.sleep(0.005 if number % 3 == 0 else 0)
        return number, threading.get_ident()

    used = set()
    for number, (result, thread) in enumerate(side_by_side(slow, items(), threads)):
        assert result == number and len(taken) <= number + 1 + threads
        used.add(thread)
    assert len(taken) == 30 and len(used) <= threads
    assert (threading.get_ident() in used) == (threads == 1)


@pytest.mark.parametrize("threads", [1, 3])
def test_failures_are_raised_in_their_place(threads):
    def items():
        yield from range(5)
        raise OSError("cut off")

    def odd(number):
        if number == 3:
            raise ValueError("broken")
        return number

    before, got = threading.active_count(), []
    with pytest.raises(OSError, match="cut off"):
        got.extend(side_by_side(int, items(), threads))
    assert got == list(range(5))
    got = []
    with pytest.raises(ValueError, match="broken"):
        got.extend(side_by_side(odd, items(), threads))
    assert got == [0, 1, 2] and threading.active_count() == before


@pytest.mark.parametrize("threads", [1, 3])
def test_leaving_side_by_side_early_ends_its_threads_and_closes_the_source(threads):
    closed = []

    def items():
        try:
            yield from range(1000)
        finally:
            closed.append(threading.get_ident())

    before = threading.active_count()
    results = side_by_side(float, items(), threads)
    assert next(results) == 0
    results.close()
    assert closed == [threading.get_ident()] and threading.active_count() == before


def test_calls_are_done_in_order_before_the_block_ends():
    done: list[int] = []
    with Behind(depth=1) as later:
        for number in range(10):
            later(done.append, number)
    assert done == list(range(10))


def test_a_call_that_fails_stops_the_rest():
    done: list[int] = []

    def fail():
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        with Behind() as later:
            later(done.append, 1)
            later(fail)
            for number in range(100):
                later(done.append, number)
    assert done == [1]


def test_an_error_of_the_block_itself_wins():
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        with Behind() as later:
            later(time.sleep, 0.01)
            later(done.append, 1)
            raise KeyboardInterrupt
    assert done == [1]
    assert not any(thread.name == "write behind" for thread in threading.enumerate())


@pytest.mark.skipif(torch.get_num_threads() == 1, reason="torch has one thread here")
def test_threads_beside_the_models_are_single_and_change_nothing_else():
    before = torch.get_num_threads()

    def threads(*_: object) -> int:
        return torch.get_num_threads()

    assert list(side_by_side(threads, range(5), 2)) == [1] * 5
    assert list(ahead(map(threads, range(3)), single=True)) == [1] * 3
    assert list(ahead(map(threads, range(3)))) == [before] * 3
    found = []
    with Behind() as later:
        later(lambda: found.append(threads()))
    assert found == [1]
    assert torch.get_num_threads() == before
    fresh = threading.Thread(target=lambda: found.append(threads()))
    fresh.start()
    fresh.join()
    assert found == [1, before]
