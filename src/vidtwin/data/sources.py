"""Where recordings come from: a folder of videos, a list (.csv, .txt), WebDataset tars, or a LeRobot data set.

Listing opens no video: what cannot be read shows when it is drawn, or in `vidtwin check-data`.
"""

import csv
import json
import math
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vidtwin.video.read.decode import TarMember

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".ogv", ".gif")
COLUMN = "videos"  # of a .csv
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")  # shards-{000..010}.tar
NUMBERED = re.compile(rf"^(.*(?:{'|'.join(map(re.escape, SUFFIXES))}))[ \t]+\d+$", re.IGNORECASE)  # "a/b.avi 12"
FIELD = re.compile(r"\{(\w+)(?::0(\d)d)?\}")  # {name} or {name:03d}
KINDS = "a folder of videos, a .csv, a .txt, a .tar, shards-{000..010}.tar or a LeRobot data set"


@dataclass(frozen=True, slots=True)
class Recording:
    """Frames start..stop-1 (to the end if None) of a video: a file, or a member of a tar.

    `columns`: what else the source says of it, by name: other columns of a .csv, a LeRobot episode and its camera.
    """

    file: Path | TarMember
    start: int = 0
    stop: int | None = None
    columns: tuple[tuple[str, str | int | float], ...] = field(default=(), compare=False)

    @property
    def name(self) -> str:
        """For messages and lists: "a.mp4", "shard.tar!a.mp4", "a.mp4[100:200]"."""
        if self.start == 0 and self.stop is None:
            return str(self.file)
        return f"{self.file}[{self.start}:{'' if self.stop is None else self.stop}]"

    def reason(self, error: Exception) -> str:
        """What an error about the file says, in one line, without the file's name."""
        text = " ".join(str(error).split()) or type(error).__name__
        return text.removeprefix(f"{self.file}: ").removeprefix(f"{os.path.abspath(str(self.file))}: ")


def recordings(source: str | Path, root: str | Path | None = None) -> list[Recording]:
    """All recordings of a source, in an order that depends on its content alone.

    Kinds, told apart by what the path is:
        folder of videos: files with a video's suffix, subfolders included, sorted.
        .csv with a column "videos", .txt with a path a line (blank lines and # comments ignored): relative to `root`, default the
            list's folder, or absolute. Listed files need not be there yet. The split files of UCF-101 are such lists; the
            number of a class that follows a path there is passed over.
        WebDataset: a .tar, a folder with tars and no videos, or a pattern such as shards-{000..010}.tar. Every member with a
            video's suffix is a recording, decoded in place; the tars must not be compressed.
        LeRobot data set, v2 or v3 (a folder with meta/info.json): every camera of every episode.

    Raises:
        FileNotFoundError: the path, a shard or a part of the data set's index is missing, or there are no videos in it.
        ValueError: none of these kinds, or a damaged list, tar or index; a path in a LeRobot data set that leads out of it.
    """
    path = Path(source)
    if BRACES.search(str(source)) and not path.exists():
        found = [member for shard in expand_braces(str(source)) for member in _tar_members(Path(shard))]
    elif not path.exists():
        raise FileNotFoundError(f"{source}: no such file or folder; give {KINDS}")
    elif (path / "meta" / "info.json").is_file():
        found = list(_lerobot(path))
    elif path.is_dir():
        found = _folder(path)
    elif path.suffix.lower() in (".csv", ".txt"):
        found = _listed(path, path.parent if root is None else Path(root))
    elif path.suffix.lower() == ".tar":
        found = _tar_members(path)
    else:
        raise ValueError(f"{source}: not a source of videos; give {KINDS}")
    if not found:
        raise FileNotFoundError(f"{source}: no videos in it; give {KINDS}")
    return found


