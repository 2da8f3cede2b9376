"""What goes with a source's picture (sound, subtitles, chapters, titles, attachments) -> another container, packet by packet.

Nothing is encoded anew: packets keep their bytes and their order, and their times but for what becomes 0. What the other
container cannot hold is left out, and named.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from types import TracebackType
from typing import Any

from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition, Stream

import vidtwin.video.pyav as pyav
import vidtwin.video.read.images as images
from vidtwin.video.read.decode import VideoFile, open_video
from vidtwin.video.read.tracks import KINDS, QUICKTIME_LANGUAGES, Span, Track, first_packets, holds, name_of
from vidtwin.video.write.encoding import CONTAINERS

TECHNICAL = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}  # tags of the file, not of the work
STREAM_TAGS = {"language": "language", "title": "title", "name": "title", "filename": "filename", "mimetype": "mimetype"}
JOINED = {"mpegts", "mpeg", "matroska,webm", "ogg"}  # formats of files that may be put end to end, so that times begin anew
NOT_HEARD = Fraction(1, 5)  # seconds before 0 that a codec may need to get going; what is earlier was to be heard
CUT_SHORT = Fraction(1, 2)  # seconds that sound may end before its stated end
MOST_NOTES = 8  # of streams, each by its name
NANOSECONDS = Fraction(1, 10**9)


class Copy:
    """One source, for one output.

        with Copy("in.mkv", ".mp4", (None, None), Fraction(0)) as copy:
            copy.add_to(container)          # before its header is written
            for seconds, packet in copy.packets():
                container.mux(packet)

    Args:
        source: a video file, or None for nothing to copy. One that cannot be read is noted, and nothing is copied.
        suffix: of the output.
        span: (start, stop) in seconds of the source; only packets that begin in it are taken. None: no limit.
        origin: seconds of the source that become 0.
        end: seconds of the source at which the picture ends; chapters end with it.
        refused: indexes of streams to leave out.

    Attributes:
        notes: what was left out and why, one clause each; complete when the packets are at their end.
    """

    def __init__(
        self,
        source: VideoFile | None,
        suffix: str,
        span: Span,
        origin: Fraction,
        end: Fraction,
        refused: set[int] | None = None,
    ) -> None:
        self._source, self._suffix, self._origin, self._end = source, suffix, origin, end
        self._span, self._refused = span, refused or set()
        self._container: InputContainer | None = None
        self._stack = ExitStack()
        self._inputs: list[Any] = []  # streams of the source that are copied
        self._outputs: dict[int, Any] = {}  # index in the source -> stream of the output
        self.notes: list[str] = []

    def __enter__(self) -> "Copy":
        if self._source is None:
            return self
        try:
            if images.find(self._source) is not None:  # pictures have nothing else to them
                return self
            self._container, video = self._stack.enter_context(open_video(self._source))
        except (OSError, ValueError) as error:
            self.notes.append(f"sound, subtitles and chapters left out: {error}")
            return self
        samples = first_packets(self._source)
        for stream in self._container.streams:
            reason = "" if stream.index == video.index else self._reason_against(stream, samples.get(stream.index))
            if reason is None:
                self._inputs.append(stream)
            elif reason:
                self.notes.append(reason)
        if len(self.notes) > MOST_NOTES:
            self.notes[MOST_NOTES:] = [f"{len(self.notes) - MOST_NOTES} more streams left out"]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    @property
    def sample_rates(self) -> list[int]:
        """Of the sound that is copied, in Hz."""
        return [stream.codec_context.sample_rate for stream in self._inputs if stream.type == "audio"]

    def index_of(self, output: int) -> int:
        """Index in the source of the stream with index `output` in the output."""
        return next(index for index, stream in self._outputs.items() if stream.index == output)

    def add_to(self, container: OutputContainer) -> None:
        """Add the streams, chapters and tags that the output can hold; its video stream is there already."""
        if self._container is None:
            return
        for stream in self._inputs:
            out: Any = container.add_stream_from_template(stream, opaque=True)
            out.disposition = stream.disposition.value
            out.metadata.update({STREAM_TAGS[tag]: text for tag, text in stream.metadata.items() if tag in STREAM_TAGS})
            if self._suffix == ".mov" and stream.language in QUICKTIME_LANGUAGES:
                out.metadata["language"] = QUICKTIME_LANGUAGES[stream.language]
            self._outputs[stream.index] = out
        self._add_chapters(container)
        tags = {tag: text for tag, text in self._container.metadata.items() if tag.lower() not in TECHNICAL}
        container.metadata.update(tags)

    def packets(self) -> Iterator[tuple[float, Packet]]:
        """Seconds in the output and packet, ready to mux, in the order of the source; once the header is written.

        A source that breaks off is noted.
        """
        timed = [stream for stream in self._inputs if stream.type in KINDS]
        if self._container is None or not timed:
            return
        pyav.read_only(self._container, timed)
        is_matroska = CONTAINERS[self._suffix] in ("matroska", "webm")
        restarts = self._container.format.name in JOINED
        copies = [Track(stream, self._outputs[stream.index], self._origin, self._span, is_matroska, restarts) for stream in timed]
        tracks = {track.stream.index: track for track in copies}
        try:
            for packet in self._container.demux(timed):
                if packet.size and (track := tracks[packet.stream_index]).place(packet):  # the last ones are empty
                    yield track.seconds, packet
        except FFmpegError:
            end = float(max(track.reached for track in copies))
            self.notes.append(f"{self._source} cannot be read to its end; sound and subtitles stop at {end:.2f} s")
        for track in copies:
            self._note_packets(track)

    def _reason_against(self, stream: Stream, sample: Packet | None) -> str | None:
        """Why a stream beside the picture is not copied; None if it is, and "" if it needs no words. sample: a packet of it."""
        container = CONTAINERS[self._suffix]
        assert self._container is not None
        if pyav.is_chapter_titles(stream, self._container):
            return ""
        if stream.type == "video":
            return f"{'cover art' if stream.disposition & Disposition.attached_pic else name_of(stream)} left out"
        if stream.type not in (*KINDS, "attachment"):
            return f"{name_of(stream)} left out"
        if stream.type == "attachment" and not pyav.CHAPTERS:
            return f"{name_of(stream)} left out: it needs PyAV 16"
        if stream.type != "attachment" and stream.codec_context is None:
            return f"{name_of(stream)} left out: its codec is unknown"
        held = container == "matroska" if stream.type == "attachment" else holds(container, stream, sample)
        if stream.index in self._refused or not held:
            better = (suffix for suffix in (".mkv", ".mp4") if suffix != self._suffix and holds(CONTAINERS[suffix], stream, sample))
            remedy = next((f"; write {suffix} to keep it" for suffix in better), "")
            return f"{name_of(stream)} left out: {self._suffix} cannot hold it{remedy}"
        return None

    def _add_chapters(self, container: OutputContainer) -> None:
        assert self._container is not None
        if not pyav.CHAPTERS:
            self.notes.append("chapters, if there are any, left out: they need PyAV 16")
        chapters: list[Any] = []
        for chapter in pyav.chapters_of(self._container):
            time_base = chapter["time_base"] or Fraction(0)
            start, end = (chapter[side] * time_base - self._origin for side in ("start", "end"))
            start, end = max(start, Fraction(0)), min(end, self._end - self._origin)
            if start < end:
                ticks = {"start": round(start / NANOSECONDS), "end": round(end / NANOSECONDS), "time_base": NANOSECONDS}
                chapters.append({**chapter, **ticks})
        if chapters and chapters[0]["start"] > 0 and CONTAINERS[self._suffix] in ("mp4", "mov"):  # there they begin at 0
            chapters.insert(
                0, {"id": 0, "start": 0, "end": chapters[0]["start"], "time_base": NANOSECONDS, "metadata": {"title": ""}}
            )
        if chapters:
            container.set_chapters(chapters)

    def _note_packets(self, track: Track) -> None:
        stream, name = track.stream, name_of(track.stream)
        if damaged := track.left_out["damaged"]:
            self.notes.append(f"{name}: {_packets(damaged)} left out, damaged")
        if early := track.left_out["early"]:
            self.notes.append(f"{name}: {_packets(early)} from before the first picture left out; .mp4 can hold them")
        elif track.earliest < -NOT_HEARD:
            self.notes.append(f"{name}: {float(-track.earliest):.2f} s from before the first picture kept, but not played")
        if stream.duration and stream.type == "audio" and self._span[1] is None:
            stated = ((stream.start_time or 0) + stream.duration) * stream.time_base
            if track.reached < stated - CUT_SHORT:
                self.notes.append(f"{name} is cut off: it ends at {float(track.reached):.2f} of {float(stated):.2f} s")


def sound_note(source: VideoFile) -> str | None:
    """The note for an output of pictures alone; None if the source has neither sound nor subtitles."""
    try:
        with open_video(source) as (container, _):
            kinds = sorted({KINDS[stream.type] for stream in container.streams if stream.type in KINDS}, reverse=True)
    except (OSError, ValueError):
        return None
    return f"{' and '.join(kinds)} cannot be kept in PNG files; write .mp4 or .mkv to keep it" if kinds else None


def _packets(count: int) -> str:
    return "1 packet" if count == 1 else f"{count} packets"
