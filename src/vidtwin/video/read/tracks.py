"""Single streams of a source, on their way into another container."""

from collections import Counter
from fractions import Fraction
from io import BytesIO
from itertools import islice
from math import ceil, lcm
from typing import Any

import av
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream

from vidtwin.video.read.decode import VideoFile, open_video

KINDS = {"audio": "sound", "subtitle": "subtitles"}
PEEKED = 500  # packets at the start of a source, in which the first of each stream is looked for

# Some languages have two codes; FFmpeg writes one of them into QuickTime files, and for the other nothing at all.
_UNKNOWN = "bod cym cze deu ell eus fas fre hye isl kat mkd msa mya nld nob rum slo sqi swe zho"
_KNOWN = "tib wel ces ger gre baq per fra arm ice geo mac may bur dut nor ron slk alb sve chi"
QUICKTIME_LANGUAGES = dict(zip(_UNKNOWN.split(), _KNOWN.split(), strict=True))


Span = tuple[Fraction | None, Fraction | None]  # start and stop in seconds of the source; None: no limit


class Track:
    """Moves the packets of one stream onto the clock of its copy, which has to have one already.

    Where times may begin anew in mid-file (`restarts`), they go on from the end of what was before.

    Attributes:
        seconds: in the output, of the packet placed last.
        left_out: packets that have no place, by the reason: "damaged" (their times), "early" (the container holds no such
            times), "outside" the span.
    """

    def __init__(self, stream: Any, out: Any, origin: Fraction, span: Span, is_matroska: bool, restarts: bool = False) -> None:
        self.stream, self._out = stream, out
        self._unit, self._old_unit = Fraction(out.time_base), Fraction(stream.time_base)
        # A time t in the source is (t * scale - shift) / parts in the output, whole numbers all.
        ratio, shift = self._old_unit / self._unit, origin / self._unit
        self._parts = lcm(ratio.denominator, shift.denominator)
        self._scale, self._shift = int(ratio * self._parts), int(shift * self._parts)
        self._start, self._stop = (None if side is None else ceil(side / self._old_unit) for side in span)
        self._gap = 0 if is_matroska else 1  # ticks between packets, at least
        self._earliest_allowed: int | None = None
        if stream.type != "audio":
            self._earliest_allowed = 0
        elif is_matroska:  # it holds times from 0 on, before the samples that a codec says to skip are taken off
            delay = Fraction(stream.codec_context.delay, stream.codec_context.sample_rate or 1) / self._unit
            self._earliest_allowed = -_nearest(delay.numerator, delay.denominator)
        self._last: tuple[int, int] | None = None  # dts of the last packet, in the source and in the output
        self._earliest = self._reached = 0
        self._restarts, self._later = restarts, 0  # ticks of the source by which times were moved since they began anew
        self._loses_time = stream.type == "audio" and restarts and stream.container.format.name == "ogg"
        self._duration = 0  # ticks, of the last packet
        self._to_seconds = float(self._unit)
        self.seconds = 0.0
        self.left_out: Counter[str] = Counter()

    @property
    def earliest(self) -> Fraction:
        """Seconds in the output, not above 0, at which the first packet begins."""
        return self._earliest * self._unit

    @property
    def reached(self) -> Fraction:
        """Seconds in the source at which the last packet ends, placed or not."""
        return self._reached * self._old_unit

    def place(self, packet: Packet) -> bool:
        """Set stream, times and clock of the copy; whether the packet has a place in it."""
        reason = self._place(packet)
        if reason:
            self.left_out[reason] += 1
        return not reason

    def _place(self, packet: Packet) -> str:
        dts = packet.pts if packet.dts is None else packet.dts
        pts = packet.dts if packet.pts is None else packet.pts
        if dts is None or pts is None or pts < dts:
            return "damaged"
        duration = packet.duration or 0
        if self._loses_time and duration == 1 and self._duration:  # FFmpeg counts packets of the parts after the first
            dts = pts = self._reached - self._later
            duration = self._duration
        self._duration = max(duration, self._duration)
        if self._restarts and self._last is not None:
            self._later = self._later_by(dts)
            dts, pts = dts + self._later, pts + self._later
        self._reached = pts + duration
        if (self._start is not None and pts < self._start) or (self._stop is not None and pts >= self._stop):
            return "outside"
        if self._last is not None and dts < self._last[0]:
            return "damaged"
        new_pts, new_dts = self._moved(pts), self._moved(dts)
        if self._earliest_allowed is not None and new_pts < self._earliest_allowed:
            return "early"
        if self._last is not None:
            new_dts = max(new_dts, self._last[1] + self._gap)
        self._last = dts, new_dts
        self._earliest = min(self._earliest, new_pts)
        self.seconds = new_dts * self._to_seconds
        packet.pts, packet.dts = max(new_pts, new_dts), new_dts
        packet.duration = _nearest(duration * self._scale, self._parts)
        packet.time_base, packet.stream = self._unit, self._out
        return ""

    def _later_by(self, dts: int) -> int:
        """Ticks of the source to add to times from this one on: times that go back go on from the last end.

        If that was for a single damaged time, the next one fits better without it.
        """
        assert self._last is not None
        if dts + self._later < self._last[0]:
            return self._reached - dts
        if dts >= self._last[0] and abs(dts - self._reached) < abs(dts + self._later - self._reached):
            return 0
        return self._later

    def _moved(self, ticks: int) -> int:
        return _nearest(ticks * self._scale - self._shift, self._parts)


def _nearest(number: int, parts: int) -> int:
    """number / parts as the nearest whole number, halves away from 0, as FFmpeg rounds."""
    nearest = (2 * abs(number) + parts) // (2 * parts)
    return nearest if number >= 0 else -nearest


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
