"""The page itself, in Gradio: what is shown where, and what happens on a click."""

import html
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from matplotlib.figure import Figure

from vidtwin.demo.studio import Studio
from vidtwin.demo.visitors import Visitor
from vidtwin.files import in_line
from vidtwin.generation.config import GUIDANCE

WAITING = 32  # visitors in the queue; more are told to come again
KEPT = 3600  # seconds that a visitor's files stay after the last use
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
page, and is deleted when you have been gone for an hour."""


def said(text: str, wrong: bool = False) -> str:
    """A line that screen readers speak when it changes."""
    role, kind = ("alert", "said wrong") if wrong else ("status", "said")
    return f'<div class="{kind}" role="{role}">{html.escape(text)}</div>'


def table(facts: dict[str, str]) -> str:
    rows = "".join(f"<tr><th scope='row'>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in facts.items())
    return f"<table class='facts'>{rows}</table>"


def plot(psnr: tuple[float, ...]) -> Figure:
    """PSNR over frames."""
    figure = Figure(figsize=(6.4, 2.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(psnr, color="#0072B2")
    axes.set(xlabel="frame", ylabel="PSNR in dB")
    axes.grid(alpha=0.3)
    return figure


def player(label: str, name: str) -> gr.Video:
    """Of a result; the labels of its parts are in the picture."""
    return gr.Video(label=label, show_label=False, elem_id=name, autoplay=True, loop=True, interactive=False)


def build(studio: Studio, sample: Path) -> gr.Blocks:
    """The page of a studio; `sample` is the video that a visitor without one is offered."""

    def telling(progress: gr.Progress) -> Callable[[float, str], object]:
        return lambda share, what: progress(share, desc=what)

    def take(visitor: Visitor, which: str, file: str | None, progress: gr.Progress) -> None:
        if file is None:
            raise ValueError("there is no video yet; choose one")
        path = Path(file)
        visitor.clips.pop(which, None)
        try:
            visitor.clips[which] = studio.encode(path, path.name, telling(progress))
        except (OSError, ValueError) as error:
            raise ValueError(str(error).replace(f"{path.parent}{os.sep}", "")) from error  # the folder is ours, the name theirs

    def show_first(visitor: Visitor, file: str | None, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
        try:
            take(visitor, "a", file, progress)
            clip = visitor.clips["a"]
            video, latents = visitor.file("side_by_side.mp4"), visitor.file("latents.vidtwin")
            shown = studio.rebuild(clip, video, latents, telling(progress))
        except Exception as error:
            return [
                visitor,
                said(plain(error), wrong=True),
                None,
                None,
                "",
                gr.update(interactive=False),
                gr.update(interactive=False),
            ]
        return [
            visitor,
            said(f"{clip.name}: {shown.facts['PSNR']}"),
            str(video),
            plot(shown.psnr),
            table(shown.facts),
            gr.update(value=str(latents), interactive=True),
            gr.update(value=str(video), interactive=True),
        ]

    def show_second(visitor: Visitor, file: str | None, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
        try:
            if "a" not in visitor.clips:
                raise ValueError("there is no first video yet; give one above")
            take(visitor, "b", file, progress)
            video = visitor.file("swaps.mp4")
            studio.swap(visitor.clips["a"], visitor.clips["b"], video, telling(progress))
        except Exception as error:
            return [visitor, said(plain(error), wrong=True), None, gr.update(interactive=False)]
        return [visitor, said(f"{visitor.clips['b'].name}: both swaps"), str(video), gr.update(value=str(video), interactive=True)]

    def show_between(
        visitor: Visitor, structure: float, dynamics: float, progress: gr.Progress = gr.Progress()  # noqa: B008
    ) -> list[Any]:  # fmt: skip
        try:
            if {"a", "b"} - visitor.clips.keys():
                raise ValueError("the sliders go from one video to another; give both first")
            video = visitor.file("between.mp4")
            studio.between(visitor.clips["a"], visitor.clips["b"], structure, dynamics, video, telling(progress))
        except Exception as error:
            return [said(plain(error), wrong=True), None]
        return [said(f"Structure {structure:.2f}, Dynamics {dynamics:.2f} of the way from A to B"), str(video)]

    def show_generated(
        visitor: Visitor, label: str | None, seed: float, guidance: float, progress: gr.Progress = gr.Progress()  # noqa: B008
    ) -> list[Any]:  # fmt: skip
        try:
            video = visitor.file("generated.mp4")
            studio.generate(label, int(seed), guidance, 50, video, telling(progress))
        except Exception as error:
            return [said(plain(error), wrong=True), None]
        return [said(f"{label or 'a video'}, seed {int(seed)}"), str(video)]

    with gr.Blocks(title="VidTwin", analytics_enabled=False, delete_cache=(600, KEPT)) as page:
        visitor = gr.State(Visitor(), time_to_live=KEPT, delete_callback=Visitor.leave)
        gr.Markdown(INTRODUCTION)
        limits = studio.limits
        gr.Markdown(
            f"Up to {limits.megabytes} MB, {limits.seconds:g} seconds and {limits.side} pixels a side. The middle of each frame is "
            f"taken, at {studio.engine.config.width}x{studio.engine.config.height}."
        )
        with gr.Row():
            with gr.Column(min_width=320):
                first = gr.File(label="Video A", type="filepath", elem_id="file-a", height=120)
            with gr.Column(min_width=320):
                use_sample = gr.Button("Use the sample", elem_id="sample")
                status_a = gr.HTML(said("Give a video, or use the sample."), elem_id="status-a")
        panels = player("original, reconstruction, Structure only, Dynamics only", "panels")
        with gr.Row():
            with gr.Column(min_width=320):
                curve = gr.Plot(label="PSNR of each frame", show_label=False, elem_id="curve")
            with gr.Column(min_width=320):
                facts = gr.HTML(elem_id="facts")
        with gr.Row():
            get_latents = gr.DownloadButton("Download the latents", interactive=False, elem_id="get-latents")
            get_video = gr.DownloadButton("Download the video", interactive=False, elem_id="get-video")

        gr.Markdown("## Two videos\nThe Structure of one with the Dynamics of the other, and everything between them.")
        with gr.Row():
            with gr.Column(min_width=320):
                second = gr.File(label="Video B", type="filepath", elem_id="file-b", height=120)
            with gr.Column(min_width=320):
                status_b = gr.HTML(said("Give a second video."), elem_id="status-b")
        swaps = player("A, B, and both swaps", "swaps")
        get_swaps = gr.DownloadButton("Download the swaps", interactive=False, elem_id="get-swaps")
        with gr.Row():
            structure = gr.Slider(0, 1, value=0, step=0.05, label="Structure: from A to B", elem_id="structure", min_width=300)
            dynamics = gr.Slider(0, 1, value=0, step=0.05, label="Dynamics: from A to B", elem_id="dynamics", min_width=300)
        status_mix = gr.HTML(said("Move a slider."), elem_id="status-mix")
        between = player("between A and B", "between")

        if studio.generator is not None:
            gr.Markdown("## A video that never was\nSampled by the generator, from noise.")
            with gr.Row():
                names = list(studio.generator.classes)
                label = gr.Dropdown(names, value=names[0] if names else None, label="class", visible=bool(names), elem_id="class")
                seed = gr.Number(0, label="seed", precision=0, minimum=0, maximum=2**31, elem_id="seed")
                guidance = gr.Slider(1, 8, value=GUIDANCE, step=0.5, label="guidance", elem_id="guidance")
            make = gr.Button("Generate", elem_id="make")
            status_make = gr.HTML(said("Choose a class."), elem_id="status-make")
            made = player("generated", "made")
            make.click(show_generated, [visitor, label, seed, guidance], [status_make, made])

        results = [visitor, status_a, panels, curve, facts, get_latents, get_video]
        first.upload(show_first, [visitor, first], results)
        use_sample.click(lambda: str(sample), None, first).then(show_first, [visitor, first], results)
        second.upload(show_second, [visitor, second], [visitor, status_b, swaps, get_swaps])
        for slider in (structure, dynamics):
            slider.change(
                show_between,
                [visitor, structure, dynamics],
                [status_mix, between],
                trigger_mode="always_last",
                concurrency_id="mix",
            )
    page.queue(max_size=WAITING, default_concurrency_limit=1)
    return page


def plain(error: BaseException) -> str:
    """What went wrong, for people: one line."""
    text = in_line(" ".join(str(error).split()))
    if isinstance(error, OSError | ValueError | MemoryError | ArithmeticError) and text:
        return f"That did not work: {text}"
    return f"That did not work, by a fault of this program ({type(error).__name__}); please report it."


def serve(
    studio: Studio, sample: Path, host: str, port: int, auth: tuple[str, str] | None, ready: Callable[[str], object] | None = None
) -> None:
    """Serve the page until it is stopped; its files lie in a folder that goes away with it.

    Raises:
        OSError: the port is taken.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, its files gone
    with tempfile.TemporaryDirectory(prefix="vidtwin-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder, "served"))
        tempfile.tempdir = folder  # of visitors, and of what Gradio makes
        try:
            page = build(studio, sample)
            _, local, _ = page.launch(
                server_name=host,
                server_port=port,
                auth=auth,
                prevent_thread_lock=True,
                quiet=True,
                show_error=False,
                share=False,
                ssr_mode=False,
                footer_links=[],
                run_history=False,
                max_file_size=f"{studio.limits.megabytes}mb",
                state_session_capacity=1000,
                theme=gr.themes.Default(font=["ui-sans-serif", "system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
                css=STYLE,
            )
            if ready is not None:
                ready(local)
            page.block_thread()
        finally:
            tempfile.tempdir = None
