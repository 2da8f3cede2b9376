"""The page itself, in Gradio: what is shown where."""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from vidtwin.demo.clips import NAMES, small_picture
from vidtwin.demo.desk import SEEDS, SLOWEST, Desk, Visitor
from vidtwin.demo.parts import expected, said
from vidtwin.demo.studio import Limits
from vidtwin.demo.worker import Worker
from vidtwin.generation.config import GUIDANCE
from vidtwin.inference.edit import MOST_MOTION

WAITING = 32  # visitors in the queue; more are told to come again
STYLE = """
.gradio-container {max-width: 1100px !important; margin: auto}
.said {padding: .4em .7em; border-radius: 6px; background: var(--block-background-fill)}
.wrong {border-left: 4px solid #b3261e}
.html-container {padding: 0 !important}
.status {min-height: 2.6em}
.facts {border-collapse: collapse; border: 0 !important; width: 100%; margin: 0 !important; font-size: .9em}
.facts th, .facts td {text-align: left; padding: .3em .8em .3em 0 !important; border: 0 !important; vertical-align: top}
.facts tr {border: solid rgb(128 128 128 / .35) !important; border-width: 0 0 1px !important}
.expected {margin: 0}
.measured {display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 4fr); gap: 1em; align-items: start}
@media (max-width: 750px) {.measured {grid-template-columns: minmax(0, 1fr)}}
video {width: 100%; max-width: 640px; background: #000; border-radius: 6px}
.curve {margin: 1em 0; color: #0072b2}
.curve svg {width: 100%}
.curve figcaption {color: var(--body-text-color); font-size: .85em}
.get {display: inline-block; padding: .35em .8em; margin: .2em 0; border: 1px solid var(--border-color-primary); border-radius: 6px}
.clips {gap: 8px; flex-wrap: nowrap !important}
.clip {flex: 1 1 0 !important; min-width: 0 !important; flex-direction: column; padding: 4px !important}
.clip {font-weight: 400 !important; font-size: clamp(.75rem, 2.5vw, 1rem) !important}
.clip::before {content: ""; width: 100%; aspect-ratio: 16 / 9; border-radius: 4px; background: center / cover}
:focus-visible {outline: 3px solid #0072b2 !important; outline-offset: 2px}
"""
INTRODUCTION = """# VidTwin
A video is split into two small latents, **Structure** (what is there, and how it slowly moves) and **Dynamics** (colour, detail,
fast motion), and rebuilt from their sum. See an example below, choose a clip, or give a video of your own."""
GIVEN = """<details><summary>Limits, and what becomes of your video</summary>
Up to {limits.megabytes} MB, {limits.seconds:g} seconds, {limits.frames} frames and {limits.side} pixels a side; the middle of each
frame is taken, at {facts.width}x{facts.height}. What you give stays on the machine that serves this page, and is deleted after
{minutes:g} minutes of inactivity, or before if others need the room.</details>"""
WORDS = {"common.complete": "Done", "common.error": "Error"}  # which Gradio lacks, and would show as they are named


def style(clips: dict[str, Path]) -> str:
    """Of the page, with small pictures of the clips."""
    pictures = (
        f".clip-{number}::before {{background-image: url({small_picture(clips[name])})}}" for number, name in enumerate(NAMES)
    )
    return "\n".join([STYLE, *pictures])


def as_sent(*components: Any) -> None:
    """Give the desk values as visitors sent them, which it checks; Gradio's own check would print a traceback."""
    for component in components:
        component.preprocess = lambda value: value


def line(text: str, name: str) -> gr.HTML:
    """Where a job's progress is shown, then what came of it."""
    return gr.HTML(said(text), elem_id=name, elem_classes="status", padding=False)


def shown(name: str) -> gr.HTML:
    """Where a result is shown; nothing until then."""
    return gr.HTML(elem_id=name, padding=False)


def choice(which: str, label: str) -> tuple[list[gr.Button], gr.File]:
    """Clips to choose from, and a place for a visitor's own."""
    with gr.Row():
        with gr.Column(scale=2, min_width=320), gr.Row(elem_classes="clips"):
            buttons = [
                gr.Button(name, elem_id=f"{which}-{number}", elem_classes=["clip", f"clip-{number}"])
                for number, name in enumerate(NAMES)
            ]
        with gr.Column(scale=1, min_width=280):
            file = gr.File(label=label, type="filepath", elem_id=f"file-{which}", height=130)
    as_sent(*buttons)
    return buttons, file


