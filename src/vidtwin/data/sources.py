"""Where recordings come from: a folder of videos, a list (.csv, .txt), WebDataset tars, or a LeRobot data set.

Listing opens no video, but those of LeRobot v3, in which episodes are found by their times: what cannot be read shows when it is
drawn, or in `vidtwin check-data`.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from pathlib import Path

from vidtwin.data.folders import SUFFIXES, files_below, find_videos, is_litter, is_video, videos_of
from vidtwin.data.lerobot import episodes
from vidtwin.data.recording import Recording
from vidtwin.data.tars import tar_members
from vidtwin.files import check_regular, in_line

__all__ = ["Recording", "expand_braces", "find_videos", "left_out", "listed", "recordings"]

COLUMN = "videos"  # of a .csv
LISTS = (".csv", ".txt")
BRACES = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")  # shards-{000..010}.tar
NUMBERED = re.compile(rf"^(.*(?:{'|'.join(map(re.escape, SUFFIXES))}))[ \t]+\d+$", re.IGNORECASE)  # "a/b.avi 12"
KINDS = "a folder of videos, a .csv, a .txt, a .tar, shards-{000..010}.tar or a LeRobot data set"
MOST_SHARDS = 100_000  # that a pattern may name
MOST_LIST = 2**28  # bytes of a list
MOST_LINE = 2**16  # characters of a line of it


def recordings(source: str | Path, root: str | Path | None = None, cameras: Sequence[str] = ()) -> list[Recording]:
    """All recordings of a source, in an order that depends on its content alone.

    Kinds, told apart by what the path is:
        folder of videos: files with a video's suffix, subfolders and linked folders included, sorted.
        .csv with a column "videos", .txt with a path a line (blank lines and # comments ignored): relative to `root`, default the
            list's folder, or absolute. Listed files need not be there yet. The split files of UCF-101 are such lists; the
            number of a class that follows a path there is passed over.
        WebDataset: a .tar, a folder with tars and no videos, or a pattern such as shards-{000..010}.tar. Every member with a
            video's suffix is a recording, decoded in place; the tars must not be compressed.
        LeRobot data set, v2 or v3 (a folder with meta/info.json): every episode of each of `cameras`, default all but depth maps.

    What systems put beside files ("._a.mp4", "__MACOSX") is ignored everywhere. A tar that is damaged, or an episode without
    frames, has a `problem`.

    Raises:
        FileNotFoundError: the path, a shard or a part of the data set's index is missing, or there are no videos in it.
        OSError: a list or tar is no regular file, or cannot be read.
        ValueError: none of these kinds, or a damaged list or index, or nothing but damaged tars; a path in a LeRobot data set that
            leads out of it; `cameras` that are not there, or of another source.
    """
    path = Path(source)
    lerobot = (path / "meta" / "info.json").is_file()
    if cameras and not lerobot:
        raise ValueError(f"cameras={', '.join(cameras)!r}: is for LeRobot data sets; {source} is none; leave it out")
    if BRACES.search(str(source)) and not path.exists():
        found = _shards([Path(shard) for shard in expand_braces(str(source))])
    elif not path.exists():
        raise FileNotFoundError(f"{source}: no such file or folder; give {KINDS}")
    elif lerobot:
        found = list(episodes(path, cameras))
    elif path.is_dir():
        found = _folder(path)
    elif path.suffix.lower() in LISTS:
        base = path.parent if root is None else Path(root)
        found = [Recording(base / name, columns=columns) for name, columns in listed(path)]
    elif path.suffix.lower() == ".tar":
        found = _shards([path])
    else:
        raise ValueError(f"{source}: not a source of videos; give {KINDS}")
    if not found:
        raise FileNotFoundError(f"{source}: no videos in it; give {KINDS}")
    return found


def expand_braces(pattern: str) -> list[str]:
    """ "s-{08..10}.tar" -> ["s-08.tar", "s-09.tar", "s-10.tar"]; several ranges: the last one runs fastest.

    Raises ValueError for a range that falls, and for more than MOST_SHARDS names.
    """
    ranges = [(int(first), int(last)) for first, last in BRACES.findall(pattern)]
    if any(last < first for first, last in ranges):
        raise ValueError(f"{in_line(pattern)}: a descending range; write the smaller number first")
    if prod(last - first + 1 for first, last in ranges) > MOST_SHARDS:
        raise ValueError(f"{in_line(pattern)}: names more than {MOST_SHARDS:,} tars; give a smaller range, or their folder")
    return _expanded(pattern)


def _expanded(pattern: str) -> list[str]:
    match = BRACES.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return [text for number in numbers for text in _expanded(pattern[: match.start()] + number + pattern[match.end() :])]


def left_out(source: str | Path) -> dict[str, int]:
    """How many files of a folder are no recordings, by suffix, the most frequent first; nothing for other sources."""
    path = Path(source)
    if not path.is_dir() or (path / "meta" / "info.json").is_file():
        return {}
    files = files_below(path)
    taken = set(videos_of(files)) or {file for file in files if file.suffix.lower() == ".tar"}
    return dict(Counter(file.suffix.lower() or "no suffix" for file in files if file not in taken).most_common())


def _folder(folder: Path) -> list[Recording]:
    files = files_below(folder)
    if videos := videos_of(files):
        return [Recording(path) for path in videos]
    return _shards([path for path in files if path.suffix.lower() == ".tar"])


def listed(path: Path) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """The paths, or URLs, of a list as they are, each with its other columns; what systems put beside files is left out.

    Raises:
        OSError: the list is missing, no regular file, or cannot be read.
        ValueError: it is too large, is not UTF-8, has no column "videos", or a line without a path.
    """
    check_regular(path, MOST_LIST)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, (name, columns) in enumerate(_rows(path, file) if path.suffix.lower() == ".csv" else _lines(file), 1):
                if "\0" in name or len(name) > MOST_LINE:
                    raise ValueError(f"{path}: path {number} is {in_line(name, 60)}, which is not a path; correct the list")
                if not is_litter(name):
                    yield name, columns
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a list of paths in UTF-8 ({error}); write it again") from error


def _rows(path: Path, file: Iterable[str]) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    rows = csv.DictReader(file)
    if COLUMN not in (rows.fieldnames or []):
        names = ", ".join(map(in_line, rows.fieldnames or [])) or "none"
        raise ValueError(f"{path}: no column {COLUMN!r}, only {in_line(names)}; rename one")
    if twice := next((name for name, count in Counter(rows.fieldnames).items() if count > 1), None):
        raise ValueError(f"{path}: column {in_line(twice)!r} appears twice; rename one")
    for row in rows:
        if None in row:
            raise ValueError(f"{path}: line {rows.line_num} has more fields than the header; put names with commas into quotes")
        if not row[COLUMN]:
            raise ValueError(f"{path}: line {rows.line_num} has no path in column {COLUMN!r}; fill it in or delete it")
        yield row[COLUMN], tuple((name, row[name] or "") for name in row if name != COLUMN)


def _lines(file: Iterable[str]) -> Iterator[tuple[str, tuple[()]]]:
    lines = (line.strip() for line in file)
    return ((NUMBERED.sub(r"\1", line), ()) for line in lines if line and not line.startswith("#"))


def _shards(tars: Sequence[Path]) -> list[Recording]:
    """The videos in tars. The rest of a tar that is damaged or cut off is a recording that cannot be used, if there are others."""
    found: list[Recording] = []
    for tar in tars:
        if not tar.exists():
            raise FileNotFoundError(f"{tar}: no such tar; check the name or the pattern")
        try:
            for member in tar_members(tar):  # those before the damage are whole
                found += [Recording(member)] if is_video(member.name) else []
        except ValueError as error:
            found.append(Recording(tar, problem=str(error).removeprefix(f"{tar}: ")))
    if all(recording.problem for recording in found) and found:
        raise ValueError(f"{found[0].file}: {found[0].problem}")
    return found
