"""Which frames a window holds: by the rule written out, for every kind of anchor, step and length."""

import pytest

from vidtwin.frames.windows import cut_windows, is_needed, numbers_at


@pytest.mark.parametrize("count", [1, 2, 7, 16, 33])
@pytest.mark.parametrize(("step", "every"), [(1, 4), (1, 1), (2, 8), (2, 3), (3, 1), (1, 9)])
@pytest.mark.parametrize("kind", ["first", "last"])
def test_windows_are_those_of_the_rule(count, step, every, kind):
    found = list(cut_windows(range(count), 4, step, every, kind))
    assert [cut.anchor for cut in found] == list(range(0, count, every))
    for cut in found:
        if kind == "first":
            ids = [min(cut.anchor + step * j, cut.anchor + step * ((count - 1 - cut.anchor) // step)) for j in range(4)]
        else:
            ids = [max(cut.anchor - step * j, cut.anchor % step) for j in (3, 2, 1, 0)]
        assert list(cut.numbers) == ids == cut.frames and cut.valid == len(set(ids))


def test_examples():
    assert numbers_at(3, 4, 2, "first", 8) == ((3, 5, 7, 7), 3)
    assert numbers_at(3, 4, 2, "last", 8) == ((1, 1, 1, 3), 2)


@pytest.mark.parametrize(("step", "every"), [(1, 4), (2, 3), (3, 1), (1, 50), (2, 51), (4, 20)])
@pytest.mark.parametrize("kind", ["first", "last"])
def test_needed_frames_are_those_of_windows(step, every, kind):
    count = 300
    used = {number for cut in cut_windows(range(count), 4, step, every, kind) for number in cut.numbers}
    needed = {number for number in range(count) if is_needed(number, 4, step, every, kind)}
    assert used <= needed
    beyond = {number for number in needed - used if number < count - 4 * step - every}  # the last anchors may not come
    assert not beyond


@pytest.mark.parametrize("kind", ["first", "last"])
def test_few_frames_are_kept(kind):
    """Frames are counted that are alive at once."""
    alive: set[int] = set()
    most = 0

    class Frame:
        def __init__(self, number: int):
            self.number = number
            alive.add(number)

        def __del__(self):
            alive.discard(self.number)

    for every in (4, 200):
        for cut in cut_windows(map(Frame, range(500)), 16, 1, every, kind):
            most = max(most, len(alive))
            del cut
    assert most <= 16 + 4 + 16
