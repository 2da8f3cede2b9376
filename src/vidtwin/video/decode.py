"""A video file, opened and decoded packet by packet: clear refusals, damage survived, pictures as displayed."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc, VideoReformatter
from av.video.stream import VideoStream

from vidtwin.video.orientation import Orientation

DEFAULT_FPS = Fraction(25)  # for files that state no frame rate at all
MAX_PIXEL_ASPECT = 32  # pixels stated to be longer than this are taken for square: the file is wrong

# swscale's flags bicubic, accurate_rnd and full_chroma_int, as FFmpeg numbers them: PyAV 17 has no names for the last two.
# Slower than swscale's default, but without its bias of more than a level, and chroma interpolated.
SCALER = 0x4 | 0x40000 | 0x2000

# H.273 matrix number, as frames carry it -> name, swscale's number; all others (2 is "untagged") are guessed.
MATRICES = {
    1: ("bt709", 1),
    4: ("fcc", 4),
    5: ("bt601", 5),
    6: ("bt601", 5),
    7: ("smpte240m", 7),
    9: ("bt2020", 9),
    10: ("bt2020", 9),
}


@dataclass(frozen=True)
class TarMember:
    """A video inside an uncompressed tar: `size` bytes of the file `tar` from byte `offset` on; read in place."""

    tar: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}!{self.name}"


VideoFile = str | os.PathLike[str] | TarMember


class VideoWarning(UserWarning):
    """A video was read, but not all of it: frames are missing or damaged."""


@contextmanager
def open_video(path: VideoFile) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its best video stream, cover art excluded.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError, OSError: `path` cannot be opened.
        ValueError: it is empty, no video, cut off before its index, or has no video stream that can be decoded.
    """
    check_file(path)
    # "file:" and the list keep a name such as "a:b.mp4", or a playlist, from being followed to a network address.
    address, protocols = f"file:{file_holding(path)}", "file"
    if isinstance(path, TarMember):  # FFmpeg's window on a part of a file; what follows the first ",,:" is taken as it is
        address, protocols = f"subfile,,start,{path.offset},end,{path.offset + path.size},,:{address}", "file,subfile"
    try:
        container = av.open(address, metadata_errors="replace", container_options={"protocol_whitelist": protocols})
    except OSError as error:
        raise OSError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error
    except FFmpegError as error:
        raise ValueError(_explain_unreadable(path)) from error
    with container:
        stream = container.streams.best("video")
        if stream is None or stream.disposition & Disposition.attached_pic:
            kinds = sorted({"cover art" if s.type == "video" else s.type for s in container.streams})
            raise ValueError(f"{path}: has no video, only {', '.join(kinds) or 'an empty container'}; choose a video file")
        assert isinstance(stream, VideoStream)
        if stream.codec_context is None:
            raise ValueError(f"{path}: its video codec is unknown to this decoder; convert it to H.264 first")
        yield container, stream


def file_holding(path: VideoFile) -> Path:
    """The file on disk that a video's bytes are in: the path itself, or the tar."""
    return path.tar if isinstance(path, TarMember) else Path(path)


def check_file(path: VideoFile) -> None:
    """Raise the OSError or ValueError, in one line, for a path that is not a file with something in it."""
    file = file_holding(path)
    if file.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a video file")
    if not file.exists():
        raise FileNotFoundError(f"{path}: no such file; check the name")
    if not file.is_file():
        raise OSError(f"{path}: is not a regular file; copy the video to a file first")
    if (path.size if isinstance(path, TarMember) else file.stat().st_size) == 0:
        raise ValueError(f"{path}: is empty (0 bytes); get the file again")


def _explain_unreadable(path: VideoFile) -> str:
    with file_holding(path).open("rb") as file:
        file.seek(path.offset if isinstance(path, TarMember) else 0)
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return f"{path}: is cut off, its index (moov) is missing; get the file again"
    return f"{path}: is not a video file, or is damaged from its start; choose a video file or get it again"


@dataclass
class Tally:
    """What decoding met: frames that came out, how many of those are visibly damaged, packets that were refused."""

    frames: int = 0
    damaged: int = 0
    refused: int = 0

    def finish(self, path: VideoFile, stated: int | None) -> None:
        """One VideoWarning when something is missing or damaged; ValueError when nothing was decoded."""
        if self.frames == 0:
            raise ValueError(f"{path}: no frame could be decoded; get it again if it is damaged, or convert it to MP4")
        complaints = []
        if stated is not None and self.frames < stated:
            complaints.append(f"only {self.frames} of {stated} frames could be decoded")
        elif self.refused:
            complaints.append(f"{self.frames} frames were decoded, {self.refused} packets could not be")
        if self.damaged:
            complaints.append(f"{self.damaged} decoded frames are damaged")
        if complaints:
            warnings.warn(f"{path}: {', '.join(complaints)}; get the file again", VideoWarning, stacklevel=4)


