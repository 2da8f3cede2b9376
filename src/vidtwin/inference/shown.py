"""What a notebook shows of a video that was written: it plays."""

from collections.abc import Iterable
from html import escape
from itertools import islice
from pathlib import Path

import numpy as np

from vidtwin.files import in_line
from vidtwin.video.inline import MOST_FRAMES, preview
from vidtwin.video.read.reader import frame_count, iter_frames, probe


class Written(list[str]):
    """What could not be kept of a source, a note each, and `path`: the video that was written, which a notebook plays."""

    def __init__(self, notes: Iterable[str], path: str | Path):
        super().__init__(notes)
        self.path = Path(path)

    def _repr_html_(self) -> str:
        return file_preview(self.path) + html_notes(self)


def file_preview(path: Path) -> str:
    """The first frames of a video as an element that plays; a line that says why, if it cannot be read any more."""
    try:
        frames = np.stack([frame.image for frame in islice(iter_frames(path), MOST_FRAMES)])
        return preview(frames, probe(path).fps, path.name, frame_count(path))
    except (OSError, ValueError) as error:
        return f"<p>{escape(in_line(error))}</p>"


def html_notes(notes: Iterable[str]) -> str:
    """A line each."""
    return "".join(f"<p>note: {escape(in_line(note))}</p>" for note in notes)
