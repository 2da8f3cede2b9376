"""Single streams of a source, on their way into another container."""

from fractions import Fraction
from io import BytesIO
from itertools import islice
from typing import Any

import av
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream

from vidtwin.video.decode import VideoFile, open_video

KINDS = {"audio": "sound", "subtitle": "subtitles"}
PEEKED = 500  # packets at the start of a source, in which the first of each stream is looked for

# Some languages have two codes; FFmpeg writes one of them into QuickTime files, and for the other nothing at all.
_UNKNOWN = "bod cym cze deu ell eus fas fre hye isl kat mkd msa mya nld nob rum slo sqi swe zho"
_KNOWN = "tib wel ces ger gre baq per fra arm ice geo mac may bur dut nor ron slk alb sve chi"
QUICKTIME_LANGUAGES = dict(zip(_UNKNOWN.split(), _KNOWN.split(), strict=True))


class Track:
    """Moves the packets of one stream onto the clock of its copy."""

    def __init__(self, stream: Any, out: Any, origin: Fraction, is_matroska: bool) -> None:
        self._out, self._unit = out, Fraction(out.time_base)
        self._ratio, self._shift = stream.time_base / self._unit, origin / self._unit
        self._gap = 0 if is_matroska else 1  # ticks between packets, at least
        self._earliest_allowed: int | None = None
        if stream.type != "audio":
            self._earliest_allowed = 0
        elif is_matroska:  # it holds times from 0 on, before the samples that a codec says to skip are taken off
            delay = Fraction(stream.codec_context.delay, stream.codec_context.sample_rate or 1)
            self._earliest_allowed = -_rounded(delay / self._unit)
        self._last: tuple[int, int] | None = None  # dts of the last packet, in the source and in the output
        self.seconds = 0.0  # of the packet placed last
        self.earliest = Fraction(0)

    def place(self, packet: Packet) -> str:
        """Set stream, times and clock of the copy; if that cannot be, what is wrong with the packet."""
        dts = packet.pts if packet.dts is None else packet.dts
        pts = packet.dts if packet.pts is None else packet.pts
        if dts is None or pts is None or pts < dts or (self._last is not None and dts < self._last[0]):
            return "damaged"
        new_pts, new_dts = self._moved(pts), self._moved(dts)
        if self._earliest_allowed is not None and new_pts < self._earliest_allowed:
            return "early"
        if self._last is not None:
            new_dts = max(new_dts, self._last[1] + self._gap)
        self._last = dts, new_dts
        packet.pts, packet.dts = max(new_pts, new_dts), new_dts
        packet.duration = _rounded((packet.duration or 0) * self._ratio)
        packet.stream, packet.time_base = self._out, self._unit
        self.seconds = float(new_dts * self._unit)
        self.earliest = min(self.earliest, new_pts * self._unit)
        return ""

    def _moved(self, ticks: int) -> int:
        return _rounded(ticks * self._ratio - self._shift)


def _rounded(value: Fraction) -> int:
    """To the nearest whole number, halves away from 0, as FFmpeg does."""
    twice = 2 * abs(value.numerator) + value.denominator
    rounded = twice // (2 * value.denominator)
    return rounded if value >= 0 else -rounded


def holds(container: str, stream: Stream, sample: Packet | None) -> bool:
    """Whether a container, by FFmpeg's name, can hold a stream of another file: tried with one packet, or its header alone."""
    try:
        with av.open(BytesIO(), "w", format=container) as trial:
            out = trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
            if sample is not None:
                packet: Any = Packet(bytes(sample))
                packet.stream, packet.pts, packet.dts, packet.is_keyframe = out, 0, 0, True
                trial.mux(packet)
    except (FFmpegError, ValueError):
        return False
    return True


def first_packets(source: VideoFile) -> dict[int, Packet]:
    """The first packet of each stream of sound and subtitles, unless it comes late in the file."""
    found: dict[int, Packet] = {}
    with open_video(source) as (container, _):
        streams = [stream for stream in container.streams if stream.type in KINDS and stream.codec_context is not None]
        try:
            for packet in islice(container.demux(streams), PEEKED):
                if packet.size:
                    found.setdefault(packet.stream_index, packet)
                if len(found) == len(streams):
                    break
        except FFmpegError:
            pass
    return found


def name_of(stream: Stream) -> str:
    """How a stream is called in a note."""
    kind = KINDS.get(stream.type, stream.type)
    codec = stream.codec_context.codec.canonical_name if stream.codec_context is not None else stream.name
    words = [f"stream {stream.index}", *filter(None, (codec, stream.language))]
    return f"{kind} ({', '.join(words)})"