def demux_packets(container: InputContainer, stream: VideoStream, tally: Tally) -> Iterator["Packet[VideoStream]"]:
    """The stream's packets as they are stored and an empty one that flushes the decoder; damage ends them early."""
    try:
        yield from container.demux(stream)
    except FFmpegError:  # the rest of the file cannot be read
        tally.refused += 1
        flush: Any = Packet()
        flush.stream, flush.time_base = stream, stream.time_base
        yield flush


def decode_packet(packet: "Packet[VideoStream]", tally: Tally) -> list[VideoFrame]:
    """The frames that come out of the decoder after a packet, in the order they are shown; none when it fails."""
    try:
        frames = packet.decode()
    except FFmpegError:
        tally.refused += 1
        return []
    tally.frames += len(frames)
    tally.damaged += sum(frame.is_corrupt for frame in frames)
    return frames


def is_shown(packet: "Packet[VideoStream]") -> bool:
    """Whether a packet becomes a frame: not the flush, not cut away by an edit list, not one of VP8's hidden frames."""
    if not packet.size or packet.is_discard:
        return False
    return packet.stream.codec_context.name != "vp8" or bool(bytes(packet)[0] & 0x10)


def stated_frames(stream: VideoStream) -> int | None:
    """Frames that the container promises to show, or None; those that an edit list cuts away are not promised."""
    if not stream.frames:
        return None
    cut_away = sum(entry.is_discard for entry in stream.index_entries)
    return stream.frames - cut_away


def frame_rate(stream: VideoStream) -> Fraction:
    """Frames per second: the average of the container; for a raw stream without clock, what the codec's headers say."""
    rates = [stream.average_rate, stream.guessed_rate, stream.base_rate]
    if stream.start_time is None and stream.duration is None:
        rates = [stream.guessed_rate, *rates]
    return next((Fraction(rate) for rate in rates if rate), DEFAULT_FPS)


def color_matrix(frame: VideoFrame) -> tuple[str, int | None]:
    """Name and number of the matrix a frame is converted with: its tag, or BT.709 from 720 lines and BT.601 below."""
    if frame.format.is_rgb:
        return "rgb", None
    return MATRICES.get(frame.colorspace, MATRICES[1] if frame.height >= 720 else MATRICES[5])


def color_range(frame: VideoFrame) -> ColorRange:
    """JPEG (full, 0..255) or MPEG (limited, 16..235); an untagged frame is limited unless its format says otherwise."""
    full = frame.format.is_rgb or frame.format.name.startswith("yuvj") or frame.color_range == ColorRange.JPEG
    return ColorRange.JPEG if full else ColorRange.MPEG


class Pictures:
    """Turns decoded frames into pictures as displayed: uint8 (H, W, 3) RGB, rotated, square pixels, all of one size.

    The first frame sets the size; later frames of another size are scaled to it.
    """

    def __init__(self, path: VideoFile, stream: VideoStream, size: tuple[int, int] | None = None) -> None:
        aspect = stream.sample_aspect_ratio or Fraction(1)
        self._pixel_aspect = aspect if 1 <= MAX_PIXEL_ASPECT * aspect <= MAX_PIXEL_ASPECT**2 else Fraction(1)
        self._path = path
        self._reformatter = VideoReformatter()  # keeps its tables from frame to frame
        self.size = size  # (height, width) as displayed

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        orientation = Orientation.of(frame)
        if self.size is None:
            self.size = orientation.size((frame.height, max(1, round(frame.width * self._pixel_aspect))))
        height, width = orientation.size(self.size)
        # PyAV 18 hides from swscale what is not converted, PyAV 17 does not: reserved values would then be refused, and so
        # would BT.2020 with constant luminance (10), which swscale can only convert as the other BT.2020 (9).
        frame.color_trc, frame.color_primaries = ColorTrc.UNSPECIFIED, ColorPrimaries.UNSPECIFIED
        if frame.colorspace == 10:
            frame.colorspace = 9
        try:
            rgb = self._reformatter.reformat(
                frame,
                width=width,
                height=height,
                format="rgb24",
                src_colorspace=color_matrix(frame)[1],
                src_color_range=color_range(frame),
                dst_color_range=ColorRange.JPEG,
                interpolation=SCALER,
            )
        except FFmpegError as error:
            kind = f"{frame.width}x{frame.height} {frame.format.name}"
            raise ValueError(f"{self._path}: {kind} pictures cannot be made RGB; convert it to H.264 first") from error
        return orientation.upright(rgb.to_ndarray())
