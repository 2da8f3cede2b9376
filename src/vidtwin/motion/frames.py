"""Which frames of a video make a clip, and which frames make each window of an episode: integers only."""

from dataclasses import dataclass
from typing import Literal

import torch

FRAME_RULES = ("floor", "round", "stride")
ALIGNMENTS = ("past", "center", "future", "next")
PADDINGS = ("edge", "drop")


def frame_indices(length: int, frames: int, rule: str, stride: int | None = None) -> list[int]:
    """Which `frames` of `length` source frames a clip shows, the first always, repeats where the source is shorter.

    "floor": linspace(0, length - 1, frames), each value cut to its whole part; "round": to the nearest, halves to even. Both are
    torch's float32 linspace on the CPU, whose values existing users have; for clips of 16 frames it agrees with whole-number
    arithmetic, for 100 it is one frame off in places. "stride": frames 0, n, 2 n, ... with n = `stride`, or the largest that fits,
    and the last frame repeated where the source ends: frame_indices(20, 4, "stride") -> [0, 6, 12, 18].
    """
    if rule == "stride":
        n = stride or max(1, (length - 1) // max(1, frames - 1))
        return [min(index * n, length - 1) for index in range(frames)]
    places = torch.linspace(0, length - 1, frames, dtype=torch.float32, device="cpu")
    return (places.round() if rule == "round" else places).long().tolist()


@dataclass(frozen=True)
class Windows:
    """Sliding windows over an episode: one for each step t = 0, stride, 2 stride, ...

    Attributes:
        window: source frames in a window.
        stride: source frames between steps.
        padding: what happens where a window reaches over an end: "edge" repeats the first or last frame, so that every step has a
            window; "drop" leaves the step out.
        align: where step t stands in its window: "past" at its end (t - window + 1 .. t: nothing that a policy has not seen yet),
            "future" at its start (t .. t + window - 1), "next" before it (t + 1 .. t + window), "center" at place window // 2.

    Raises:
        ValueError: names the option, the value and the choices.
    """

    window: int
    stride: int = 1
    padding: Literal["edge", "drop"] = "edge"
    align: Literal["past", "center", "future", "next"] = "past"

    def __post_init__(self) -> None:
        check_count("window", self.window)
        check_count("stride", self.stride)
        check_choice("padding", self.padding, PADDINGS)
        check_choice("align", self.align, ALIGNMENTS)

    def over(self, length: int) -> dict[int, list[int]]:
        """Step t -> the source frames of its window, for an episode of `length` frames.

        Windows(3, stride=2).over(5) -> {0: [0, 0, 0], 2: [0, 1, 2], 4: [2, 3, 4]}; with padding="drop" step 0 is left out; with
        align="future" it is {0: [0, 1, 2], 2: [2, 3, 4], 4: [4, 4, 4]}, with "center" {0: [0, 0, 1], 2: [1, 2, 3], 4: [3, 4, 4]}.
        """
        before = {"past": self.window - 1, "center": self.window // 2, "future": 0, "next": -1}[self.align]
        windows = {}
        for step in range(0, length, self.stride):
            first, last = step - before, step - before + self.window - 1
            if self.padding == "edge" or (first >= 0 and last < length):
                windows[step] = [min(max(place, 0), length - 1) for place in range(first, last + 1)]
        return windows


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """ValueError unless `value` is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(choices)}")


def check_count(name: str, value: object) -> None:
    """ValueError unless `value` is a whole number above 0."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{name}={value!r}: must be a whole number of at least 1")
