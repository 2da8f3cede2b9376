"""What happens on a click: a visitor's wish, a job of the worker's, and what is shown of it."""

import math
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from vidtwin.demo.clips import EXAMPLE
from vidtwin.demo.folder import new_file, touch
from vidtwin.demo.parts import downloads, measured, player, said
from vidtwin.demo.studio import Clip, Shown
from vidtwin.demo.worker import Worker
from vidtwin.files import in_line
from vidtwin.inference.edit import MOST_MOTION

NOTHING = gr.Progress()  # Gradio puts the visitor's own in its place
SEEDS = 2**31
STEPS = 50
SLOWEST = 8  # times as long
PATIENCE = 0.2  # seconds between two looks at the example that is being made


def number(value: object, name: str, least: float, most: float) -> float:
    """A number of a visitor's. Raises ValueError for what is none, or is not between the two."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or not least <= value <= most:
        raise ValueError(f"{name} is not a number from {least:g} to {most:g}; give such a one")
    return float(value)


@dataclass(eq=False)
class Visitor:
    """One visitor's videos, "a" and "b": names of files, which `folder.Keeper` deletes."""

    clips: dict[str, Clip] = field(default_factory=dict)

    def __deepcopy__(self, memo: object) -> "Visitor":
        return Visitor()  # a page's initial state is copied for every visitor: each begins with nothing


