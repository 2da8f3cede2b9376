"""The page itself, in Gradio: what is shown where."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from vidtwin.demo.desk import SEEDS, Desk, Visitor, said
from vidtwin.demo.studio import Limits
from vidtwin.demo.worker import Worker
from vidtwin.generation.config import GUIDANCE

WAITING = 32  # visitors in the queue; more are told to come again
STYLE = """
.gradio-container {max-width: 1100px !important; margin: auto}
#status-a, #status-b, #status-mix, #status-make {min-height: 1.6em}
.said {padding: .4em .7em; border-radius: 6px; background: var(--block-background-fill)}
.wrong {border-left: 4px solid #b3261e}
.facts {border-collapse: collapse; width: 100%}
.facts th {text-align: left; padding-right: 1em; font-weight: 600; vertical-align: top}
video {max-width: 100%; max-height: 75vh}
"""
INTRODUCTION = """# VidTwin
A video is split into two small latents, **Structure** (what is there, and how it slowly moves) and **Dynamics** (colour, detail,
fast motion), and rebuilt from their sum. Give a video, or take the sample. What you give stays on the machine that serves this
page, and is deleted when you have been gone for {minutes:g} minutes, or before if others need the room.

Up to {limits.megabytes} MB, {limits.seconds:g} seconds, {limits.frames} frames and {limits.side} pixels a side. The middle of each
frame is taken, at {facts.width}x{facts.height}."""


def player(label: str, name: str) -> gr.Video:
    """Of a result; the labels of its parts are in the picture."""
    return gr.Video(label=label, show_label=False, elem_id=name, autoplay=True, loop=True, interactive=False)


def as_sent(*components: Any) -> None:
    """Give the desk values as visitors sent them, which it checks; Gradio's own check would print a traceback."""
    for component in components:
        component.preprocess = lambda value: value


@contextlib.contextmanager
def beside() -> Iterator[None]:
    """A column of two, which come one below the other on a narrow screen."""
    with gr.Column(min_width=320):
        yield


def build(worker: Worker, folder: Path, sample: Path, limits: Limits, minutes: float) -> gr.Blocks:
    """The page; `sample` is the video that a visitor without one is offered."""
    desk = Desk(worker, folder)
    with gr.Blocks(title="VidTwin", analytics_enabled=False) as page:
        visitor = gr.State(Visitor(), time_to_live=60 * minutes)
        gr.Markdown(INTRODUCTION.format(limits=limits, minutes=minutes, facts=worker.facts))
        one_video(desk, visitor, sample)
        two_videos(desk, visitor)
        if worker.facts.classes is not None:
            generated(desk, list(worker.facts.classes))
    page.queue(max_size=WAITING, default_concurrency_limit=1)
    for listener in page.fns.values():
        listener.concurrency_id = "worker"  # which does one job at a time
    return page


def one_video(desk: Desk, visitor: gr.State, sample: Path) -> None:
    with gr.Row():
        with beside():
            first = gr.File(label="Video A", type="filepath", elem_id="file-a", height=120)
        with beside():
            use_sample = gr.Button("Use the sample", elem_id="sample")
            status = gr.HTML(said("Give a video, or use the sample."), elem_id="status-a")
    panels = player("original, reconstruction, Structure only, Dynamics only", "panels")
    with gr.Row():
        with beside():
            curve = gr.Plot(label="PSNR of each frame", show_label=False, elem_id="curve")
        with beside():
            facts = gr.HTML(elem_id="facts")
    with gr.Row():
        get_latents = gr.DownloadButton("Download the latents", interactive=False, elem_id="get-latents")
        get_video = gr.DownloadButton("Download the video", interactive=False, elem_id="get-video")
    results = [visitor, status, panels, curve, facts, get_latents, get_video]
    first.upload(desk.show_first, [visitor, first], results)
    use_sample.click(lambda: str(sample), None, first).then(desk.show_first, [visitor, first], results)


def two_videos(desk: Desk, visitor: gr.State) -> None:
    gr.Markdown("## Two videos\nThe Structure of one with the Dynamics of the other, and everything between them.")
    with gr.Row():
        with beside():
            second = gr.File(label="Video B", type="filepath", elem_id="file-b", height=120)
        with beside():
            status = gr.HTML(said("Give a second video."), elem_id="status-b")
    swaps = player("A, B, and both swaps", "swaps")
    get_swaps = gr.DownloadButton("Download the swaps", interactive=False, elem_id="get-swaps")
    with gr.Row():
        structure = gr.Slider(0, 1, value=0, step=0.05, label="Structure: from A to B", elem_id="structure", min_width=300)
        dynamics = gr.Slider(0, 1, value=0, step=0.05, label="Dynamics: from A to B", elem_id="dynamics", min_width=300)
    status_mix = gr.HTML(said("Move a slider."), elem_id="status-mix")
    between = player("between A and B", "between")
    as_sent(structure, dynamics)
    second.upload(desk.show_second, [visitor, second], [visitor, status, swaps, get_swaps])
    for slider in (structure, dynamics):
        slider.change(desk.show_between, [visitor, structure, dynamics], [status_mix, between], trigger_mode="always_last")


def generated(desk: Desk, names: list[str]) -> None:
    gr.Markdown("## Generate a video\nSampled by the generator, from noise.")
    with gr.Row():
        label = gr.Dropdown(names, value=names[0] if names else None, label="class", visible=bool(names), elem_id="class")
        seed = gr.Number(0, label="seed", precision=0, minimum=0, maximum=SEEDS, elem_id="seed")
        guidance = gr.Slider(1, 8, value=GUIDANCE, step=0.5, label="guidance", elem_id="guidance")
    as_sent(label, seed, guidance)
    make = gr.Button("Generate", elem_id="make")
    status = gr.HTML(said("Choose a class."), elem_id="status-make")
    made = player("generated", "made")
    make.click(desk.show_generated, [label, seed, guidance], [status, made])
