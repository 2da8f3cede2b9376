"""Video files -> frames as displayed, with exact timestamps, in order or at random.

What a frame is: RGB, rotated and mirrored as the file asks, its pixels made square by scaling the width. The colour
matrix and range are those that the file is tagged with; an untagged file is taken for BT.709 when it has 720 lines or
more, for BT.601 below, and for limited range. High-dynamic-range video (PQ, HLG) is read as it is stored, without tone
mapping; interlaced video is not deinterlaced; transparency is ignored.
"""

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame

from vidtwin.video.decode import (
    Pictures,
    Tally,
    TarMember,
    VideoFile,
    check_file,
    color_matrix,
    color_range,
    decode_packet,
    demux_packets,
    file_holding,
    frame_rate,
    is_shown,
    open_video,
    stated_frames,
)


@dataclass(frozen=True)
class VideoInfo:
    """What a file says about its video.

    Attributes:
        width, height: in square pixels, as displayed: pixel aspect and rotation applied.
        frames: as the container states it, or None. `frame_count` counts.
        fps: average frame rate. duration: seconds, or None.
        rotation: degrees, counterclockwise, that the stored picture is turned by for display.
        color_space: "bt709", "bt601", "bt2020", "fcc", "smpte240m" or "rgb"; color_range: "full" or "limited". Both as
            used, so guessed when the file does not say.
    """

    path: Path | TarMember
    width: int
    height: int
    frames: int | None
    fps: Fraction
    duration: float | None
    codec: str
    pixel_format: str
    rotation: int
    color_space: str
    color_range: str
    has_audio: bool


@dataclass(frozen=True)
class Frame:
    """One picture, uint8 (H, W, 3) RGB, and when it is shown."""

    image: np.ndarray
    pts: int
    time_base: Fraction

    @property
    def time(self) -> Fraction:
        """Seconds on the file's own clock, which need not start at 0."""
        return self.pts * self.time_base


@dataclass(frozen=True)
class Video:
    """Frames uint8 (F, H, W, 3) RGB, their times in seconds (strictly increasing), frames per second, and the file."""

    frames: np.ndarray
    times: list[Fraction]
    fps: Fraction
    info: VideoInfo


def probe(path: VideoFile) -> VideoInfo:
    """What the file says about its video; decodes one frame.

    Raises OSError or ValueError, in one line, as `iter_frames` does.
    """
    with open_video(path) as (container, stream):
        tally = Tally()
        packets = demux_packets(container, stream, tally)
        frame = next((frame for packet in packets for frame in decode_packet(packet, tally)), None)
        if frame is None:
            tally.finish(path, None)
        assert frame is not None
        height, width = Pictures(path, stream)(frame).shape[:2]
        duration: float | None = None
        if stream.duration is not None and stream.time_base is not None:
            duration = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration = container.duration / 1_000_000
        return VideoInfo(
            path=path if isinstance(path, TarMember) else Path(path),
            width=width,
            height=height,
            frames=stated_frames(stream),
            fps=frame_rate(stream),
            duration=duration,
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=frame.format.name,
            rotation=frame.rotation,
            color_space=color_matrix(frame)[0],
            color_range=color_range(frame).name.replace("JPEG", "full").replace("MPEG", "limited"),
            has_audio=bool(container.streams.audio),
        )


