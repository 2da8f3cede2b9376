"""Compressed frames, and what is copied of the source -> one file, with exact times."""

import errno
import heapq
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from math import lcm
from pathlib import Path
from typing import Any

import av
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition

from vidtwin.frames.orientation import Orientation
from vidtwin.video.pyav import TURNS, open_encoder
from vidtwin.video.read.decode import VideoFile
from vidtwin.video.read.matroska import PLACEHOLDER, set_display_size
from vidtwin.video.read.tracks import Span
from vidtwin.video.write.encoder import configure, padded
from vidtwin.video.write.encoding import CONTAINERS, Settings
from vidtwin.video.write.remux import Copy

BITEXACT = 0x400  # FFmpeg's flag: no random numbers in the file
MILLISECONDS = 1000  # ticks per second in Matroska
LARGEST = 2**31 - 1  # of MP4's ticks per second, and of the ticks from one frame to the next
COARSER = (1_000_000, 90_000, 1000)  # ticks per second where the exact ones cannot be stored
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ENOMEM)


@dataclass(frozen=True)
class Timing:
    """When frames are shown: ticks of `clock` seconds; `origin` seconds become 0; the last is shown for 1 / `fps` seconds.

    `clock` None: the ticks are numbers of frames.
    """

    ticks: Sequence[int]
    clock: Fraction | None
    origin: Fraction
    fps: Fraction

    @property
    def unit(self) -> Fraction:
        """Seconds of a tick."""
        return self.clock or 1 / self.fps

    @property
    def end(self) -> Fraction:
        """Seconds at which the last frame is over."""
        return self.ticks[-1] * self.unit + 1 / self.fps

    @property
    def seconds(self) -> Iterator[Fraction]:
        """Of every frame."""
        return (tick * self.unit - self.origin for tick in self.ticks)

    @property
    def is_constant_rate(self) -> bool:
        """Whether frame i is shown 1 / fps after frame i - 1, to one tick of the clock, or a quarter of a frame if that is less."""
        if self.clock is None:
            return True
        slack, begin = min(self.clock, 1 / (4 * self.fps)), self.ticks[0]
        times = ((tick - begin) * self.clock - number / self.fps for number, tick in enumerate(self.ticks))
        return all(abs(difference) <= slack for difference in times)

    def rate(self, container: str) -> int:
        """Ticks per second in the output: such that all times are whole numbers of them, if the container can."""
        if container in ("matroska", "webm"):
            return MILLISECONDS
        exact = lcm(self.unit.denominator, (self.origin % self.unit).denominator)
        while self.clock is None and exact < 10_000:
            exact *= 2
        longest = max((b - a for a, b in pairwise(self.ticks)), default=0) * self.unit
        rates = (exact, *COARSER)
        return next((rate for rate in rates if rate <= LARGEST and longest * rate <= LARGEST), rates[-1])

    def stamps(self, rate: int) -> tuple["array[int]", bool]:
        """The frames' times in ticks of 1 / `rate` seconds, strictly increasing, and whether they are exact."""
        ratio, shift = self.unit * rate, self.origin * rate
        stamps, exact = array("q"), True
        for tick in self.ticks:
            time = tick * ratio - shift
            exact = exact and time.denominator == 1
            stamps.append(max(round(time), stamps[-1] + 1 if stamps else 0))
        return stamps, exact


