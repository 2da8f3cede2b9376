"""A video file, opened and decoded packet by packet: clear refusals, bounds, damage survived."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EINVAL, ENOMEM
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

DEFAULT_FPS = Fraction(25)  # for files that state no frame rate at all
UNALIGNED = 1  # FFmpeg's flag: cropping to the pixel, where a decoder would round the left side down
MAX_PIXELS = 2**27  # of a picture, 16384x8192: larger ones are refused before memory is taken for them
MAX_STREAMS = 256  # of a file
TOO_MANY_STREAMS = f"states more than {MAX_STREAMS} streams"
PNG = b"\x89PNG\r\n\x1a\n"
UNPACKED = (b"zTXt", b"iTXt", b"tEXt", b"iCCP")  # chunks of PNG that hold no picture
OGG_VP8 = b"OVP80"  # begins the headers of VP8 in Ogg, which lie among the packets where files are put end to end
NOT_CODED = 19  # bytes of a picture of MPEG-4 that is not coded, at most, as FFmpeg has it
MAX_BARREN = 100_000  # packets in a row that give no frame, more than an hour of them, after which the rest is given up

# FFmpeg's names of the formats that are read: each is one file and all of it. Playlists and what else names other files
# (hls, dash, concat, sdp, image2, vobsub), devices, subtitles and text made into pictures are not among them; sound is, to
# be told that a file has nothing else.
FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpegtsraw,mpeg,mpegvideo,asf,asf_o,flv,live_flv,kux,ogg,mxf,gxf,wtv,"
    "nut,nsv,nuv,rm,ivr,dv,swf,mxg,lxf,r3d,mlv,cine,ty,pva,pmp,dhav,smjpeg,mpjpeg,ingenient,"
    "yuv4mpegpipe,ivf,obu,av1,h261,h263,h264,hevc,vvc,evc,m4v,mjpeg,mjpeg_2000,dnxhd,dirac,vc1,vc1test,"
    "cavsvideo,avs2,avs3,apv,ser,filmstrip,flic,bink,smk,roq,ea,thp,usm,xmv,vmd,gif,apng,jpegxl_anim,"
    "bmp_pipe,dpx_pipe,exr_pipe,gif_pipe,hdr_pipe,j2k_pipe,jpeg_pipe,jpegls_pipe,jpegxl_pipe,jpegxs_pipe,"
    "pam_pipe,pbm_pipe,pcx_pipe,pgm_pipe,png_pipe,ppm_pipe,psd_pipe,qoi_pipe,sgi_pipe,sunrast_pipe,tiff_pipe,"
    "webp_pipe,aac,ac3,ac4,aiff,amr,ape,au,caf,dsf,dts,eac3,flac,mp3,mpc,mpc8,oma,tak,truehd,tta,voc,"
    "w64,wav,wv"
)


@dataclass(frozen=True)
class TarMember:
    """A video inside an uncompressed tar: `size` bytes of the file `tar` from byte `offset` on; read in place."""

    tar: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}!{self.name}"


@dataclass(frozen=True)
class TableColumn:
    """Pictures in a Parquet file: structs of bytes and path in a column, a row each, shown at `fps` frames per second."""

    table: Path
    name: str
    fps: Fraction

    def __str__(self) -> str:
        return f"{self.table}!{self.name}"


VideoFile = str | os.PathLike[str] | TarMember | TableColumn


class VideoWarning(UserWarning):
    """A video was read, but not all of it: frames are missing or damaged."""


@contextmanager
def open_video(path: VideoFile) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its best video stream, cover art excluded.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError, OSError: `path` cannot be opened.
        ValueError: it is empty, no video, a playlist or of another format that is not read, cut off before its index, has more
            than MAX_STREAMS streams, states pictures above MAX_PIXELS, or has no video stream that can be decoded.
    """
    check_file(path)
    # "file:" and the list keep a name such as "a:b.mp4", or a playlist, from being followed to a network address.
    address, protocols = f"file:{file_holding(path)}", "file"
    if isinstance(path, TarMember):  # FFmpeg's window on a part of a file; what follows the first ",,:" is taken as it is
        address, protocols = f"subfile,,start,{path.offset},end,{path.offset + path.size},,:{address}", "file,subfile"
    limits = {"max_pixels": str(MAX_PIXELS)}
    opening = {"protocol_whitelist": protocols, "format_whitelist": FORMATS, "max_streams": str(MAX_STREAMS + 1)}
    try:
        container = av.open(address, metadata_errors="replace", options=limits, container_options=opening)
    except OSError as error:
        raise OSError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error
    except FFmpegError as error:
        raise ValueError(f"{path}: {_explain_unreadable(path, error.errno)}") from error
    with container:
        if len(container.streams) > MAX_STREAMS:  # some of FFmpeg's demuxers just stop at the limit
            raise ValueError(f"{path}: {TOO_MANY_STREAMS}; it is damaged, or copy out the video stream")
        stream = container.streams.best("video")
        if stream is None or stream.disposition & Disposition.attached_pic:
            kinds = sorted({"cover art" if s.type == "video" else s.type for s in container.streams})
            raise ValueError(f"{path}: has no video, only {', '.join(kinds) or 'an empty container'}; choose a video file")
        assert isinstance(stream, VideoStream)
        if stream.codec_context is None:
            raise ValueError(f"{path}: its video codec is unknown to this decoder; convert it to H.264 first")
        if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
            raise ValueError(f"{path}: {too_large(stream.codec_context.width, stream.codec_context.height)}")
        stream.codec_context.options = limits
        stream.codec_context.flags |= UNALIGNED
        yield container, stream


