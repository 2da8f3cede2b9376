"""Which frames of a recording a row holds, cut from frames as they come.

Letters: f frames of a window; frames of a recording are numbered from 0.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, Literal, NamedTuple, TypeVar

T = TypeVar("T")
Anchor = Literal["first", "last"]


class Cut(NamedTuple, Generic[T]):
    """A window: its anchor's number, the numbers of its f frames, how many of them are not repeats, and the frames."""

    anchor: int
    numbers: tuple[int, ...]
    valid: int
    frames: list[T]


def numbers_at(anchor: int, frames: int, step: int, kind: Anchor, count: int) -> tuple[tuple[int, ...], int]:
    """The frames of the window at an anchor, of `count` in all, and how many differ.

    Example: f = 4, step 2: at 3 of 8 frames 3, 5, 7, 7 ("first", 3 valid) or 1, 1, 1, 3 ("last": 2 valid).
    """
    if kind == "first":
        most = (count - 1 - anchor) // step
        places = [min(place, most) for place in range(frames)]
    else:
        places = [-min(place, anchor // step) for place in reversed(range(frames))]
    return tuple(anchor + step * place for place in places), len(set(places))


def is_needed(number: int, length: int, step: int, every: int, kind: Anchor) -> bool:
    """Whether a window can hold a frame."""
    reach = (length - 1) * step
    if kind == "first":  # anchors not after it, the nearest first
        distances = range(number % every, min(reach, number) + 1, every)
    else:
        distances = range(-number % every, reach + 1, every)
    return any(distance % step == 0 for distance in distances)


def cut_windows(frames: Iterable[T], length: int, step: int, every: int, kind: Anchor) -> Iterator[Cut[T]]:
    """Windows of `length` frames at anchors 0, every, 2 every, ...; each as soon as its frames have come.

    `frames` are all of a recording, those that are not needed too; at most (length - 1) step + 1 are kept.
    """
    reach = (length - 1) * step
    kept: deque[tuple[int, T]] = deque()
    anchor = count = 0

    def window(known: int) -> Cut[T]:
        numbers, valid = numbers_at(anchor, length, step, kind, known)
        by_number = dict(kept)
        return Cut(anchor, numbers, valid, [by_number[number] for number in numbers])

    for frame in frames:
        if is_needed(count, length, step, every, kind):
            kept.append((count, frame))
        count += 1
        while anchor + (reach if kind == "first" else 0) < count:
            yield window(count)
            anchor += every
            oldest = anchor if kind == "first" else anchor - reach
            while kept and kept[0][0] < oldest:
                kept.popleft()
    while anchor < count:
        yield window(count)
        anchor += every
