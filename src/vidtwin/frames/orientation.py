"""How a stored picture is turned and mirrored for display, and back: one of the eight symmetries of a rectangle."""

import threading
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # orientations are a part of latents too, which are read without a video library
    from av.filter import Graph
    from av.video.frame import VideoFrame

# degrees counterclockwise -> fields of Orientation
TURNED = {90: (True, True, False), 180: (False, True, True), 270: (True, False, True)}

# FFmpeg's numbers of side data that PyAV must not see: it ends the process over the name of an ICC profile (15), and raises
# ValueError for kinds it does not know (28 to 31; 31 is EXIF).
HIDDEN = (15, 28, 29, 30, 31)


@dataclass(frozen=True)
class Orientation:
    """The upright picture is the stored one, transposed if `transposed`, then with rows and columns in reverse as said."""

    transposed: bool = False
    reverse_rows: bool = False
    reverse_columns: bool = False

    @classmethod
    def of(cls, frame: "VideoFrame") -> "Orientation":
        """What the display matrix of a decoded frame asks for; nothing if it has none."""
        from av.sidedata.sidedata import SideDataContainer

        container: Any = SideDataContainer  # frame.side_data would refer back to the frame, and keep it in memory for long
        try:
            data = container(_OWN.copy(frame)).get("DISPLAYMATRIX")
        except ValueError:  # a kind of side data newer than those hidden; this angle lacks mirroring
            return cls(*TURNED.get(frame.rotation % 360, ()))
        if data is None:
            return cls()
        # The pixel at (x, y) is displayed at (a x + c y, b x + d y).
        a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(True, b < 0, c < 0)
        return cls(False, d < 0, a < 0)

    @property
    def display_matrix(self) -> list[int] | None:
        """The nine numbers (16.16, the last 2.30) that a file stores for it; None for a picture that is stored upright."""
        if self == Orientation():
            return None
        columns, rows = (-1 if self.reverse_columns else 1) << 16, (-1 if self.reverse_rows else 1) << 16
        a, b, c, d = (0, rows, columns, 0) if self.transposed else (columns, 0, 0, rows)
        return [a, b, 0, c, d, 0, 0, 0, 1 << 30]

    def upright(self, stored: np.ndarray) -> np.ndarray:
        """(H, W, 3) as stored -> as displayed; contiguous."""
        return np.ascontiguousarray(self.turned(stored))

    def turned(self, stored: np.ndarray) -> np.ndarray:
        """(H, W, ...) as stored -> as displayed; a view."""
        picture = stored.swapaxes(0, 1) if self.transposed else stored
        return picture[:: -1 if self.reverse_rows else 1, :: -1 if self.reverse_columns else 1]

    def stored(self, upright: np.ndarray) -> np.ndarray:
        """(H, W, 3) as displayed -> as stored: the inverse of `upright`; contiguous."""
        picture = upright[:: -1 if self.reverse_rows else 1, :: -1 if self.reverse_columns else 1]
        return np.ascontiguousarray(picture.transpose(1, 0, 2) if self.transposed else picture)

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) stored -> upright, or upright -> stored."""
        return size[::-1] if self.transposed else size


UPRIGHT = Orientation()


class _Own(threading.local):
    """What each thread has for itself: a filter graph for frames of one kind, since making one takes longer than using it."""

    kind: tuple[int, int, str] | None = None
    graph: "Graph"

    def copy(self, frame: "VideoFrame") -> "VideoFrame":
        """The frame, its pixels not copied, without the side data HIDDEN."""
        kind = frame.width, frame.height, frame.format.name
        graph = self.graph if kind == self.kind else _graph(frame)
        if hasattr(graph, "threads"):
            self.graph, self.kind = graph, kind
        graph.vpush(frame)
        return graph.vpull()


def _graph(frame: "VideoFrame") -> "Graph":
    """Of one thread, where PyAV can say so (18): one of several, freed after a fork, would wait for ever for its lost threads."""
    from av.filter import Graph

    graph = Graph()
    if hasattr(graph, "threads"):
        graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1))
    deleting = [graph.add("sidedata", f"mode=delete:type={number}") for number in HIDDEN]
    graph.link_nodes(source, *deleting, graph.add("buffersink")).configure()
    return graph


_OWN = _Own()
