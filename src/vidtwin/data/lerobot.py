"""Episodes of a LeRobot data set, v2 or v3: which frames of which file, for each camera; cameras stored as videos or as images."""

import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vidtwin.checked import fact, parse_json
from vidtwin.data.folders import files_below
from vidtwin.data.recording import Columns, Recording
from vidtwin.files import check_regular, in_line
from vidtwin.video.read.decode import TableColumn
from vidtwin.video.read.random_access import timestamp
from vidtwin.video.read.reader import frame_count, probe
from vidtwin.video.read.tables import numbers

FIELD = re.compile(r"\{(\w+)(?::0(\d)d)?\}")  # {name} or {name:03d}
DEPTH = re.compile(r"(?<![a-z])depth(?![a-z])", re.IGNORECASE)
PLACE = ("chunk_index", "file_index")  # of an episode's file, in v3
SPAN = ("from_timestamp", "to_timestamp")  # of an episode in a file of videos
CLOSE = 1e-4  # seconds that stated times may be off, as in LeRobot
LEAST_FPS = 1e-3
MOST_INDEX = 2**30  # bytes of a file of meta
MOST_EPISODES = 1_000_000


@dataclass(frozen=True)
class _Index:
    """What meta/info.json says. videos, images: names of the cameras that are stored so."""

    folder: Path
    version: str
    fps: float
    chunk_size: int
    paths: dict[str, str | None]
    videos: list[str]
    images: list[str]

    @property
    def meta(self) -> Path:
        return self.folder / "meta" / "info.json"

    @cached_property
    def rate(self) -> Fraction:
        """Frames per second."""
        return Fraction(self.fps).limit_denominator(100_000)

    def path(self, kind: str, names: dict[str, Any]) -> Path:
        """The file that a template, "video_path" or "data_path", names; it must lie inside the data set."""
        template = self.paths[kind]
        if template is None:
            raise ValueError(f"{self.meta}: not the index of a LeRobot data set ({kind} is missing); get it again")

        def value(match: re.Match[str]) -> str:
            name, digits = match.groups()
            if name not in names:
                raise ValueError(f"{self.meta}: {kind} {template!r} asks for {{{name}}}; known are {', '.join(names)}")
            return f"{names[name]:0{digits}d}" if digits else str(names[name])

        path = PurePosixPath(FIELD.sub(value, template))
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{self.meta}: {kind} {in_line(path)!r} points outside the data set; do not use this data set")
        return self.folder / path


def episodes(folder: Path, cameras: Sequence[str] = ()) -> Iterator[Recording]:
    """A recording for each episode and camera; `cameras` by their names, or what follows the last dot; default all but depth maps.

    In v3 a file holds several episodes. Of a video the frames of one are those whose time lies in [from, to) of its index; so each
    video is opened, and its timestamps are read. An episode that cannot be found so has a `problem`.

    Raises:
        FileNotFoundError: a part of the index is missing, or there are no cameras.
        ValueError: the index is damaged, or of another version, or names files outside the folder; no such camera.
    """
    index = _read_index(folder, cameras)
    if index.version.startswith("v2."):
        yield from _episodes_v2(index)
    elif index.version.startswith("v3."):
        yield from _episodes_v3(index)
    else:
        version = in_line(index.version)
        raise ValueError(f"{index.meta}: codebase_version {version} is not read; convert the data set to v2.1 or v3.0")