def find_videos(folder: str | Path) -> list[Path]:
    """The video files of a folder and its subfolders, by suffix, sorted.

    Raises:
        FileNotFoundError: no such folder, or no video in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give a folder of videos")
    videos = _files(folder, SUFFIXES)
    if not videos:
        raise FileNotFoundError(f"{folder}: no videos ({', '.join(SUFFIXES)}) in it or its subfolders")
    return videos


def expand_braces(pattern: str) -> list[str]:
    """ "s-{08..10}.tar" -> ["s-08.tar", "s-09.tar", "s-10.tar"]; several ranges: the last one runs fastest."""
    match = BRACES.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return [text for number in numbers for text in expand_braces(pattern[: match.start()] + number + pattern[match.end() :])]


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())


def _folder(folder: Path) -> list[Recording]:
    tars = _files(folder, (".tar",))
    videos = find_videos(folder) if not tars else _files(folder, SUFFIXES)
    if videos:
        return [Recording(path) for path in videos]
    return [member for tar in tars for member in _tar_members(tar)]


def _listed(path: Path, root: Path) -> list[Recording]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".txt":
                return [Recording(root / line) for line in listed_lines(file)]
            rows = csv.DictReader(file)
            if COLUMN not in (rows.fieldnames or []):
                raise ValueError(f"{path}: no column {COLUMN!r}, only {', '.join(rows.fieldnames or []) or 'none'}; rename one")
            listed = []
            for row in rows:
                if not row[COLUMN]:
                    raise ValueError(f"{path}: line {rows.line_num} has no path in column {COLUMN!r}; fill it in or delete it")
                others = tuple((name, row[name] or "") for name in row if name not in (COLUMN, None))
                listed.append(Recording(root / row[COLUMN], columns=others))
            return listed
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a list of paths in UTF-8 ({error}); write it again") from error


def listed_lines(file: Iterable[str]) -> list[str]:
    """The paths of a .txt list."""
    lines = (line.strip() for line in file)
    return [NUMBERED.sub(r"\1", line) for line in lines if line and not line.startswith("#")]


def _tar_members(tar: Path) -> list[Recording]:
    if not tar.is_file():
        raise FileNotFoundError(f"{tar}: no such tar; check the name or the pattern")
    try:
        with tarfile.open(tar, "r:") as file:
            return [
                Recording(TarMember(tar, member.name, member.offset_data, member.size))
                for member in file
                if member.isreg() and not member.issparse() and member.name.lower().endswith(SUFFIXES)
            ]
    except tarfile.TarError as error:
        raise ValueError(f"{tar}: not a whole, uncompressed tar ({error}); unpack it with gunzip or get it again") from error


def _lerobot(folder: Path) -> Iterator[Recording]:
    """One recording per episode and camera; in v3 a file holds several episodes, told apart by their times."""
    meta = folder / "meta" / "info.json"
    try:
        info = json.loads(meta.read_text())
        version, template = str(info["codebase_version"]), str(info["video_path"])
        cameras = sorted(key for key, feature in info["features"].items() if feature["dtype"] == "video")
        fps, chunk_size = float(info["fps"]), int(info["chunks_size"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{meta}: not the index of a LeRobot data set with videos ({error!r}); get it again") from error
    if not (0 < fps < math.inf and chunk_size > 0):
        raise ValueError(f"{meta}: fps={fps:g} and chunks_size={chunk_size} must be positive; get it again")
    if not cameras:
        raise FileNotFoundError(f"{folder}: the data set has no videos (features of dtype video); choose one with cameras")
    if version.startswith("v2."):
        for episode in _episodes_v2(folder / "meta" / "episodes.jsonl"):
            for camera in cameras:
                names = {"episode_chunk": episode // chunk_size, "episode_index": episode, "video_key": camera}
                columns = (("episode_index", episode), ("camera", camera))
                yield Recording(folder / _fill(template, names, meta), columns=columns)
    elif version.startswith("v3."):
        for row in _episodes_v3(folder, cameras):
            for camera in cameras:
                chunk, number, begin, end = (row[f"videos/{camera}/{column}"] for column in PLACE)
                names = {"chunk_index": chunk, "file_index": number, "video_key": camera}
                if not 0 <= begin < end < math.inf:
                    raise ValueError(f"{folder}: episode {row['episode_index']}: {camera} from {begin} to {end} s is no range")
                columns = (("episode_index", int(row["episode_index"])), ("camera", camera))
                yield Recording(folder / _fill(template, names, meta), round(begin * fps), round(end * fps), columns)
    else:
        raise ValueError(f"{meta}: codebase_version {version} is not read; convert the data set to v2.1 or v3.0")


PLACE = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")  # of an episode's video, in v3


def _episodes_v2(path: Path) -> list[int]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the data set is incomplete, get it again")
    try:
        return sorted(int(json.loads(line)["episode_index"]) for line in path.read_text().splitlines() if line)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a list of episodes ({error!r}); get it again") from error


def _episodes_v3(folder: Path, cameras: list[str]) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, float64, int64, schema
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(f"{folder}: LeRobot v3 needs pyarrow; install it with: pip install 'vidtwin[train]'") from error
    columns = {"episode_index": int64()}
    for camera in cameras:
        columns |= {f"videos/{camera}/{column}": float64() if "timestamp" in column else int64() for column in PLACE}
    rows: list[dict[str, Any]] = []
    for path in _files(folder / "meta" / "episodes", (".parquet",)):
        try:
            with ParquetFile(path) as file:
                table = file.read(list(columns))
            absent = [column for column in columns if column not in table.column_names or table[column].null_count]
            if absent:
                raise ValueError(f"{path}: column {absent[0]} is missing or has gaps; get the data set again")
            rows += table.select(list(columns)).cast(schema(columns)).to_pylist()
        except (ArrowException, OSError) as error:
            raise ValueError(f"{path}: not a readable list of episodes ({str(error).splitlines()[0]}); get it again") from error
    if not rows:
        raise FileNotFoundError(f"{folder / 'meta' / 'episodes'}: no episodes (.parquet) in it; get the data set again")
    return sorted(rows, key=lambda row: row["episode_index"])


def _fill(template: str, names: dict[str, Any], meta: Path) -> PurePosixPath:
    """The path that a template of info.json makes, which must stay inside the data set."""

    def value(match: re.Match[str]) -> str:
        name, digits = match.groups()
        if name not in names:
            raise ValueError(f"{meta}: video_path {template!r} asks for {{{name}}}; known are {', '.join(names)}")
        return f"{names[name]:0{digits}d}" if digits else str(names[name])

    path = PurePosixPath(FIELD.sub(value, template))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{meta}: video_path {str(path)!r} leads out of the data set; do not use this data set")
    return path
