"""Frames -> PNG files: a new folder of them, or files whose names a pattern numbers, from 0 on."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vidtwin.files import check_writable
from vidtwin.video.write.encoding import is_pattern
from vidtwin.video.write.movie import Timing
from vidtwin.video.write.work_folder import WorkFolder, sync_folder

FOLDER = "frames"  # in the work folder
NAME = "%06d.png"  # of the files in a folder
TIMES = "times.csv"  # beside the pictures, when they are not shown for equally long
LEVEL = 2  # of compression: twice as fast as the usual 6, for a tenth more bytes
DELIVERING = {"delivering": True}  # in the journal: files under the names of a pattern are ours from here on


class PngFiles:
    """The frames of a video as files, in the work folder until all are there.

    Raises, in its methods, OSError as it comes.
    """

    def __init__(self, target: Path, folder: WorkFolder) -> None:
        self._target, self._folder = target, folder
        self._path = folder.path / FOLDER
        self._written = self._sealed = 0

    def restore(self, checkpoints: Sequence[dict[str, Any]]) -> int:
        """Take over what is there; returns how many checkpoints, from the first, are intact. Later files are deleted.

        Raises FileExistsError: files have names that the pattern would give.
        """
        delivering = DELIVERING in checkpoints
        if is_pattern(self._target) and not delivering:
            _check_unused(self._target)
        self._path.mkdir(exist_ok=True)
        there = {path.name for path in self._path.iterdir()}
        intact = 0
        for checkpoint in checkpoints:
            end = self._written + checkpoint.get("frames", 0)
            if not delivering and not all(NAME % number in there for number in range(self._written, end)):
                break
            self._written, intact = end, intact + 1
        self._sealed = self._written
        for name in there - {NAME % number for number in range(self._written)}:
            (self._path / name).unlink()
        return intact

    def write(self, picture: np.ndarray) -> None:
        """One more picture, uint8 (H, W, 3) upright."""
        with (self._path / (NAME % self._written)).open("wb") as file:
            Image.fromarray(picture).save(file, "PNG", compress_level=LEVEL)
        self._written += 1

    def seal(self) -> dict[str, Any]:
        """Make what was written durable."""
        if self._folder.durable:
            for number in range(self._sealed, self._written):
                with (self._path / (NAME % number)).open("rb") as file:
                    os.fsync(file.fileno())
            sync_folder(self._path)
        self._sealed = self._written
        return {}

    def abandon(self) -> None:
        """Nothing is open."""

    def finish(self, timing: Timing) -> list[str]:
        """Give the files their names; returns what they do not hold, one clause each."""
        notes = []
        if not timing.is_constant_rate:
            rows = (f"{number},{float(time):.9f}\n" for number, time in enumerate(timing.seconds))
            (self._path / TIMES).write_text("frame,seconds\n" + "".join(rows))
            notes.append(f"pictures hold no times; {TIMES} beside them does")
        if is_pattern(self._target):
            self._folder.add(DELIVERING)
            for number in range(self._written):
                _move(self._path / (NAME % number), self._target.with_name(self._target.name % number))
            _move(self._path / TIMES, self._target.with_name(TIMES))
        else:
            if self._target.exists():
                self._target.rmdir()  # it is empty
            self._path.rename(self._target)
        return notes


def check_target(target: Path) -> None:
    """Raise the OSError, in one line with its remedy, that writing pictures to a folder or pattern would end in.

    Raises:
        FileExistsError: the folder has something in it, or files have names that the pattern would give.
        FileNotFoundError, NotADirectoryError, PermissionError: of the folder that should hold it.
    """
    if is_pattern(target) or not os.path.exists(target):
        check_writable(target)
    if is_pattern(target):
        _check_unused(target)
    elif target.is_symlink() or (target.exists() and not target.is_dir()):
        raise FileExistsError(f"{target}: is no folder; choose another output, or move it away")
    elif target.is_dir() and any(target.iterdir()):
        raise FileExistsError(f"{target}: the folder is not empty; choose another output, or empty it")


def _check_unused(pattern: Path) -> None:
    names = {path.name for path in pattern.parent.iterdir()}
    numbers = {int(digits) for name in names for digits in re.findall("[0-9]{1,18}", name)}
    taken = names & {TIMES, *(pattern.name % number for number in numbers)}
    if taken:
        raise FileExistsError(f"{pattern}: {min(taken)} already exists; choose another output, or move it away")


def _move(path: Path, target: Path) -> None:
    """Rename; a file that is not there was moved before this job was resumed."""
    if path.exists():
        os.replace(path, target)
