"""Frames of a video file at any place: an index of its timestamps, and decoding from the key frame before."""

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain, islice, pairwise
from typing import NamedTuple

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from vidtwin.frames.orientation import Orientation
from vidtwin.video.read.decode import (
    TableColumn,
    Tally,
    TarMember,
    VideoFile,
    check_file,
    decode_packet,
    demux_packets,
    file_holding,
    is_shown,
    may_repeat,
    open_video,
)
from vidtwin.video.read.decode import frame_rate as stated_rate
from vidtwin.video.read.pictures import Pictures

SEEK_BACK = (0, 1, 4)  # seconds to seek before a key frame: some containers go to the next place by another clock
REORDERED = 16  # frames that are decoded to see whether timestamps are in order, where there is doubt
LEAST_FPS, MOST_FPS = 5, 240  # frames per second; a container that states others is asked for its timestamps
USUAL_FPS = [Fraction(fps) for fps in (1, 5, 8, 10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120, 240)]
USUAL_FPS += [Fraction(1000 * fps, 1001) for fps in (24, 30, 60, 120)]
NONE = np.iinfo(np.int64).min


def frame_count(path: VideoFile) -> int:
    """`read.frame_count` of a video file."""
    return _index_of(path).count


def frame_rate(path: VideoFile, stream: VideoStream) -> Fraction:
    """Frames per second: as the container states it, or where it states none, or nonsense, the average of all timestamps."""
    stated, guess = stream.average_rate, stream.guessed_rate
    has_clock = stream.start_time is not None or stream.duration is not None
    if stream.frames or not has_clock or (stated and LEAST_FPS <= stated <= MOST_FPS and not (guess and 3 * guess < 2 * stated)):
        return stated_rate(stream)
    return _index_of(path).rate or stated_rate(stream)


def timestamp(path: VideoFile, number: int) -> int | None:
    """Of frame `number`, in ticks; None if there is no such frame, or its file has no timestamps to find frames by."""
    index = _index_of(path)
    return None if index.pts is None or not 0 <= number < index.count else index.pts[number]


def read_clip(path: VideoFile, numbers: range) -> np.ndarray | None:
    """Frames of these numbers, uint8 (F, H, W, 3); None if the file has no timestamps to find them by."""
    index = _index_of(path)
    if index.pts is None:
        return None
    wanted = [index.pts[number] for number in numbers]
    for begin in (index.key_before(wanted[0]), None):  # from the key frame; if that cannot be, from the start of the file
        found = _decode_wanted(path, set(wanted), begin, index.size)
        if len(found) == len(numbers):
            return np.stack([found[pts] for pts in wanted])
    missing = next(number for number, pts in zip(numbers, wanted, strict=True) if pts not in found)
    raise ValueError(f"{path}: frame {missing} cannot be decoded; the file is damaged, get it again or leave it out")


def _decode_wanted(path: VideoFile, wanted: set[int], key: "_Key | None", size: tuple[int, int]) -> dict[int, np.ndarray]:
    """Pictures by timestamp; with `key`, decoding begins at that key frame."""
    found: dict[int, np.ndarray] = {}
    last = max(wanted)
    with open_video(path) as (container, stream):
        pictures = Pictures(path, stream, size=size)
        for frame in _decode_from(container, stream, key, Tally()):
            if frame.pts in wanted and not frame.is_corrupt:  # what conceals damage differs from run to run
                found[frame.pts] = pictures(frame)
            if frame.pts is not None and frame.pts >= last:
                return found
    return found


def frames_after(
    path: VideoFile, container: InputContainer, stream: VideoStream, number: int, pts: int, tally: Tally
) -> tuple[Iterator[VideoFrame], tuple[int, int], tuple[int, int]] | None:
    """What is decoded after frame `number` of timestamp `pts`, beginning at the key frame before it; `_Index`'s two sizes.

    None unless it is certain that these are the frames that decoding from the start of the file gives: their timestamps are
    all there and unique, `pts` is the one of that frame, and from the key frame up to it every frame comes, undamaged.
    """
    index = _index_of(path)
    if index.pts is None or number >= index.count or index.pts[number] != pts:
        return None
    key = index.key_before(pts)
    if key is None or key.pts <= index.pts[0]:
        return None
    frames = _decode_from(container, stream, key, tally)
    for expected in index.pts[bisect_left(index.pts, key.pts) : number + 1]:
        frame = next(frames, None)
        if frame is None or frame.pts != expected or frame.is_corrupt:
            return None
    tally.damaged = tally.refused = 0
    return frames, index.size, index.stored_size


def _decode_from(container: InputContainer, stream: VideoStream, key: "_Key | None", tally: Tally) -> Iterator[VideoFrame]:
    """Frames from a key frame on, or from the start of the file; none when it cannot be entered at the key frame.

    Nor when what comes first is not that frame, and an intra one: where pictures are refreshed little by little, those
    after a "key frame" are whole again some time later, and not to the bit.
    """
    packets = _packets_from(container, stream, key, tally)
    begun = key is None or not key.shown
    for packet in packets:
        for frame in decode_packet(packet, tally):
            if key is not None and (frame.pts is None or frame.pts < key.pts):
                continue  # frames that are stored after the key frame and shown before it
            if key is not None and not begun:
                if frame.pts != key.pts or frame.pict_type not in (PictureType.I, PictureType.NONE):
                    return
                begun = True
            yield frame


