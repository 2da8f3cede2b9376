"""What PyAV 15 to 17.0 lack of PyAV 18, found by what an object has, and here alone (docs/video.md says what is less exact then);
and how encoders are opened."""

import os
import threading
from contextlib import suppress
from typing import Any

from av.codec.context import CodecContext
from av.container import InputContainer, OutputContainer
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream

TURNS = hasattr(VideoStream, "set_display_matrix")  # whether a stream can be written that is turned for display
CHAPTERS = hasattr(OutputContainer, "set_chapters")  # and attachments: whether they can be copied
_TAGGED = hasattr(VideoFrame, "color_trc")
_THREADED = "threads" in (VideoReformatter.reformat.__doc__ or "").split("\n")[0]  # compiled: no signature to inspect
_UNTAGGED = 2  # H.273
_ALL = 48  # FFmpeg's AVDISCARD_ALL


def open_encoder(context: CodecContext) -> None:
    """Open it, without a change of how threads are scheduled.

    SVT-AV1, opened by root (in a container, say), makes its threads and the calling one real-time threads of the highest priority,
    for good: everything else on the machine waits for them, and every process that is started later inherits it.
    """
    before = _scheduling()
    context.open()
    usual = before.get(threading.get_native_id())
    for thread, scheduling in _scheduling().items():
        if usual and scheduling != (wanted := before.get(thread, usual)):
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setscheduler(thread, *wanted)


def _scheduling() -> dict[int, tuple[int, "os.sched_param"]]:
    """Policy and priority of each thread of the process; empty where the system has no such thing."""
    found: dict[int, tuple[int, os.sched_param]] = {}
    if hasattr(os, "sched_getscheduler") and os.path.isdir("/proc/self/task"):
        for thread in map(int, os.listdir("/proc/self/task")):
            with suppress(ProcessLookupError):
                found[thread] = os.sched_getscheduler(thread), os.sched_getparam(thread)
    return found


def color_tags(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """H.273 numbers of transfer and primaries: the frame's, or those that its stream has where frames cannot be asked."""
    tagged: Any = frame if _TAGGED else stream.codec_context
    return int(tagged.color_trc), int(tagged.color_primaries)


def forget_color_tags(frame: VideoFrame) -> None:
    """So that swscale does not refuse reserved values: PyAV 17 shows them to it, PyAV 18 and those before 17 do not."""
    if _TAGGED:
        frame.color_trc = frame.color_primaries = _UNTAGGED


def reformat(reformatter: VideoReformatter, frame: VideoFrame, threads: int, **options: Any) -> VideoFrame:
    """In `threads` threads (0: as many as there are cores); in one where that cannot be said, to RGB or from it.

    Before PyAV 17 two ranges that are the same are taken for limited ones; that of RGB does not count.
    """
    if _THREADED:
        return reformatter.reformat(frame, **options, threads=threads)
    if options.get("src_color_range") == options.get("dst_color_range") == ColorRange.JPEG:
        options["src_color_range" if frame.format.is_rgb else "dst_color_range"] = ColorRange.MPEG
    return reformatter.reformat(frame, **options)


def shown_entries(stream: VideoStream) -> int | None:
    """Entries of a stream's index that no edit list cuts away; None where the index cannot be asked."""
    entries = getattr(stream, "index_entries", None)
    return None if entries is None else sum(not entry.is_discard for entry in entries)


def read_only(container: InputContainer, wanted: list[Any]) -> None:
    """Let the demuxer step over the packets of other streams; elsewhere they are read and left."""
    stream: Any
    for stream in container.streams:
        if hasattr(stream, "discard"):
            stream.discard = 0 if stream in wanted else _ALL


def is_chapter_titles(stream: Stream, container: InputContainer) -> bool:
    """Whether a data stream is no more than the titles of chapters, as MP4 stores them."""
    if stream.type != "data":
        return False
    if hasattr(stream, "discard"):
        return bool(stream.discard == _ALL)
    return container.format.name.startswith("mov") and stream.name == "bin_data"


def chapters_of(container: InputContainer) -> list[Any]:
    """None where they cannot be read."""
    return container.chapters() if CHAPTERS else []