def _read_index(folder: Path, cameras: Sequence[str]) -> _Index:
    meta = folder / "meta" / "info.json"
    try:
        check_regular(meta, MOST_INDEX)
        info = parse_json(meta.read_bytes())
        version, fps = fact(info, "codebase_version", str), fact(info, "fps", float, LEAST_FPS)
        chunk_size = fact(info, "chunks_size", int, 1)
        features = fact(info, "features", dict)
        kinds = {name: fact(feature, "dtype", str) for name, feature in features.items()}
        kinds = {name: kind for name, kind in sorted(kinds.items()) if kind in ("video", "image")}
        paths = {name: fact(info, name, str) if info.get(name) is not None else None for name in ("video_path", "data_path")}
    except ValueError as error:
        raise ValueError(f"{meta}: not the index of a LeRobot data set with videos ({error}); get it again") from error
    if not kinds:
        raise FileNotFoundError(f"{folder}: the data set has no videos (features of dtype video or image); choose one with cameras")
    chosen = _chosen(folder, kinds, cameras) if cameras else [name for name in kinds if not _is_depth(name, features[name])]
    if not chosen:
        raise FileNotFoundError(f"{folder}: has no videos but depth maps ({in_line(', '.join(kinds))}); name one with cameras")
    videos, images = ([name for name in kinds if kinds[name] == kind and name in chosen] for kind in ("video", "image"))
    return _Index(folder, version, float(fps), chunk_size, paths, videos, images)


def _chosen(folder: Path, there: Sequence[str] | dict[str, str], cameras: Sequence[str]) -> list[str]:
    chosen = []
    for camera in cameras:
        named = [name for name in there if camera == name] or [name for name in there if name.endswith(f".{camera}")]
        if len(named) != 1:
            raise ValueError(f"cameras={camera!r}: {folder} has {in_line(', '.join(there))}; choose of these")
        chosen += named
    return chosen


def _is_depth(name: str, feature: dict[str, Any]) -> bool:
    """As the feature's own facts say, else as its name does."""
    for about in (feature.get("info"), feature.get("video_info"), feature):
        for key in ("is_depth_map", "video.is_depth_map"):
            if isinstance(about, dict) and isinstance(about.get(key), bool):
                return bool(about[key])
    return DEPTH.search(name) is not None


