"""What is expected of an input, what came of it, and whether they agree."""

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from tests.tools.odd_inputs.launch import MEMORY, SECONDS, Ended
from tests.tools.odd_inputs.making import Make
from tests.tools.odd_inputs.media import Media, Track, matched

ERROR, WARNING, NOTE = "vidtwin: error: ", "vidtwin: warning: ", "note"
MICROSECOND = Fraction(1, 1_000_000)  # what FFmpeg tells the beginning of a file to
START_UP = 4096  # samples that a decoder may leave out, where one container says so and another does not
MILLISECONDS = (".mkv", ".webm")  # containers that store times so


@dataclass(frozen=True)
class Gives:
    """A video of that many frames, as many as the source has, at its times.

    notes: a part of each note and warning that is printed; there may be no others. sound, subtitles, chapters: how many of them the
    output has. lost: packets of sound that may be missing, because a note says so. steady: all frames are shown equally long.
    """

    frames: int
    size: tuple[int, int] = (224, 224)
    notes: tuple[str, ...] = ()
    sound: int = 0
    aspect: Fraction = Fraction(1)
    subtitles: int = 0
    chapters: int = 0
    lost: int = 0
    steady: bool = True


@dataclass(frozen=True)
class Refuses:
    """An error of one line that says this."""

    says: str
    code: int = 1


@dataclass(frozen=True)
class Row:
    """An input, in the words of a user; `make` makes it. expect: None for either a video or an error that are in order.

    options: of the command. piped: the input comes through a pipe, and the output goes to standard output.
    """

    name: str
    make: Make
    expect: Gives | Refuses | None
    options: tuple[str, ...] = ()
    out: str = "out.mp4"
    piped: bool = False
    skip: Callable[[], str] = lambda: ""  # why it cannot be run here


@dataclass(frozen=True)
class Result:
    """What came of a row: what was printed, what lies in the folder, and the video if there is one, or why it cannot be read.

    upright: of an output that has the source's size.
    """

    ended: Ended
    stdout: str
    stderr: str
    files: list[str] = field(default_factory=list)
    source: Media | None = None
    output: Media | None = None
    broken: str = ""
    upright: bool = True

    @property
    def error(self) -> str:
        """The line that is shown of what went to standard error."""
        lines = [line for line in self.stderr.splitlines() if not line.startswith(WARNING)]
        return lines[-1].removeprefix(ERROR) if lines else ""

    @property
    def notes(self) -> list[str]:
        """Notes and warnings, without the names of files."""
        lines = [*self.stdout.splitlines(), *self.stderr.splitlines()]
        notes = [line[len(NOTE) :].strip() for line in lines if line.startswith(NOTE + " ")]
        warnings = [line.removeprefix(WARNING) for line in lines if line.startswith(WARNING)]
        return [*notes, *(f"warning: {text.split(': ', 1)[-1]}" for text in warnings)]


def faults(row: Row, result: Result) -> list[str]:
    """What is not as expected, one clause each; none if all is."""
    found, expect, ended = [], row.expect, result.ended
    if ended.code < 0:
        found.append(f"ended by signal {-ended.code}")
    if ended.seconds > SECONDS or ended.peak > MEMORY / 2**20:
        found.append(f"took {ended.seconds} s and {ended.peak} MiB")
    if ended.code == 0:
        if isinstance(expect, Refuses):
            found.append(f"no error that says {expect.says!r}")
        found += video_faults(row, result, expect if isinstance(expect, Gives) else None)
    else:
        if isinstance(expect, Gives):
            found.append("no video")
        found += refusal_faults(result, expect if isinstance(expect, Refuses) else None)
    return found


def refusal_faults(result: Result, expect: Refuses | None) -> list[str]:
    """An error is one line on standard error that says what to do; nothing is left behind."""
    found = []
    lines = [line for line in result.stderr.splitlines() if not line.startswith(WARNING)]
    if result.ended.code not in ((expect.code,) if expect else (1, 2)):
        found.append(f"exit code {result.ended.code}")
    if len(lines) != 1 or not lines[0].startswith(ERROR):
        found.append(f"{len(lines)} lines of error")
    elif "; " not in result.error:
        found.append("no remedy")
    if result.stdout:
        found.append("something on standard output")
    if result.files:
        found.append(f"left behind: {', '.join(result.files)}")
    if expect is not None and expect.says not in result.error:
        found.append(f"the error does not say {expect.says!r}")
    return found