def too_large(width: int, height: int) -> str:
    """What is said of a picture above MAX_PIXELS."""
    return f"its pictures are {width}x{height}, more than {MAX_PIXELS} pixels; scale it down first"


def file_holding(path: VideoFile) -> Path:
    """The file on disk that a video's bytes are in: the path itself, the tar, or the table."""
    if isinstance(path, TarMember | TableColumn):
        return path.tar if isinstance(path, TarMember) else path.table
    return Path(path)


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


def _explain_unreadable(path: VideoFile, error: int | None) -> str:
    if error == EINVAL:
        return "is a playlist, or of a format that is not read here; name the video itself, or convert it to MP4"
    if error == ENOMEM:
        return f"{TOO_MANY_STREAMS}, or sizes beyond the memory; it is damaged, or copy out the video stream"
    with file_holding(path).open("rb") as file:
        file.seek(path.offset if isinstance(path, TarMember) else 0)
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return "is cut off, its index (moov) is missing; get the file again"
    if file_holding(path).suffix == ".vidtwin":
        return "is a file of latents; `vidtwin decode` makes a video of it"
    return "is not a video file, or is damaged from its start; choose a video file or get it again"


@dataclass
class Tally:
    """What decoding met: frames that came out, how many of those are visibly damaged, packets that were refused.

    repeats: packets that only say that the picture before stays; they are no frames. barren: packets since something came of one.
    """

    frames: int = 0
    damaged: int = 0
    refused: int = 0
    repeats: int = 0
    barren: int = 0

    def finish(self, path: VideoFile, stated: int | None, structure: str = "") -> None:
        """One VideoWarning when something is missing or damaged; ValueError when nothing was decoded.

        stated: the number of frames that the file says it has. structure: `structure.complaint` of the file.
        """
        if self.frames == 0:
            raise ValueError(f"{path}: no frame could be decoded; get it again if it is damaged, or convert it to MP4")
        complaints = []
        if stated is not None and self.frames + self.repeats < stated:
            complaints.append(f"only {self.frames} of {stated} frames could be decoded")
        elif self.refused:
            complaints.append(f"{self.frames} frames were decoded, {self.refused} packets could not be")
        elif structure:
            complaints.append(f"{self.frames} frames were decoded, {structure}")
        if self.damaged:
            complaints.append(f"{self.damaged} decoded frames are damaged")
        if complaints:
            warnings.warn(f"{path}: {', '.join(complaints)}; get the file again", VideoWarning, stacklevel=4)


