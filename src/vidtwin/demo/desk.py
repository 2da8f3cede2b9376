"""What happens on a click: a visitor's wish, a job of the worker's, and what is shown of it."""

import html
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from matplotlib.figure import Figure

from vidtwin.demo.folder import new_file, touch
from vidtwin.demo.studio import Clip, Shown
from vidtwin.demo.worker import Worker
from vidtwin.files import html_table, in_line

NOTHING = gr.Progress()  # Gradio puts the visitor's own in its place
SEEDS = 2**31
STEPS = 50


def said(text: str, wrong: bool = False) -> str:
    """A line that screen readers speak when it changes."""
    role, kind = ("alert", "said wrong") if wrong else ("status", "said")
    return f'<div class="{kind}" role="{role}">{html.escape(in_line(text))}</div>'


def plot(psnr: tuple[float, ...]) -> Figure:
    """PSNR over frames."""
    figure = Figure(figsize=(6.4, 2.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(psnr, color="#0072B2")
    axes.set(xlabel="frame", ylabel="PSNR in dB")
    axes.grid(alpha=0.3)
    return figure


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
    """Takes the wishes of all visitors. `folder`: of the server; its name is kept out of what is said."""

    def __init__(self, worker: Worker, folder: Path):
        self._worker, self._folder = worker, re.compile(rf"{re.escape(str(folder))}/([^\s/]+/)*")

    def plain(self, error: BaseException) -> str:
        """What went wrong, for people: one line."""
        text = self._folder.sub("", in_line(" ".join(str(error).split())))
        if isinstance(error, OSError | ValueError | MemoryError | ArithmeticError) and text:
            return f"That did not work: {text}"
        return f"That did not work, by a fault of this program ({text or type(error).__name__}); please report it."

    def _do(self, progress: gr.Progress, method: str, *arguments: Any) -> Any:
        return self._worker(method, *arguments, progress=lambda share, what: progress(share, desc=what))

    @staticmethod
    def _given(visitor: Visitor, which: str, file: object) -> tuple[Path, str]:
        """The file that a visitor gave, and its name for people; what they gave before in its place is forgotten."""
        if not isinstance(file, str):
            raise ValueError("there is no video yet; choose one")
        visitor.clips.pop(which, None)
        touch(Path(file))
        return Path(file), in_line(Path(file).name)

    @staticmethod
    def _both(visitor: Visitor) -> tuple[Clip, Clip]:
        a, b = visitor.clips["a"], visitor.clips["b"]
        touch(a.path, a.latents, b.path, b.latents)
        return a, b

    def show_first(self, visitor: Visitor, file: str | None, progress: gr.Progress = NOTHING) -> list[Any]:
        try:
            path, name = self._given(visitor, "a", file)
            video, latents = new_file("side_by_side.mp4"), new_file("latents.vidtwin")
            shown: Shown = self._do(progress, "rebuild", path, name, video, latents)
            visitor.clips["a"] = shown.clip
        except Exception as error:
            no = gr.update(interactive=False)
            return [visitor, said(self.plain(error), wrong=True), None, None, "", no, no]
        return [
            visitor,
            said(f"{name}: {shown.facts['PSNR']}"),
            str(video),
            plot(shown.psnr),
            html_table(shown.facts, "facts"),
            gr.update(value=str(latents), interactive=True),
            gr.update(value=str(video), interactive=True),
        ]

    def show_second(self, visitor: Visitor, file: str | None, progress: gr.Progress = NOTHING) -> list[Any]:
        try:
            if "a" not in visitor.clips:
                raise ValueError("there is no first video yet; give one above")
            path, name = self._given(visitor, "b", file)
            visitor.clips["b"] = self._do(progress, "encode", path, name)
            a, b = self._both(visitor)
            video = new_file("swaps.mp4")
            self._do(progress, "swap", a, b, video)
        except Exception as error:
            return [visitor, said(self.plain(error), wrong=True), None, gr.update(interactive=False)]
        return [visitor, said(f"{name}: both swaps"), str(video), gr.update(value=str(video), interactive=True)]

    def show_between(self, visitor: Visitor, structure: float, dynamics: float, progress: gr.Progress = NOTHING) -> list[Any]:
        try:
            if {"a", "b"} - visitor.clips.keys():
                raise ValueError("the sliders go from one video to another; give both first")
            shares = number(structure, "Structure", 0, 1), number(dynamics, "Dynamics", 0, 1)
            a, b = self._both(visitor)
            video = new_file("between.mp4")
            self._do(progress, "between", a, b, *shares, video)
        except Exception as error:
            return [said(self.plain(error), wrong=True), None]
        return [said(f"Structure {structure:.2f}, Dynamics {dynamics:.2f} of the way from A to B"), str(video)]

    def show_generated(self, label: str | None, seed: float, guidance: float, progress: gr.Progress = NOTHING) -> list[Any]:
        try:
            chosen, weight = int(number(seed, "the seed", 0, SEEDS)), number(guidance, "guidance", 1, 8)
            if label not in (self._worker.facts.classes or (None,)):
                raise ValueError("there is no such class; choose one of the list")
            video = new_file("generated.mp4")
            self._do(progress, "generate", label, chosen, weight, STEPS, video)
        except Exception as error:
            return [said(self.plain(error), wrong=True), None]
        return [said(f"{label or 'a video'}, seed {chosen}"), str(video)]