def iter_frames(path: VideoFile, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
    """Frames start..stop-1 (all to the end by default) in the order they are shown, one in memory at a time.

    A frame without a timestamp, or with one that does not come after the previous frame's, gets the previous one plus
    1 / fps. A video that changes its size is scaled to the size of its first frame. Damaged packets are skipped; when
    the end is reached and frames were missing or damaged, one `VideoWarning` says how many.

    Raises (when the first frame is asked for, except for what can be seen from the path and the numbers):
        OSError: the file is missing, a folder or not readable.
        ValueError: it is no video, has no video stream, is cut off, nothing in it can be decoded, or it ends before
            frame `start`.
    """
    check_file(path)
    if start < 0 or (stop is not None and stop <= start):
        raise ValueError(f"{path}: frames {start} to {stop} are not a range; give 0 <= start < stop")
    return _iter_frames(path, start, stop)


def _iter_frames(path: VideoFile, start: int, stop: int | None) -> Iterator[Frame]:
    with open_video(path) as (container, stream):
        tally, pictures = Tally(), Pictures(path, stream)
        assert stream.time_base is not None
        step = max(1, round(1 / (frame_rate(stream) * stream.time_base)))
        last: int | None = None
        number = 0
        for packet in demux_packets(container, stream, tally):
            for frame in decode_packet(packet, tally):
                pts = frame.pts
                if last is None:
                    pts = 0 if pts is None else pts
                elif pts is None or pts <= last:
                    pts = last + step
                last = pts
                if number == 0 or number >= start:  # the first one sets the size
                    image = pictures(frame)
                if number >= start:
                    yield Frame(image, pts, stream.time_base)
                number += 1
                if number == stop:
                    return
        tally.finish(path, stated_frames(stream))
        if number <= start:
            raise ValueError(f"{path}: has {number} frames; frame {start} is beyond its end, choose a lower start")


def read_video(path: VideoFile, start: int = 0, stop: int | None = None) -> Video:
    """Frames start..stop-1 (all by default) at once, as `iter_frames` gives and refuses them."""
    info = probe(path)
    frames = list(iter_frames(path, start, stop))
    return Video(np.stack([frame.image for frame in frames]), [frame.time for frame in frames], info.fps, info)


def frame_count(path: VideoFile) -> int:
    """Frames that `iter_frames` gives for an undamaged file, counted without decoding where timestamps allow it.

    Raises OSError or ValueError, in one line, as `iter_frames` does.
    """
    return _index_of(path).count


def read_clip(path: VideoFile, start: int, count: int, stride: int = 1) -> np.ndarray:
    """Frames start, start + stride, ... (`count` of them), uint8 (count, H, W, 3): the same as slicing `read_video`.

    Seeks to the last key frame before and decodes from there. In a damaged file frames are numbered as they are stored,
    those that cannot be decoded included.

    Raises:
        OSError: as `iter_frames`.
        ValueError: as `iter_frames`; also when the range leaves the video, or a frame in it cannot be decoded or is damaged.
    """
    index = _index_of(path)
    if start < 0 or count < 1 or stride < 1 or start + (count - 1) * stride >= index.count:
        asked = f"{count} frames from {start} at stride {stride}"
        raise ValueError(f"{path}: has {index.count} frames; {asked} do not lie in it, choose a smaller range")
    numbers = range(start, start + count * stride, stride)
    if index.pts is None:
        return np.stack([frame.image for frame in iter_frames(path, start, numbers[-1] + 1)][::stride])
    wanted = [index.pts[number] for number in numbers]
    earlier_keys = index.keys[: bisect_right(index.keys, wanted[0])]
    key = earlier_keys[-1] if earlier_keys else None
    for begin in (key, None):  # from the key frame; if the container could not seek there, from the start of the file
        found = _decode_wanted(path, set(wanted), begin, index.size)
        if len(found) == count:
            return np.stack([found[pts] for pts in wanted])
    missing = next(number for number, pts in zip(numbers, wanted, strict=True) if pts not in found)
    raise ValueError(f"{path}: frame {missing} cannot be decoded; the file is damaged, get it again or leave it out")


def _decode_wanted(path: VideoFile, wanted: set[int], key: int | None, size: tuple[int, int]) -> dict[int, np.ndarray]:
    """Pictures by timestamp; with `key`, decoding begins at the key frame of that timestamp."""
    found: dict[int, np.ndarray] = {}
    last = max(wanted)
    with open_video(path) as (container, stream):
        pictures = Pictures(path, stream, size)
        tally = Tally()
        if key is not None:
            if stream.codec_context.name == "h264":
                # Only the first packet says which x264 made the file, and some old ones need to be decoded differently.
                for packet in islice(demux_packets(container, stream, tally), 1):
                    decode_packet(packet, tally)
            try:
                container.seek(key, stream=stream, backward=True)
            except FFmpegError:  # this kind of file cannot seek
                return found
        begun = key is None
        for packet in demux_packets(container, stream, tally):
            begun = begun or packet.pts == key
            for frame in decode_packet(packet, tally):
                if begun and frame.pts in wanted and not frame.is_corrupt:  # what conceals damage differs from run to run
                    found[frame.pts] = pictures(frame)
                if frame.pts is not None and frame.pts >= last:
                    return found
    return found


@dataclass(frozen=True)
class _Index:
    """Timestamps of all frames and of the key frames, ascending; None where they are missing or not unique."""

    count: int
    pts: "array[int] | None"  # 8 bytes a frame: files of many hours stay in the cache
    keys: tuple[int, ...]
    size: tuple[int, int]


def _index_of(path: VideoFile) -> _Index:
    check_file(path)
    stat = file_holding(path).stat()
    return _build_index(path if isinstance(path, TarMember) else os.path.abspath(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _build_index(path: str | TarMember, size: int, mtime_ns: int) -> _Index:
    """Read all packets, decode only up to the first frame: what comes before it (a cut-off start) is never shown."""
    stamps: list[int | None] = []
    keys: list[int] = []
    first: VideoFrame | None = None
    with open_video(path) as (container, stream):
        tally, pictures = Tally(), Pictures(path, stream)
        for packet in demux_packets(container, stream, tally):
            if first is None:
                first = next(iter(decode_packet(packet, tally)), None)
            if packet.is_keyframe and packet.pts is not None:
                keys.append(packet.pts)  # also one that an edit list hides: what follows it is decoded from it
            if is_shown(packet):
                stamps.append(packet.pts)
        if first is None:
            tally.finish(path, None)
        assert first is not None
        pictures(first)
        assert pictures.size is not None
        if first.pts is None or None in stamps or len(set(stamps)) < len(stamps):
            return _Index(_count_by_decoding(path), None, (), pictures.size)
        shown = array("q", sorted(pts for pts in stamps if pts is not None and pts >= first.pts))
        return _Index(len(shown), shown, tuple(sorted(keys)), pictures.size)


def _count_by_decoding(path: VideoFile) -> int:
    with open_video(path) as (container, stream):
        tally = Tally()
        for packet in demux_packets(container, stream, tally):
            decode_packet(packet, tally)
    return tally.frames
