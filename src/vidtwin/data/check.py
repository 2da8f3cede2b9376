"""What is in a source of recordings: every one is decoded once, and counted, measured or named as unusable."""

import statistics
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidtwin.data.recording import Recording
from vidtwin.data.sources import left_out, recordings
from vidtwin.files import in_line
from vidtwin.frames.clips import frame_interval
from vidtwin.frames.shots import CutDetector
from vidtwin.processes import Pool
from vidtwin.video.read.decode import TableColumn, TarMember, VideoWarning
from vidtwin.video.read.reader import iter_frames, probe

File = Path | TarMember | TableColumn
Names = tuple[tuple[str, str], ...]  # (recording, what is the matter)


class Spread(NamedTuple):
    """Of the recordings that can be read."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class DataReport:
    """What `check_data` found.

    Attributes:
        clip_frames, sample_fps: what was asked for.
        recordings, usable: all; those that hold a clip.
        slower: recordings below `sample_fps`, which are used at every frame.
        too_short, broken, damaged: name and reason; hold no clip; cannot be read; can be read in part, and are used there.
        frames, hours, clips: sums over what can be read; clips do not overlap.
        width, height (pixels), fps, duration (seconds): of a recording.
        cuts: shot cuts in files that are not damaged, by `frames.shots.CutDetector`; cuts_per_minute.
        left_out: of a folder, how many files are no recordings, by suffix.
    """

    source: str
    clip_frames: int
    sample_fps: float | None
    recordings: int
    usable: int
    slower: int
    too_short: Names
    broken: Names
    damaged: Names
    frames: int
    hours: float
    clips: int
    width: Spread | None
    height: Spread | None
    fps: Spread | None
    duration: Spread | None
    cuts: int
    cuts_per_minute: float
    left_out: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, safe for JSON."""
        return {k: v._asdict() if isinstance(v := getattr(self, k), Spread) else v for k in asdict(self)}

    def table(self) -> str:
        """For people; a line each for what is counted, and for every recording that is not whole."""
        rate = "every frame" if self.sample_fps is None else f"{self.sample_fps:g} fps"
        lines = {
            "source": in_line(self.source),
            "recordings": f"{self.recordings:,}",
            "usable": f"{self.usable:,} hold a clip of {self.clip_frames} frames at {rate}",
            "too short": f"{len(self.too_short):,}",
            "broken": f"{len(self.broken):,}",
            "damaged": f"{len(self.damaged):,} used where they are whole",
            "frames": f"{self.frames:,}, {self.hours:.2f} hours",
            "clips": f"{self.clips:,} that do not overlap",
            "shot cuts": f"{self.cuts:,}, {self.cuts_per_minute:.2f} a minute",
        }
        if self.sample_fps is not None:
            lines["slower"] = f"{self.slower:,} below {rate}, used at every frame"
        for name, spread in (("width", self.width), ("height", self.height), ("fps", self.fps), ("seconds", self.duration)):
            if spread is not None:
                lines[name] = f"{spread.low:.4g} to {spread.high:.4g}, median {spread.median:.4g}"
        if self.left_out:
            kinds = [f"{in_line(suffix, 20)} {count:,}" for suffix, count in self.left_out.items()]
            more = f", {len(kinds) - 8} suffixes more" if len(kinds) > 8 else ""
            lines["left out"] = f"{sum(self.left_out.values()):,} files of other suffixes: {', '.join(kinds[:8])}{more}"
        rows = [f"{name:14}{value}" for name, value in lines.items()]
        for kind, names in (("too short", self.too_short), ("broken", self.broken), ("damaged", self.damaged)):
            rows += [f"{kind}: {in_line(name)}: {in_line(reason)}" for name, reason in names]
        return "\n".join(rows)


def check_data(
    source: str | Path,
    frames: int = 16,
    sample_fps: float | None = None,
    workers: int = 0,
    progress: Callable[[int, int], object] | None = None,
    cameras: Sequence[str] = (),
) -> DataReport:
    """Decode all recordings of a source once and report what training would meet.

    Args:
        source: see `sources.recordings`.
        frames, sample_fps: of a clip; None is every frame.
        workers: processes that decode; 0 decodes in this one. A script that asks for some needs the usual
            `if __name__ == "__main__":`.
        progress: called with (recordings done, recordings in all) after each file.
        cameras: of a LeRobot data set, see `sources.recordings`.

    Raises:
        FileNotFoundError, ValueError: of `recordings`; a number that is not positive.
        RuntimeError: a worker was killed, by a broken decoder or for want of memory.
    """
    if frames < 1 or workers < 0 or (sample_fps is not None and not sample_fps > 0):
        raise ValueError(f"frames={frames}, sample_fps={sample_fps}, workers={workers}: must be positive (workers may be 0)")
    files: dict[File, list[Recording]] = {}  # a file is decoded once, however many recordings are in it
    for recording in recordings(source, cameras=cameras):
        files.setdefault(recording.file, []).append(recording)
    total = sum(map(len, files.values()))

    found, done = _Found(frames, sample_fps), 0
    for facts, here in zip(_in_order(_examine, files, workers), files.values(), strict=True):
        for recording in here:
            found.add(facts, recording)
        done += len(here)
        if progress is not None:
            progress(done, total)

    parts, bad = found.parts, found.bad
    seconds, cuts = sum(part.seconds for part in parts), sum(part.cuts for part in parts)
    return DataReport(
        source=str(source),
        clip_frames=frames,
        sample_fps=sample_fps,
        recordings=total,
        usable=len(parts) - len(bad["too short"]),
        slower=found.slower,
        too_short=tuple(bad["too short"]),
        broken=tuple(bad["broken"]),
        damaged=tuple(bad["damaged"]),
        frames=sum(part.frames for part in parts),
        hours=seconds / 3600,
        clips=found.clips,
        width=_spread([part.width for part in parts]),
        height=_spread([part.height for part in parts]),
        fps=_spread([part.fps for part in parts]),
        duration=_spread([part.seconds for part in parts]),
        cuts=cuts,
        cuts_per_minute=60 * cuts / seconds if seconds else 0.0,
        left_out=left_out(source),
    )