def demux_packets(container: InputContainer, stream: VideoStream, tally: Tally) -> Iterator["Packet[VideoStream]"]:
    """The stream's packets as they are stored and an empty one that flushes the decoder.

    Damage ends them early, and so do MAX_BARREN packets in a row of which nothing comes (`tally.barren` of 0 says that
    something did): a damaged file can go on for ever.
    """
    try:
        for packet in container.demux(stream):
            yield packet
            tally.barren += 1
            if tally.barren > MAX_BARREN:
                break
        else:
            return
    except IndexError:  # PyAV, when all is read and flushed, of streams that a file has only further on
        return
    except FFmpegError:  # the rest of the file cannot be read
        pass
    tally.refused += 1
    flush: Any = Packet()
    flush.stream, flush.time_base = stream, stream.time_base
    yield flush


def decode_packet(packet: "Packet[VideoStream]", tally: Tally) -> list[VideoFrame]:
    """The frames that come out of the decoder after a packet, in the order they are shown; none when it fails."""
    if packet.size == 0 and packet.pts is not None:  # which would end decoding, as the empty packet at the end does
        tally.repeats += 1
        return []
    if packet.stream.codec_context.name == "vp8" and bytes(packet).startswith(OGG_VP8):
        return []
    if packet.size and packet.stream.codec_context.name in ("png", "apng"):
        packet = _without_text(packet)
    try:
        frames = packet.decode()
    except FFmpegError:
        tally.refused, tally.repeats = tally.refused + (not may_repeat(packet)), tally.repeats + may_repeat(packet)
        return []
    tally.repeats += not frames and may_repeat(packet)
    tally.frames += len(frames)
    tally.barren = 0 if frames else tally.barren
    tally.damaged += sum(frame.is_corrupt for frame in frames)
    return frames


def _without_text(packet: "Packet[VideoStream]") -> "Packet[VideoStream]":
    """A packet of PNG without its texts and profile, which may take a thousand times their size when the decoder unpacks them."""
    data = bytes(packet)
    at = len(PNG) if data.startswith(PNG) else 0  # without, as the frames of an APNG have it
    kept = [data[:at]]
    while at < len(data):
        after = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in UNPACKED:
            kept.append(data[at:after])
        at = after
    if sum(map(len, kept)) == len(data):
        return packet
    plain: Any = Packet(b"".join(kept))
    plain.stream, plain.time_base, plain.is_keyframe = packet.stream, packet.time_base, packet.is_keyframe
    plain.pts, plain.dts, plain.duration = packet.pts, packet.dts, packet.duration
    return plain


def may_repeat(packet: "Packet[VideoStream]") -> bool:
    """Whether a packet of MPEG-4 is so small that only decoding tells it from "the picture stays" (not coded, or DivX's 0x7f)."""
    return 0 < packet.size <= NOT_CODED and packet.stream.codec_context.name == "mpeg4"


def is_shown(packet: "Packet[VideoStream]") -> bool:
    """Whether a packet becomes a frame: not the flush, not cut away by an edit list, not one of VP8's hidden frames."""
    if not packet.size or packet.is_discard:
        return False
    return packet.stream.codec_context.name != "vp8" or bool(bytes(packet)[0] & 0x10)


def frame_rate(stream: VideoStream) -> Fraction:
    """Frames per second: the average of the container; for a raw stream without clock, what the codec's headers say."""
    rates = [stream.average_rate, stream.guessed_rate, stream.base_rate]
    if stream.start_time is None and stream.duration is None:
        rates = [stream.guessed_rate, *rates]
    return next((Fraction(rate) for rate in rates if rate), DEFAULT_FPS)
