"""Frames -> an MP4 file that browsers play: H.264, yuv420p, BT.709 limited range, exact frame count and timing."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import pairwise
from types import TracebackType

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.filter import Graph
from av.packet import Packet
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from vidtwin.files import atomic_output

SUFFIXES = (".mp4", ".m4v", ".mov")
CLOCK = 90_000  # ticks per second for given times
BT709 = 1  # H.273 number of the matrix, the transfer and the primaries alike
MAX_SIDE = 16_384  # pixels, of H.264


class VideoWriter:
    """Writes one video; nothing is left at `path` unless the `with` block ends well.

        with VideoWriter("out.mp4", fps=Fraction(25), size=(224, 224)) as writer:
            writer.write(frames)  # uint8 (F, 224, 224, 3)

    Args:
        path: ends in .mp4, .m4v or .mov.
        fps: frames per second; with `times`, only the duration of the last frame is taken from it.
        size: (height, width) of the frames; both even.
        crf: quality of x264, 0 (lossless for yuv420p) to 51 (worst).
        times: when each frame is shown, in seconds, strictly increasing; the first becomes 0, and the rest are kept
            to 1/90000 s. As many as frames will be written.

    Raises:
        ValueError: one of the above does not hold, or no frame was written.
        OSError: the folder is missing or not writable, the disk is full or the file too large for it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: Fraction,
        size: tuple[int, int],
        crf: int = 18,
        times: Sequence[Fraction] | None = None,
    ) -> None:
        height, width = size
        if os.path.splitext(path)[1].lower() not in SUFFIXES:
            raise ValueError(f"{path}: videos are written as MP4; choose a name that ends in .mp4")
        if not 0 <= crf <= 51:
            raise ValueError(f"--crf {crf} is out of range; give 0 (best) to 51 (worst)")
        if height < 2 or width < 2 or height % 2 or width % 2 or max(height, width) > MAX_SIDE:
            raise ValueError(f"{path}: H.264 cannot hold frames of {width}x{height}; resize them to even sides, 2 to {MAX_SIDE}")
        rate = Fraction(fps).limit_denominator(100_000)  # what the file's clock can hold
        if rate <= 0:
            raise ValueError(f"{path}: a frame rate of {fps} is impossible; give frames per second above 0")
        self._path, self._size, self._crf = path, (height, width), crf
        self._frame_time = 1 / rate
        self._clock = self._frame_time if times is None else Fraction(1, CLOCK)  # seconds of one tick
        self._ticks = None if times is None else _ticks(path, times)
        self._written = 0
        self._colors = _color_graph(height, width)
        self._session = self._open()

    def __enter__(self) -> "VideoWriter":
        self._session.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool | None:
        return self._session.__exit__(kind, error, trace)

    def write(self, frames: np.ndarray) -> None:
        """Append frames: uint8 RGB, (F, H, W, 3) or one of (H, W, 3).

        Raises ValueError when they have another size or type, or are more than `times`; OSError as the class says.
        """
        pictures = frames[None] if frames.ndim == 3 else frames
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1:] != (*self._size, 3):
            height, width = self._size
            raise ValueError(f"{self._path}: frames of {frames.dtype} {frames.shape}; give uint8 (F, {height}, {width}, 3)")
        if self._ticks is not None and self._written + len(pictures) > len(self._ticks):
            raise ValueError(f"{self._path}: more frames than the {len(self._ticks)} times given; give one for each")
        with _clear_errors(self._path):
            for picture in pictures:
                self._mux(self._stream.encode(self._convert(picture)))

    @contextmanager
    def _open(self) -> Iterator[None]:
        """The life of the file: opened beside its target, written, finished and renamed; or deleted on any error."""
        with atomic_output(self._path) as partial:
            with _clear_errors(self._path):
                self._container = av.open(f"file:{partial}", "w", format="mp4", options={"movflags": "+faststart"})
            try:
                with _clear_errors(self._path):
                    self._stream = self._add_stream(self._container)
                yield
                if self._written == 0 or (self._ticks is not None and self._written < len(self._ticks)):
                    asked = "at least one" if self._ticks is None else len(self._ticks)
                    raise ValueError(f"{self._path}: {self._written} frames were written; write {asked}")
                with _clear_errors(self._path):
                    self._mux(self._stream.encode(None))
                    self._container.close()
            except BaseException:
                with suppress(FFmpegError, OSError):
                    self._container.close()
                raise

    def _add_stream(self, container: OutputContainer) -> VideoStream:
        stream = container.add_stream("libx264", rate=1 / self._frame_time, options={"crf": str(self._crf)})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = self._size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = stream.time_base = self._clock
        context.colorspace = context.color_trc = context.color_primaries = BT709
        context.color_range = ColorRange.MPEG
        if self._ticks is not None:
            context.max_b_frames = 0  # stored in the order they are shown, so that the last one's duration is kept
        return stream

    def _convert(self, picture: np.ndarray) -> VideoFrame:
        self._colors.vpush(VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"))
        frame = self._colors.vpull()
        frame.pts = self._written if self._ticks is None else self._ticks[self._written]
        frame.time_base = self._clock
        self._written += 1
        return frame

    def _mux(self, packets: list[Packet]) -> None:
        for packet in packets:
            # The muxer takes the duration of all frames but the last from the timestamp of the next.
            packet.duration = round(self._frame_time / self._clock)
            self._container.mux(packet)


def _color_graph(height: int, width: int) -> Graph:
    """RGB -> yuv420p, BT.709, limited range, and chroma sited left, as decoders expect (not swscale's centre)."""
    graph = Graph()
    conversion = "out_color_matrix=bt709:out_range=limited:out_chroma_loc=left:flags=bicubic+accurate_rnd+full_chroma_inp"
    graph.link_nodes(
        graph.add_buffer(width=width, height=height, format=VideoFormat("rgb24"), time_base=Fraction(1, CLOCK)),
        graph.add("scale", conversion),
        graph.add("format", "yuv420p"),
        graph.add("buffersink"),
    ).configure()
    return graph


def _ticks(path: str | os.PathLike[str], times: Sequence[Fraction]) -> list[int]:
    ticks = [round((Fraction(time) - Fraction(times[0])) * CLOCK) for time in times]
    for index, (before, after) in enumerate(pairwise(ticks), start=1):
        if after <= before:
            raise ValueError(f"{path}: frame {index} is not shown after frame {index - 1}; times must increase")
    return ticks


@contextmanager
def _clear_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the encoder and the file system raise into one OSError that says what to do."""
    try:
        yield
    except (FFmpegError, OSError) as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason, remedy = "the disk is full", "free some space or choose another output"
        elif error.errno == errno.EFBIG:
            reason, remedy = (
                "the file is too large for its disk or its limit",
                "choose another output or a higher --crf",
            )
        else:
            reason, remedy = f"writing failed ({error.strerror})", "check the folder or choose another output"
        raise OSError(f"{path}: {reason}; {remedy}") from error