class Desk:
    """Takes the wishes of all visitors.

    Args:
        folder: of the server; its name is kept out of what is said. served: the folder in it whose files visitors can get.
        clips: that visitors may choose, by name; beside them lies the example, which is one of them as it is rebuilt.
    """

    def __init__(self, worker: Worker, folder: Path, served: Path, clips: dict[str, Path]):
        self._worker, self._served, self._clips = worker, served, clips
        self._folder = re.compile(rf"{re.escape(str(folder))}/([^\s/]+/)*")
        self._example: Future[tuple[Shown, Path]] = Future()
        self._told = (0.0, "waiting")

    def prepare(self) -> None:
        """Begin to make the example, in the background."""
        threading.Thread(target=self._make_example, name="example", daemon=True).start()

    def _make_example(self) -> None:
        path = self._clips[EXAMPLE]
        video, latents = path.with_name("side_by_side.mp4"), path.with_name("latents.vidtwin")
        try:
            shown = self._worker("rebuild", path, EXAMPLE, video, latents, progress=lambda *told: setattr(self, "_told", told))
            self._example.set_result((shown, video))
        except Exception as error:
            self._example.set_exception(error)

    def plain(self, error: BaseException) -> str:
        """What went wrong, for people: one line."""
        text = self._folder.sub("", in_line(" ".join(str(error).split())))
        if isinstance(error, OSError | ValueError | MemoryError | ArithmeticError) and text:
            return f"That did not work: {text}"
        return f"That did not work, by a fault of this program ({text or type(error).__name__}); please report it."

    def _do(self, progress: gr.Progress, method: str, *arguments: Any) -> Any:
        return self._worker(method, *arguments, progress=lambda share, what: progress(share, desc=what))

    def _result(self, name: str) -> Path:
        """A new file that its visitor can get."""
        return new_file(name, self._served)

    @staticmethod
    def _given(visitor: Visitor, which: str, file: object) -> tuple[Path, str]:
        """The file that a visitor gave, and its name for people; what they gave before in its place is forgotten."""
        if not isinstance(file, str):
            raise ValueError("there is no video yet; choose one")
        visitor.clips.pop(which, None)
        touch(Path(file))
        return Path(file), in_line(Path(file).name)

    def _chosen(self, name: object) -> tuple[Path, str]:
        """A clip by its name, and the name."""
        if not isinstance(name, str) or name not in self._clips:
            raise ValueError("there is no such clip; choose one of those shown")
        return self._clips[name], name

    @staticmethod
    def _first(visitor: Visitor) -> Clip:
        if "a" not in visitor.clips:
            raise ValueError("there is no first video yet; give one above")
        touch(visitor.clips["a"].path, visitor.clips["a"].latents)
        return visitor.clips["a"]

    @classmethod
    def _both(cls, visitor: Visitor) -> tuple[Clip, Clip]:
        if "b" not in visitor.clips:
            raise ValueError("the sliders go from one video to another; give both first")
        touch(visitor.clips["b"].path, visitor.clips["b"].latents)
        return cls._first(visitor), visitor.clips["b"]

    def show_example(self, visitor: Visitor, progress: gr.Progress = NOTHING) -> list[Any]:
        while not self._example.done():
            progress(self._told[0], desc=f"an example is made: {self._told[1]}")
            with suppress(NotYet, Exception):
                self._example.exception(PATIENCE)
        try:
            shown, video = self._example.result()
        except Exception as error:
            return [visitor, said(f"There is no example. {self.plain(error)}"), ""]
        return self._shown(visitor, shown, video, f"An example, made by these weights: {EXAMPLE}")

    def show_clip(self, visitor: Visitor, name: str, progress: gr.Progress = NOTHING) -> list[Any]:
        """As `show_first`, after the file of a visitor, which is let go."""
        return [None, *self._rebuilt(visitor, lambda: self._chosen(name), progress)]

    def show_first(self, visitor: Visitor, file: str | None, progress: gr.Progress = NOTHING) -> list[Any]:
        return self._rebuilt(visitor, lambda: self._given(visitor, "a", file), progress)

    def _rebuilt(self, visitor: Visitor, given: Callable[[], tuple[Path, str]], progress: gr.Progress) -> list[Any]:
        try:
            path, name = given()
            video, latents = self._result("side_by_side.mp4"), self._result("latents.vidtwin")
            shown: Shown = self._do(progress, "rebuild", path, name, video, latents)
        except Exception as error:
            return [visitor, said(self.plain(error), wrong=True), ""]
        return self._shown(visitor, shown, video, name)

    @staticmethod
    def _shown(visitor: Visitor, shown: Shown, video: Path, what: str) -> list[Any]:
        visitor.clips["a"] = shown.clip
        return [visitor, said(f"{what}: {shown.facts['PSNR']}"), measured(shown, video)]

    def clear_lower(self, visitor: Visitor) -> list[Any]:
        """What belongs to an earlier first video goes; the sections that need one are there if there is one.

        Returns: the visitor; what `page.edits` and `page.two_videos` return, in their order.
        """
        visitor.clips.pop("b", None)
        there = gr.update(visible="a" in visitor.clips)
        two = [there, None, said("Choose the second video, B."), "", gr.update(visible=False)]
        return [visitor, there, 1, 1, said("Move a slider."), "", *two, 0, 0, said("Move a slider."), ""]

    def show_edit(self, visitor: Visitor, motion: float, slowed: float, progress: gr.Progress = NOTHING) -> list[Any]:
        try:
            speed, times = number(motion, "Motion", 0, MOST_MOTION), int(number(slowed, "Slow", 1, SLOWEST))
            video = self._result("edited.mp4")
            self._do(progress, "edit", self._first(visitor), speed, times, video)
        except Exception as error:
            return [said(self.plain(error), wrong=True), ""]
        what = ["frozen" if speed == 0 else f"motion {speed:g}", *([f"{times} times as long"] if times > 1 else [])]
        return [said(", ".join(what)), player(video, "The original and the edited video") + downloads(video)]

    def show_second_clip(self, visitor: Visitor, name: str, progress: gr.Progress = NOTHING) -> list[Any]:
        """As `show_second`, after the file of a visitor, which is let go."""
        return [None, *self._swapped(visitor, lambda: self._chosen(name), progress)]

    def show_second(self, visitor: Visitor, file: str | None, progress: gr.Progress = NOTHING) -> list[Any]:
        return self._swapped(visitor, lambda: self._given(visitor, "b", file), progress)

    def _swapped(self, visitor: Visitor, given: Callable[[], tuple[Path, str]], progress: gr.Progress) -> list[Any]:
        try:
            a, (path, name) = self._first(visitor), given()
            visitor.clips["b"] = b = self._do(progress, "encode", path, name)
            video = self._result("swaps.mp4")
            self._do(progress, "swap", a, b, video)
        except Exception as error:
            return [visitor, said(self.plain(error), wrong=True), "", gr.update(visible=False)]
        shown = player(video, "Videos A and B, and both swaps") + downloads(video)
        return [visitor, said(f"{name}: both swaps"), shown, gr.update(visible=True)]

    def show_between(self, visitor: Visitor, structure: float, dynamics: float, progress: gr.Progress = NOTHING) -> list[Any]:
        try:
            shares = number(structure, "Structure", 0, 1), number(dynamics, "Dynamics", 0, 1)
            a, b = self._both(visitor)
            video = self._result("between.mp4")
            self._do(progress, "between", a, b, *shares, video)
        except Exception as error:
            return [said(self.plain(error), wrong=True), ""]
        text = f"Structure {structure:.2f}, Dynamics {dynamics:.2f} of the way from A to B"
        return [said(text), player(video, text) + downloads(video)]

    def show_generated(self, label: str | None, seed: float, guidance: float, progress: gr.Progress = NOTHING) -> list[Any]:
        try:
            chosen, weight = int(number(seed, "the seed", 0, SEEDS)), number(guidance, "guidance", 1, 8)
            if label not in (self._worker.facts.classes or (None,)):
                raise ValueError("there is no such class; choose one of the list")
            video = self._result("generated.mp4")
            self._do(progress, "generate", label, chosen, weight, STEPS, video)
        except Exception as error:
            return [said(self.plain(error), wrong=True), ""]
        text = f"{label or 'a video'}, seed {chosen}"
        return [said(text), player(video, text) + downloads(video)]