def build(worker: Worker, folder: Path, served: Path, clips: dict[str, Path], limits: Limits, minutes: float) -> gr.Blocks:
    """The page; `clips` and the rest as in `Desk`."""
    desk = Desk(worker, folder, served, clips)
    with gr.Blocks(title="VidTwin", analytics_enabled=False) as page:
        visitor = gr.State(Visitor(), time_to_live=60 * minutes)
        gr.Markdown(INTRODUCTION)
        gr.HTML(expected(worker.facts), elem_id="weights", padding=False)
        buttons, first = choice("a", "Your video")
        gr.HTML(GIVEN.format(limits=limits, minutes=minutes, facts=worker.facts), elem_id="limits", padding=False)
        status = line("An example is made.", "status-a")
        results = [visitor, status, shown("panels")]
        lower = [visitor, *edits(desk, visitor), *two_videos(desk, visitor)]
        if worker.facts.classes is not None:
            generated(desk, list(worker.facts.classes))
        for listener in (
            page.load(desk.show_example, visitor, results, show_progress_on=status, concurrency_limit=None),
            first.upload(desk.show_first, [visitor, first], results, show_progress_on=status),
            *(button.click(desk.show_clip, [visitor, button], [first, *results], show_progress_on=status) for button in buttons),
        ):
            listener.then(desk.clear_lower, visitor, lower, show_progress="hidden", concurrency_limit=None)
    page.queue(max_size=WAITING, default_concurrency_limit=1)
    for listened in page.fns.values():
        if listened.concurrency_limit is not None:
            listened.concurrency_id = "worker"  # which does one job at a time
    desk.prepare()
    return page


def edits(desk: Desk, visitor: gr.State) -> list[Any]:
    """Returns what `Desk.clear_lower` sets of it."""
    with gr.Column(visible=False, elem_id="edits") as there:
        gr.Markdown("## Change how it moves\nIn the latents, as `vidtwin edit` does, within each clip of the model.")
        with gr.Row():
            motion = gr.Slider(
                0,
                MOST_MOTION,
                value=1,
                step=0.1,
                label="Motion (0 is frozen, 1 as it is)",
                elem_id="motion",
                min_width=280,
                buttons=[],
            )
            slow = gr.Slider(1, SLOWEST, value=1, step=1, label="Slow (times as long)", elem_id="slow", min_width=280, buttons=[])
        freeze = gr.Button("Freeze", elem_id="freeze", size="sm")
        status = line("Move a slider.", "status-edit")
        edited = shown("edited")
    as_sent(motion, slow)
    result: dict[str, Any] = {"inputs": [visitor, motion, slow], "outputs": [status, edited], "show_progress_on": status}
    for slider in (motion, slow):
        slider.input(desk.show_edit, **result, trigger_mode="always_last")
    freeze.click(None, None, motion, js="() => 0").then(desk.show_edit, **result)
    return [there, motion, slow, status, edited]


def two_videos(desk: Desk, visitor: gr.State) -> list[Any]:
    """Returns what `Desk.clear_lower` sets of it."""
    with gr.Column(visible=False, elem_id="two") as there:
        gr.Markdown("## Two videos\nThe Structure of one with the Dynamics of the other. A is the video above; choose B.")
        buttons, second = choice("b", "Your video B")
        status = line("Choose the second video, B.", "status-b")
        swaps = shown("swaps")
        with gr.Column(visible=False, elem_id="way") as both:
            gr.Markdown("### Between the two")
            with gr.Row():
                structure = gr.Slider(
                    0, 1, value=0, step=0.05, label="Structure: from A to B", elem_id="structure", min_width=280, buttons=[]
                )
                dynamics = gr.Slider(
                    0, 1, value=0, step=0.05, label="Dynamics: from A to B", elem_id="dynamics", min_width=280, buttons=[]
                )
            status_mix = line("Move a slider.", "status-mix")
            between = shown("between")
    as_sent(structure, dynamics)
    results = [visitor, status, swaps, both]
    second.upload(desk.show_second, [visitor, second], results, show_progress_on=status)
    for button in buttons:
        button.click(desk.show_second_clip, [visitor, button], [second, *results], show_progress_on=status)
    for slider in (structure, dynamics):
        slider.input(
            desk.show_between,
            [visitor, structure, dynamics],
            [status_mix, between],
            show_progress_on=status_mix,
            trigger_mode="always_last",
        )
    return [there, second, status, swaps, both, structure, dynamics, status_mix, between]


def generated(desk: Desk, names: list[str]) -> None:
    gr.Markdown("## Generate a video\nSampled by the generator, from noise.")
    with gr.Row():
        label = gr.Dropdown(
            names, value=names[0] if names else None, label="class", visible=bool(names), elem_id="class", filterable=False
        )
        seed = gr.Number(0, label="seed", precision=0, minimum=0, maximum=SEEDS, elem_id="seed")
        guidance = gr.Slider(1, 8, value=GUIDANCE, step=0.5, label="guidance", elem_id="guidance", buttons=[])
    as_sent(label, seed, guidance)
    make = gr.Button("Generate", elem_id="make")
    status = line("Choose a class.", "status-make")
    made = shown("made")
    make.click(desk.show_generated, [label, seed, guidance], [status, made], show_progress_on=status)
