"""The page's server: its folder, its worker, its gate, and Gradio."""

import contextlib
import io
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from vidtwin.demo.folder import Keeper, server_folder
from vidtwin.demo.studio import Limits, Studio
from vidtwin.demo.worker import Worker
from vidtwin.files import printable

if TYPE_CHECKING:
    import gradio as gr

SESSIONS = 300  # visitors that Gradio remembers


@dataclass(frozen=True)
class Place:
    """Where a page is served, and to whom.

    Attributes:
        host, port: of the address. auth: user and password that visitors must give. names: of hosts that requests may be for; None
            for any. minutes: that a visitor's files stay after their last use.
    """

    host: str
    port: int
    auth: tuple[str, str] | None
    names: frozenset[str] | None
    minutes: float


class Printable(io.TextIOBase):
    """A stream to a terminal that shows control characters and does not obey them: Gradio prints what visitors send."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(printable(text, kept="\n\t"))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def serve(make: Callable[[], Studio], limits: Limits, place: Place, ready: Callable[[str], object] | None = None) -> None:
    """Serve the page of the studio that `make` gives, until it is stopped; its files lie in a folder that goes away with it.

    Raises:
        OSError: the port is taken. And what `make` raises.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, its files gone
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(server_folder())
        served = folder / "served"
        served.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(served)  # which Gradio wants to know when it is imported
        stack.callback(setattr, tempfile, "tempdir", tempfile.tempdir)
        tempfile.tempdir = str(folder)  # of visitors, and of what Gradio makes
        worker = Worker(make, folder)
        stack.callback(worker.close)
        import gradio as gr  # meanwhile the worker begins
        from starlette.middleware import Middleware

        from vidtwin.demo.clips import place_clips
        from vidtwin.demo.gate import Gate
        from vidtwin.demo.page import WORDS, build, style

        clips = place_clips(kept := served / "kept")
        page = build(worker, folder, served, clips, limits, place.minutes)
        forgotten = partial(forget, page)
        keeper = stack.enter_context(Keeper(folder, limits.total, 60 * place.minutes, forgotten, kept))
        stack.enter_context(contextlib.redirect_stdout(Printable(sys.stdout)))
        stack.enter_context(contextlib.redirect_stderr(Printable(sys.stderr)))
        gate = Middleware(Gate, names=place.names, served=served, most=1e6 * limits.megabytes, keeper=keeper)
        _, local, _ = page.launch(
            server_name=place.host,
            server_port=place.port,
            auth=place.auth,
            app_kwargs={"middleware": [gate]},
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            share=False,
            ssr_mode=False,
            footer_links=[],
            run_history=False,
            max_file_size=f"{limits.megabytes}mb",
            state_session_capacity=SESSIONS,
            theme=gr.themes.Default(font=["ui-sans-serif", "system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=style(clips),
            i18n=gr.I18n(en=WORDS),
        )
        if ready is not None:
            ready(local)
        page.block_thread()


def forget(page: "gr.Blocks", gone: set[str]) -> None:
    """Files that are no more are not kept in Gradio's lists of them."""
    for known in page.temp_file_sets:
        known.difference_update(gone)
