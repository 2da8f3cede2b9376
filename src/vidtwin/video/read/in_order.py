"""A video file read from one frame to the next: what it says of itself, and its frames."""

from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from heapq import heappop, heappush
from pathlib import Path

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidtwin.frames.orientation import Orientation
from vidtwin.video.read.decode import (
    TableColumn,
    Tally,
    TarMember,
    VideoFile,
    decode_packet,
    demux_packets,
    open_video,
)
from vidtwin.video.read.info import PendingFrame, VideoInfo
from vidtwin.video.read.pictures import Pictures, color_matrix, color_range, stored_pixel_aspect, what_is_lost
from vidtwin.video.read.random_access import frame_rate, frames_after
from vidtwin.video.read.structure import complaint, stated_frames


def probe(path: VideoFile) -> VideoInfo:
    """`read.probe` of a video file."""
    with open_video(path) as (container, stream):
        tally = Tally()
        packets = demux_packets(container, stream, tally)
        frame = next((frame for packet in packets for frame in decode_packet(packet, tally)), None)
        if frame is None:
            tally.finish(path, None)
        assert frame is not None and stream.time_base is not None
        orientation, pixel_aspect = Orientation.of(frame), stored_pixel_aspect(stream)
        height, width = Pictures(path, stream).fit(frame)
        duration: float | None = None
        if stream.duration is not None:
            duration = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration = container.duration / 1_000_000
        return VideoInfo(
            path=path if isinstance(path, TarMember | TableColumn) else Path(path),
            width=width,
            height=height,
            frames=stated_frames(path, stream),
            fps=frame_rate(path, stream),
            duration=duration,
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=frame.format.name,
            rotation=frame.rotation,
            color_space=color_matrix(frame, stream)[0],
            color_range=color_range(frame).name.replace("JPEG", "full").replace("MPEG", "limited"),
            has_audio=bool(container.streams.audio),
            time_base=stream.time_base,
            stored_size=orientation.size((frame.height, frame.width)),
            pixel_aspect=1 / pixel_aspect if orientation.transposed else pixel_aspect,
            orientation=orientation,
            start_time=Fraction(container.start_time or 0, 1_000_000),
            notes=what_is_lost(stream, frame),
        )


def iter_pending(path: VideoFile, start: int, stop: int | None, square: bool, last_pts: int | None) -> Iterator[PendingFrame]:
    """`read.iter_pending` of a video file, whose range is checked."""
    if last_pts is not None and start > 0:
        with open_video(path) as (container, stream):
            tally = Tally()
            resumed = frames_after(path, container, stream, start - 1, last_pts, tally)
            if resumed is not None:
                frames, size, stored_size = resumed
                pictures = Pictures(path, stream, square, size if square else stored_size)
                yield from _shown(path, stream, frames, tally, pictures, start, stop, start, last_pts)
                return
    with open_video(path) as (container, stream):
        tally = Tally()
        frames = _decoded(container, stream, tally)
        yield from _shown(path, stream, frames, tally, Pictures(path, stream, square), start, stop)


def _decoded(container: InputContainer, stream: VideoStream, tally: Tally) -> Iterator[VideoFrame]:
    """The frames of a file.

    AVI does not say when frames are shown, and FFmpeg guesses from the order in which they are stored. Where that is another one,
    each frame gets the earliest time of a packet that none before it had.
    """
    times: list[int] | None = [] if container.format.name == "avi" and stream.codec_context.has_b_frames else None
    for packet in demux_packets(container, stream, tally):
        left_out = tally.refused + tally.repeats
        frames = decode_packet(packet, tally)
        if times is not None:
            if packet.pts is not None and tally.refused + tally.repeats == left_out:
                heappush(times, packet.pts)
            for frame in frames:
                frame.pts = heappop(times) if times else None
        yield from frames


def _shown(
    path: VideoFile,
    stream: VideoStream,
    frames: Iterator[VideoFrame],
    tally: Tally,
    pictures: Pictures,
    start: int,
    stop: int | None,
    number: int = 0,
    last: int | None = None,
) -> Iterator[PendingFrame]:
    """Frames start..stop-1; `frames` begins with frame `number`, and `last` is the timestamp of the one before."""
    assert stream.time_base is not None
    step = max(1, round(1 / (frame_rate(path, stream) * stream.time_base)))
    for frame in frames:
        pts = frame.pts
        if last is None:
            pts = 0 if pts is None else pts
        elif pts is None or pts <= last:
            pts = last + step
        last = pts
        pictures.fit(frame)  # the first one sets the size
        if number >= start:
            yield PendingFrame(partial(pictures, frame), pts, stream.time_base, frame.duration if frame.duration > 0 else step)
        number += 1
        if number == stop:
            tally.frames = number
            tally.finish(path, None)  # what is missing before it
            return
    tally.frames = number  # when decoding began in the middle, it counted others
    tally.finish(path, stated_frames(path, stream), complaint(path, stream.container.format.name))
    if number <= start:
        raise ValueError(f"{path}: has {number} frames; frame {start} is beyond its end, choose a lower start")
