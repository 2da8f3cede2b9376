"""What a video file holds, as FFmpeg tells it: none of the package's own reading, so that it can be judged by this."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.stream import VideoStream

from vidtwin.video.read.reader import iter_frames

Packets = list[tuple[bytes, Fraction]]  # of a track: content, and seconds


@dataclass
class Track:
    """Sound or subtitles. unit: seconds of a tick. samples: of sound, decoded. later: seconds added since times began anew."""

    kind: str
    codec: str
    unit: Fraction
    packets: Packets = field(default_factory=list)
    samples: int = 0
    later: Fraction = Fraction(0)
    end: Fraction = Fraction(-(10**6))


@dataclass(frozen=True)
class Media:
    """times: seconds of the frames. size: (width, height) as displayed, in pixels of width / height `aspect`."""

    times: list[Fraction]
    size: tuple[int, int]
    aspect: Fraction
    tracks: list[Track]
    chapters: list[tuple[Fraction, Fraction, str]]


def source_of(path: Path) -> Media:
    """An input: its frames as the package reads them, all else as FFmpeg does. Raises OSError or ValueError as the package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        times, size = [], (0, 0)
        for frame in iter_frames(path):
            times.append(frame.time)
            size = frame.image.shape[1], frame.image.shape[0]
    if not path.is_file():
        return Media(times, size, Fraction(1), [], [])
    try:
        return Media(times, size, Fraction(1), _tracks(path), _chapters(path))
    except FFmpegError:
        return Media(times, size, Fraction(1), [], [])


def output_of(path: Path) -> Media:
    """A file that was written; every frame is decoded. Raises av.error.FFmpegError, or ValueError without frames."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        if not frames:
            raise ValueError(f"{path}: no frames")
        times = [frame.pts * stream.time_base for frame in frames if frame.pts is not None and stream.time_base is not None]
        width, height, aspect = stream.width, stream.height, stream.sample_aspect_ratio or Fraction(1)
        if frames[0].rotation % 180:
            width, height, aspect = height, width, 1 / aspect
        assert isinstance(stream, VideoStream)
    return Media(times, (width, height), aspect, _tracks(path), _chapters(path))


def is_upright(source: Path, output: Path) -> bool:
    """Whether the first frame of an output of the source's size is nearer to the source's as it is than when it is mirrored."""
    before, after = (next(iter_frames(path, square_pixels=False)).image.astype(float) for path in (source, output))
    height, width = before.shape[:2]
    after = after[:height, :width]  # without the row and column that an odd size gets
    differences = [abs(before - after[::rows, ::columns]).mean() for rows in (1, -1) for columns in (1, -1)]
    return bool(np.argmin(differences) == 0)


def _tracks(path: Path) -> list[Track]:
    """What can be read of the sound and the subtitles."""
    tracks: dict[int, Track] = {}
    with av.open(str(path), metadata_errors="replace") as container:
        streams = [stream for stream in container.streams if stream.type in ("audio", "subtitle")]
        for stream in streams:
            context = stream.codec_context
            codec = "unknown" if context is None else context.codec.canonical_name
            tracks[stream.index] = Track(stream.type, codec, Fraction(stream.time_base or 1))
        try:
            for packet in container.demux(streams) if streams else ():
                stamp = packet.dts if packet.pts is None else packet.pts
                track = tracks[packet.stream.index]
                if packet.size and stamp is not None:
                    time = stamp * packet.time_base + track.later
                    if container.format.name == "mpegts" and time < track.end:
                        track.later += track.end - time  # times begin anew: files put end to end
                        time = track.end
                    track.end = time + (packet.duration or 0) * packet.time_base
                    track.packets.append((_bare(bytes(packet), track.codec), time))
                if track.kind == "audio":
                    track.samples += _decoded(packet)
        except FFmpegError:
            pass
    return list(tracks.values())


def _decoded(packet: Any) -> int:
    """Samples of a packet of sound, or of the flush at the end."""
    try:
        return sum(frame.samples for frame in packet.decode())
    except FFmpegError:
        return 0


def _bare(content: bytes, codec: str) -> bytes:
    """AAC without the header (ADTS) that each packet has in transport streams and that other containers keep once."""
    if codec != "aac" or len(content) < 7 or content[0] != 0xFF or content[1] & 0xF6 != 0xF0:
        return content
    return content[7:] if content[1] & 1 else content[9:]


def _chapters(path: Path) -> list[tuple[Fraction, Fraction, str]]:
    with av.open(str(path), metadata_errors="replace") as container:
        found = []
        for chapter in container.chapters():
            unit = chapter["time_base"] or Fraction(0)
            found.append((chapter["start"] * unit, chapter["end"] * unit, chapter["metadata"].get("title", "")))
        return found


def matched(before: Track, after: Track) -> list[tuple[Fraction, Fraction]]:
    """Times in the source and in the output of every packet of the output; fewer when one is not the source's, or out of order.

    Of PCM, which containers cut into packets as they like, it is the packets of the source, if all samples are there.
    """
    if before.codec.startswith("pcm"):
        same = _joined(before.packets) == _joined(after.packets)
        return [(before.packets[0][1], after.packets[0][1])] * len(before.packets) if same and before.packets else []
    pairs, place = [], 0
    for content, time in after.packets:
        while place < len(before.packets) and before.packets[place][0] != content:
            place += 1
        if place == len(before.packets):
            break
        pairs.append((before.packets[place][1], time))
        place += 1
    return pairs


def _joined(packets: Sequence[tuple[bytes, Fraction]]) -> bytes:
    return b"".join(content for content, _ in packets)