def video_faults(row: Row, result: Result, expect: Gives | None) -> list[str]:
    """A video has the frames, times and sound of its source, and what is not kept is said."""
    source, output = result.source, result.output
    if source is None or output is None:
        return [f"the output cannot be read: {result.broken}"]
    found = []
    if result.files != [row.out]:
        found.append(f"in the folder: {', '.join(result.files)}")
    if result.error and not row.piped:
        found.append(f"on standard error: {result.error}")
    if len(output.times) != len(source.times):
        found.append(f"{len(source.times)} frames in, {len(output.times)} out")
    elif timing_error(source, output) > (Fraction(1, 1000) if Path(row.out).suffix in MILLISECONDS else 0):
        found.append(f"times differ by up to {float(timing_error(source, output)):.6f} s")
    if not -Fraction(1, 5) <= begin(output) <= Fraction(1, 1000):
        found.append(f"begins at {float(begin(output)):.3f} s")
    if not result.upright:
        found.append("the picture is turned or mirrored")
    if len(pairs(source, output)) < len(output.tracks):
        found.append("a track that the source does not have")
    found += [fault for before, after in pairs(source, output) for fault in track_faults(before, after, source, output)]
    return found if expect is None else [*found, *differences(expect, result, source, output)]


def differences(expect: Gives, result: Result, source: Media, output: Media) -> list[str]:
    """From what the row states."""
    counts = [sum(track.kind == kind for track in output.tracks) for kind in ("audio", "subtitle")]
    lost = sum(len(before.packets) - len(matched(before, after)) for before, after in pairs(source, output))
    facts = {
        "frames": (len(output.times), expect.frames),
        "size": (output.size, expect.size),
        "pixel aspect": (output.aspect, expect.aspect),
        "tracks of sound": (counts[0], expect.sound),
        "tracks of subtitles": (counts[1], expect.subtitles),
        "chapters": (len(output.chapters), expect.chapters),
        "packets lost": (lost, expect.lost),
        "steady": (is_steady(output), expect.steady),
        "notes": (len(result.notes), len(expect.notes)),
    }
    found = [f"{name}: {is_} instead of {should}" for name, (is_, should) in facts.items() if is_ != should]
    found += [f"no note that says {text!r}" for text in expect.notes if not any(text in note for note in result.notes)]
    if expect.chapters and not found:
        same = all(
            a[2] == b[2] and abs(a[0] - b[0]) < Fraction(1, 100) for a, b in zip(source.chapters, output.chapters, strict=False)
        )
        found += [] if same else ["chapters are others"]
    return found


def is_steady(media: Media) -> bool:
    """Whether frames follow one another after equal times, as far as containers that round to milliseconds can tell."""
    steps = [after - before for before, after in pairwise(media.times)]
    return not steps or max(steps) - min(steps) <= Fraction(2, 1000)


def timing_error(source: Media, output: Media) -> Fraction:
    """Seconds by which a frame is shown too early or too late, measured from the first one."""
    shift = source.times[0] - output.times[0]
    return max((abs(a - b - shift) for a, b in zip(source.times, output.times, strict=False)), default=Fraction(0))


def begin(media: Media) -> Fraction:
    """Seconds at which its picture or its sound begins."""
    return min([media.times[0], *(track.packets[0][1] for track in media.tracks if track.kind == "audio" and track.packets)])


def pairs(source: Media, output: Media) -> list[tuple[Track, Track]]:
    """Tracks of the output, each with the one of the source that it is a copy of."""
    left, found = list(source.tracks), []
    for after in output.tracks:
        alike = [track for track in left if track.kind == after.kind]
        best = max(alike, key=lambda track: len(matched(track, after)), default=None)
        if best is not None:
            left.remove(best)
            found.append((best, after))
    return found


def track_faults(before: Track, after: Track, source: Media, output: Media) -> list[str]:
    """Packets that are not the source's, or not where they were beside the picture."""
    same, name = matched(before, after), f"{after.kind} ({after.codec})"
    if len(same) < len(after.packets) and not before.codec.startswith("pcm"):
        return [f"{name}: {len(after.packets) - len(same)} packets are not the source's"]
    shift = source.times[0] - output.times[0]
    worst = max((abs(a - b - shift) for a, b in same), default=Fraction(0))
    allowed = Fraction(3, 2000) if after.unit == Fraction(1, 1000) else after.unit + MICROSECOND
    found = [f"{name}: {float(worst):.6f} s beside the picture"] if worst > allowed else []
    if len(same) == len(before.packets) and after.samples < before.samples - START_UP:
        found.append(f"{name}: {after.samples} of {before.samples} samples can be decoded")
    return found