def _episodes_v2(index: _Index) -> Iterator[Recording]:
    path = index.folder / "meta" / "episodes.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the data set is incomplete, get it again")
    lengths: dict[int, int | None] = {}
    try:
        check_regular(path, MOST_INDEX)
        for line in path.read_text(encoding="utf-8").split("\n"):  # text in it may hold other ends of lines
            if line.strip():
                row = parse_json(line)
                number, length = fact(row, "episode_index", int, 0), fact(row, "length", int, 1) if "length" in row else None
                if number in lengths:
                    raise ValueError(f"episode {number} appears twice")
                lengths[number] = length
    except ValueError as error:
        raise ValueError(f"{path}: not a list of episodes ({error}); get it again") from error
    for episode, length in sorted(lengths.items()):
        for camera in sorted((*index.videos, *index.images)):
            names = {"episode_chunk": episode // index.chunk_size, "episode_index": episode, "video_key": camera}
            columns = (("episode_index", episode), ("camera", camera))
            if camera in index.videos:
                yield Recording(index.path("video_path", names), columns=columns, length=length)
            else:
                table = _Table(index.path("data_path", names))
                yield table.recording(camera, index.rate, episode, columns, length)


def _episodes_v3(index: _Index) -> Iterator[Recording]:
    clocks: dict[Path, _Clock] = {}
    tables: dict[Path, _Table] = {}
    for row in _rows_v3(index):
        episode = row["episode_index"]
        for camera in sorted((*index.videos, *index.images)):
            own = f"videos/{camera}" if camera in index.videos else "data"
            chunk, number = (row[f"{own}/{column}"] for column in PLACE)
            names = {"chunk_index": chunk, "file_index": number, "video_key": camera}
            columns = (("episode_index", episode), ("camera", camera))
            if camera in index.images:
                path = index.path("data_path", names)
                if path not in tables:
                    tables[path] = _Table(path)
                yield tables[path].recording(camera, index.rate, episode, columns, row.get("length"))
                continue
            begin, end = (row[f"{own}/{column}"] for column in SPAN)
            if not 0 <= begin < end < math.inf:
                raise ValueError(f"{index.folder}: episode {episode}: {camera} from {begin} to {end} s is no range")
            path = index.path("video_path", names)
            if path not in clocks:
                clocks[path] = _Clock(path)
            yield clocks[path].recording(begin, end, index.fps, columns, row.get("length"))


def _rows_v3(index: _Index) -> list[dict[str, Any]]:
    whole, real = ["episode_index"], []
    for camera in index.videos:
        whole += [f"videos/{camera}/{column}" for column in PLACE]
        real += [f"videos/{camera}/{column}" for column in SPAN]
    whole += [f"data/{column}" for column in PLACE] if index.images else []
    rows: dict[int, dict[str, Any]] = {}
    for path in files_below(index.folder / "meta" / "episodes"):
        if path.suffix.lower() != ".parquet":
            continue
        table = numbers(path, whole, real, ["length"])
        if len(rows) + table.num_rows > MOST_EPISODES:
            raise ValueError(f"{path}: states more than {MOST_EPISODES:,} episodes with those before; split the data set")
        for row in table.to_pylist():
            if row["episode_index"] in rows:
                raise ValueError(f"{path}: episode {row['episode_index']} appears twice; get the data set again")
            if any(isinstance(value, int) and value < 0 for value in row.values()):
                raise ValueError(f"{path}: episode {row['episode_index']} has a number below 0; get the data set again")
            rows[row["episode_index"]] = row
    if not rows:
        raise FileNotFoundError(f"{index.folder / 'meta' / 'episodes'}: no episodes (.parquet) in it; get the data set again")
    return [rows[number] for number in sorted(rows)]


class _Clock:
    """The frames of a video file, by the times at which they are shown."""

    def __init__(self, file: Path):
        self.file, self.problem = file, ""
        try:
            self.count, self.time_base = frame_count(file), probe(file).time_base
            if timestamp(file, 0) is None:
                self.problem = "has no timestamps to find episodes by; convert it to MP4"
        except (OSError, ValueError) as error:
            self.problem = Recording(file).reason(error)

    def recording(self, begin: float, end: float, fps: float, columns: Columns, length: int | None) -> Recording:
        """The frames shown from `begin` until before `end`, in seconds of the file's clock."""
        length = round((end - begin) * fps) if length is None else length
        first, stop = (0, 0) if self.problem else (self._first_at(begin), self._first_at(end))
        problem = self.problem or ("" if first < stop else f"has no frames from {begin:g} to {end:g} s; get the data set again")
        if problem:
            first = round(begin * fps)  # for its name
            return Recording(self.file, first, first + max(1, length), columns, length, problem)
        return Recording(self.file, first, stop, columns, length)

    def _first_at(self, seconds: float) -> int:
        """The number of the first frame at or after a time, which may be rounded to ticks of a millisecond."""
        early = seconds - min(max(CLOSE, float(self.time_base)), 1e-3)
        return bisect_left(range(self.count), early, key=lambda number: float((timestamp(self.file, number) or 0) * self.time_base))


class _Table:
    """The rows of a Parquet file of frames, by episode."""

    def __init__(self, path: Path):
        self.path, self.problem = path, ""
        self.spans: dict[int, tuple[int, int]] = {}
        try:
            table = numbers(path, ["episode_index", "frame_index"])
            episode, frame = (table[name].to_numpy() for name in ("episode_index", "frame_index"))
        except (OSError, ValueError) as error:
            self.problem = Recording(path).reason(error)
            return
        begins = np.flatnonzero(np.diff(episode, prepend=episode[:1] - 1))
        for first, stop in pairwise((*begins.tolist(), len(episode))):
            number = int(episode[first])
            whole = number not in self.spans and (frame[first:stop] == np.arange(stop - first)).all()
            self.spans[number] = (first, stop) if whole else (first, first)

    def recording(self, camera: str, rate: Fraction, episode: int, columns: Columns, length: int | None) -> Recording:
        """The pictures of an episode."""
        file, (first, stop) = TableColumn(self.path, camera, rate), self.spans.get(episode, (0, 0))
        problem = self.problem
        if not problem and first == stop:
            problem = f"its rows of episode {episode} are not frames 0, 1, ... in order; get the data set again"
        return Recording(file, first, max(stop, first + 1), columns, length, problem or None)