@dataclass(frozen=True)
class Movie:
    """A video file to be made.

    Attributes:
        suffix: of its name; it decides the container.
        settings, size, fps, pixel_aspect: as the encoder had them; size and aspect as stored.
        extradata: of the encoder.
        orientation: how the stored picture is to be turned for display; MP4 and MOV only.
    """

    suffix: str
    settings: Settings
    size: tuple[int, int]
    fps: Fraction
    pixel_aspect: Fraction
    extradata: bytes
    orientation: Orientation

    def write(
        self,
        path: Path,
        packets: Callable[[], Iterable[Packet]],
        timing: Timing,
        source: VideoFile | None = None,
        span: Span = (None, None),
    ) -> list[str]:
        """Write all of it to `path`; returns what could not be kept, one clause each.

        A stream of the source that the container refuses only when it gets its packets is left out, by beginning again.

        Raises OSError and av.error.FFmpegError as they come.
        """
        refused: set[int] = set()
        while True:
            try:
                return self._write(path, packets(), timing, Copy(source, self.suffix, span, timing.origin, timing.end, refused))
            except _RefusedError as error:
                refused.add(error.index)
            except FFmpegError as error:
                if source is None or error.errno in DISK_ERRORS:
                    raise
                notes = self.write(path, packets, timing)
                return [*notes, f"sound, subtitles and chapters left out: {self.suffix} refuses them ({error.strerror})"]

    def _write(self, path: Path, packets: Iterable[Packet], timing: Timing, copy: Copy) -> list[str]:
        rate = timing.rate(CONTAINERS[self.suffix])
        stamps, exact = timing.stamps(rate)
        with copy:
            with self._open(path, rate, copy.sample_rates) as (container, video):
                copy.add_to(container)
                container.start_encoding()
                assert (video.codec_context.extradata or b"") == self.extradata, "the encoder is not the one of the packets"
                frames = ((seconds, -1, packet) for seconds, packet in self._timed(packets, video, stamps))
                others = ((seconds, packet.stream_index, packet) for seconds, packet in copy.packets())
                for _, index, packet in heapq.merge(frames, others, key=lambda item: item[0]):
                    try:
                        container.mux(packet)
                    except FFmpegError as error:
                        if index < 0 or error.errno in DISK_ERRORS:
                            raise
                        raise _RefusedError(copy.index_of(index)) from error
        return [*([] if exact else [f"times are rounded to 1/{rate} s, as {self.suffix} stores them"]), *copy.notes]

    @contextmanager
    def _open(self, path: Path, rate: int, sample_rates: list[int]) -> Iterator[tuple[OutputContainer, Any]]:
        """The file with its video stream; finished when the block ends well."""
        is_matroska = CONTAINERS[self.suffix] in ("matroska", "webm")
        options = {"movflags": "+faststart", "video_track_timescale": str(rate)}
        # Delays of streams are stored in ticks of the movie's own clock, which has to hold those of all of them.
        if (common := lcm(rate, *sample_rates)) <= LARGEST:
            options["movie_timescale"] = str(common)
        if is_matroska:
            options = {"avoid_negative_ts": "disabled", "default_mode": "passthrough", "cues_to_front": "1"}
            if self.pixel_aspect != 1:
                options["write_crc32"] = "0"
        container = av.open(f"file:{path}", "w", format=CONTAINERS[self.suffix], container_options=options)
        try:
            if is_matroska:
                container.flags |= BITEXACT
            yield container, self._add_video(container, rate, is_matroska)
            container.close()
        except BaseException:
            with suppress(FFmpegError, OSError):
                container.close()
            raise
        if is_matroska and self.pixel_aspect != 1:
            height, width = padded(self.settings, self.size)
            set_display_size(path, (height, max(1, round(width * self.pixel_aspect))))

    def _add_video(self, container: OutputContainer, rate: int, is_matroska: bool) -> Any:
        stream: Any = container.add_stream(self.settings.encoder, rate=self.fps, options=dict(self.settings.options))
        configure(stream.codec_context, self.settings, self.size, self.fps, self.pixel_aspect)
        stream.time_base = Fraction(1, rate)
        stream.disposition = Disposition.default.value  # a number, as PyAV 15 takes it
        if is_matroska:
            if self.pixel_aspect != 1:
                stream.metadata["title"] = PLACEHOLDER
        else:
            if TURNS:
                stream.set_display_matrix(self.orientation.display_matrix)
            if self.settings.encoder == "libx265":
                stream.codec_context.codec_tag = "hvc1"  # the one of the two names that Apple's players know
        open_encoder(stream.codec_context)
        return stream

    def _timed(self, packets: Iterable[Packet], stream: Any, stamps: "array[int]") -> Iterator[tuple[float, Packet]]:
        """Seconds and packet, in the order shown, which is the order stored."""
        unit = Fraction(stream.time_base)
        seconds = float(unit)
        durations = (after - before for before, after in pairwise(stamps))
        last = max(1, round(1 / (self.fps * unit)))
        for packet, stamp, duration in zip(packets, stamps, chain(durations, (last,)), strict=True):
            packet.pts = packet.dts = stamp
            packet.duration, packet.stream, packet.time_base = duration, stream, unit
            yield stamp * seconds, packet


class _RefusedError(Exception):
    """The container does not take the packets of a stream."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index  # in the source