@dataclass(frozen=True)
class _Facts:
    """Of a file: pixels, frames per second, seconds at which frames are shown, first frames of shots, a VideoWarning."""

    width: int
    height: int
    fps: Fraction
    times: np.ndarray
    cuts: list[int]
    damage: Exception | None


@dataclass(frozen=True)
class _Part:
    """Of a recording."""

    width: int
    height: int
    fps: float
    frames: int
    seconds: float
    cuts: int

    @staticmethod
    def of(facts: _Facts, recording: Recording) -> "_Part":
        times = facts.times[recording.start : recording.stop]
        seconds = float(times[-1] - times[0] + 1 / facts.fps) if len(times) else 0.0
        cuts = sum(recording.start < cut < recording.start + len(times) for cut in facts.cuts)
        return _Part(facts.width, facts.height, float(facts.fps), len(times), seconds, cuts)


def _examine(file: File) -> _Facts | Exception:
    try:
        info = probe(file)
        is_cut = CutDetector()
        times: list[float] = []
        cuts: list[int] = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for frame in iter_frames(file):
                if is_cut(frame.image):
                    cuts.append(len(times))
                times.append(float(frame.time))
        damage = next((w.message for w in caught if isinstance(w.message, VideoWarning)), None)
        return _Facts(info.width, info.height, info.fps, np.array(times), [] if damage else cuts, damage)
    except (ValueError, OSError) as error:
        return ValueError(str(error))  # as it is, it need not survive the way out of a worker


class _Found:
    """What the recordings so far are, held against what a clip needs."""

    def __init__(self, frames: int, sample_fps: float | None):
        self.frames, self.sample_fps = frames, sample_fps
        self.parts: list[_Part] = []
        self.bad: dict[str, list[tuple[str, str]]] = {"too short": [], "broken": [], "damaged": []}
        self.slower = self.clips = 0

    def add(self, facts: _Facts | Exception, recording: Recording) -> None:
        """Take in a recording, and what decoding its file gave."""
        if isinstance(facts, Exception) or recording.problem is not None:
            self.bad["broken"].append((recording.name, recording.problem or recording.reason(ValueError(str(facts)))))
            return
        part = _Part.of(facts, recording)
        needed = (self.frames - 1) * (1 if self.sample_fps is None else frame_interval(facts.fps, self.sample_fps)) + 1
        if part.frames < needed:
            self.bad["too short"].append((recording.name, f"{part.frames} frames, a clip needs {needed}"))
        if recording.length not in (None, part.frames):
            self.bad["damaged"].append((recording.name, f"has {part.frames} frames, the data set says {recording.length}"))
        elif facts.damage:
            self.bad["damaged"].append((recording.name, recording.reason(facts.damage)))
        self.slower += self.sample_fps is not None and facts.fps < self.sample_fps
        self.clips += part.frames // needed
        self.parts.append(part)


def _in_order(examine: Callable[[File], _Facts | Exception], files: Iterable[File], workers: int) -> Iterator[_Facts | Exception]:
    """`map` over processes, a few files ahead."""
    if workers == 0:
        yield from map(examine, files)
        return
    waiting: deque[tuple[File, Future[_Facts | Exception]]] = deque()

    def first() -> _Facts | Exception:
        file, future = waiting.popleft()
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(f"{file} or a file soon after it killed a worker; use fewer workers, or leave it out") from error

    with Pool(workers) as pool:
        try:
            for file in files:
                waiting.append((file, pool.submit(examine, file)))
                if len(waiting) == 4 * workers:
                    yield first()
            while waiting:
                yield first()
        finally:
            pool.shutdown(cancel_futures=True)


def _spread(values: list[float]) -> Spread | None:
    return Spread(min(values), statistics.median(values), max(values)) if values else None
