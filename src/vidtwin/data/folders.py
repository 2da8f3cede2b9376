"""Files of a folder and the folders below it, linked ones too; which of them are videos, by suffix."""

import os
import re
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

# Of the formats that are read (`video.read.decode.FORMATS`), as files of videos are called; not those that mostly hold sound.
NAMES = """
    mp4 m4v mov qt 3gp 3g2 f4v mj2 ismv mkv mk3d webm avi divx wmv asf flv kux ogv ogm mpg mpeg mpe m1v m2v m2p vob vro evo
    ts mts m2t m2ts tod mod trp mxf gxf wtv dvr-ms nut nuv nsv rm rmvb ivr dv dif swf lxf mlv cine ty pva dav y4m ivf obu
    h261 h263 h264 264 avc h265 265 hevc h266 266 vvc mjpeg mjpg vc1 drc avs2 avs3 apv flm flc fli bik smk roq thp usm xmv
    vmd gif apng amv ser
"""
SUFFIXES = tuple(f".{name}" for name in NAMES.split())
LITTER = re.compile(r"(^|/)(\._[^/]*|__MACOSX|\.AppleDouble|\.DS_Store|@eaDir)(/|$)")  # what macOS and NAS put beside files


def is_litter(name: str) -> bool:
    """Whether a path names what a system puts beside files: "._a.mp4", "__MACOSX/a.mp4"."""
    return LITTER.search(name) is not None


def is_video(name: str) -> bool:
    """Whether a path is called as a video is, and is none of the system's."""
    return name.lower().endswith(SUFFIXES) and not is_litter(name)


def files_below(folder: Path) -> list[Path]:
    """The files of a folder and of the folders below it, sorted; links to folders are followed, each folder is read once.

    What is in a folder that links lead to more than once, or that is also below `folder` itself, is there once: under its own
    path if it has one here, else under the first in order.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    own, linked = deque([folder]), deque[Path]()
    while own or linked:
        here = own.popleft() if own else linked.popleft()
        try:
            stat = here.stat()
            entries = [] if (stat.st_dev, stat.st_ino) in seen else sorted(os.scandir(here), key=lambda entry: entry.name)
        except PermissionError:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        for entry in entries:
            if is_litter(entry.name):
                continue
            with suppress(OSError):  # a link in a circle, or into a folder that is closed
                if entry.is_dir():
                    (linked if entry.is_symlink() else own).append(Path(entry.path))
                elif entry.is_file():
                    found.append(Path(entry.path))
    return sorted(found)


def find_videos(folder: str | Path) -> list[Path]:
    """The video files of a folder and its subfolders, by suffix (and animated WebP), sorted. Linked folders are followed.

    Raises:
        FileNotFoundError: no such folder, or no video in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give a folder of videos")
    videos = videos_of(files_below(folder))
    if not videos:
        raise FileNotFoundError(f"{folder}: no videos ({', '.join(SUFFIXES[:6])}, ...) in it or its subfolders")
    return videos


def videos_of(files: Iterable[Path]) -> list[Path]:
    """Those of some files that are videos."""
    return [path for path in files if path.suffix.lower() in SUFFIXES or _is_animation(path)]


def _is_animation(path: Path) -> bool:
    if path.suffix.lower() != ".webp":
        return False
    try:
        with path.open("rb") as file:
            head = file.read(21)
    except OSError:
        return False
    return head[12:16] == b"VP8X" and bool(head[20] & 2)