def _packets_from(
    container: InputContainer, stream: VideoStream, key: "_Key | None", tally: Tally
) -> Iterator["Packet[VideoStream]"]:
    if key is None:
        return demux_packets(container, stream, tally)
    # Only the first packet says which encoder made the file, and what some old ones wrote is decoded differently.
    for packet in islice(demux_packets(container, stream, tally), 1):
        decode_packet(packet, tally)
    assert stream.time_base is not None
    for seconds in SEEK_BACK:
        try:
            container.seek(key.pts - round(seconds / stream.time_base), stream=stream, backward=True)
        except FFmpegError:  # this kind of file cannot seek, or not to before its start
            continue
        packets = demux_packets(container, stream, tally)
        for packet in packets:
            if key.is_of(packet):
                return chain([packet], packets)
            if packet.dts is None or packet.dts > key.pts:
                break
    return iter(())


class _Key(NamedTuple):
    """A key frame's packet: its timestamps and size in bytes; `shown`: not hidden by an edit list."""

    pts: int
    dts: int | None
    size: int
    shown: bool

    def is_of(self, packet: "Packet[VideoStream]") -> bool:
        """Whether a packet is this one. Only MPEG streams store a dts, and there pts alone may be guessed, and wrong."""
        same = packet.is_keyframe and (packet.pts, packet.size) == (self.pts, self.size)
        return same and (packet.dts == self.dts or not packet.stream.container.format.name.startswith("mpeg"))


@dataclass(frozen=True)
class _Index:
    """Timestamps of all frames, ascending, or None where they are missing or not unique; the key frames, by timestamp.

    keys: int64 (K, 3) of pts, dts (NONE if missing), bytes.
    rate: frames per second, of all timestamps; None where there are fewer than two.
    size, stored_size: (height, width) of the upright pictures, in square pixels and in stored ones.
    """

    count: int
    pts: "array[int] | None"  # 8 bytes a frame: files of many hours stay in the cache
    keys: np.ndarray
    rate: Fraction | None
    size: tuple[int, int]
    stored_size: tuple[int, int]

    def key_before(self, pts: int) -> _Key | None:
        """The last key frame that is not shown after `pts`."""
        place = int(np.searchsorted(self.keys[:, 0], pts, side="right"))
        if place == 0 or self.pts is None:
            return None
        at, dts, size = self.keys[place - 1].tolist()
        shown = self.pts[bisect_left(self.pts, at)] == at
        return _Key(at, None if dts == NONE else dts, size, shown)


def _index_of(path: VideoFile) -> _Index:
    check_file(path)
    stat = file_holding(path).stat()
    return _build_index(
        path if isinstance(path, TarMember | TableColumn) else os.path.abspath(path), stat.st_size, stat.st_mtime_ns
    )


@lru_cache(maxsize=1024)
def _build_index(path: str | TarMember | TableColumn, size: int, mtime_ns: int) -> _Index:
    """Read all packets, decode only up to the first frame: what comes before it (a cut-off start) is never shown."""
    stamps, keys, certain = array("q"), array("q"), True
    doubtful = False
    decoded: list[VideoFrame] = []
    with open_video(path) as (container, stream):
        tally = Tally()
        enough = REORDERED if container.format.name == "avi" else 1
        for packet in demux_packets(container, stream, tally):
            if len(decoded) < enough:
                decoded += decode_packet(packet, tally)
            if packet.is_keyframe and packet.pts is not None:  # also one that an edit list hides: others are decoded from it
                keys.extend((packet.pts, NONE if packet.dts is None else packet.dts, packet.size))
            if is_shown(packet):
                tally.barren = 0 if decoded else tally.barren
                certain = certain and packet.pts is not None
                stamps.append(packet.pts or 0)
                doubtful = doubtful or may_repeat(packet)
        if not decoded:
            tally.finish(path, None)
        first = decoded[0]
        if doubtful and not stream.codec_context.has_b_frames:
            certain, stamps = True, array("q", _stamps_by_decoding(path))
        sizes = Pictures(path, stream).fit(first), Orientation.of(first).size((first.height, first.width))
        ascending = np.unique(np.array(stamps, np.int64))
        rate = _average_rate(ascending, len(stamps), Fraction(stream.time_base)) if stream.time_base else None
        table = np.array(keys, np.int64).reshape(-1, 3)
        table = table[np.argsort(table[:, 0], kind="stable")]
        if first.pts is None or not certain or len(ascending) < len(stamps) or not _in_order(decoded):
            return _Index(_count_by_decoding(path), None, table[:0], rate, *sizes)
        shown = array("q", ascending[ascending >= first.pts].tobytes())
        return _Index(len(shown), shown, table, rate, *sizes)


def _average_rate(stamps: np.ndarray, count: int, time_base: Fraction) -> Fraction | None:
    """Of so many frames between the first and the last of these ticks; a usual rate if it explains them to a tick."""
    if len(stamps) < 2:
        return None
    ticks = int(stamps[-1] - stamps[0])
    rate = (count - 1) / (ticks * time_base)
    near = [usual for usual in USUAL_FPS if abs((count - 1) / (usual * time_base) - ticks) <= 1]
    return min(near, key=lambda usual: abs(usual - rate), default=rate)


def _in_order(frames: list[VideoFrame]) -> bool:
    """Whether timestamps ascend. In AVI, which stores none, FFmpeg guesses them, wrongly for some frames out of order."""
    stamps = [frame.pts for frame in frames if frame.pts is not None]
    return len(stamps) == len(frames) and all(before < after for before, after in pairwise(stamps))


def _count_by_decoding(path: VideoFile) -> int:
    return len(_stamps_by_decoding(path))


def _stamps_by_decoding(path: VideoFile) -> list[int]:
    """Of all frames, 0 for one without."""
    with open_video(path) as (container, stream):
        tally = Tally()
        packets = demux_packets(container, stream, tally)
        return [frame.pts or 0 for packet in packets for frame in decode_packet(packet, tally)]
