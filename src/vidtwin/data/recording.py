"""A recording: frames of a video, and what its source says of them."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from vidtwin.video.read.decode import TableColumn, TarMember

Columns = tuple[tuple[str, str | int | float], ...]


@dataclass(frozen=True, slots=True)
class Recording:
    """Frames start..stop-1 (to the end if None) of a video: a file, a member of a tar, or a column of pictures.

    `columns`: what else the source says of it, by name: other columns of a .csv, a LeRobot episode and its camera.
    `length`: frames that a LeRobot data set says the episode has. `problem`: why it cannot be used, if listing showed that.
    """

    file: Path | TarMember | TableColumn
    start: int = 0
    stop: int | None = None
    columns: Columns = field(default=(), compare=False)
    length: int | None = field(default=None, compare=False)
    problem: str | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """For messages and lists: "a.mp4", "shard.tar!a.mp4", "a.mp4[100:200]"."""
        if self.start == 0 and self.stop is None:
            return str(self.file)
        return f"{self.file}[{self.start}:{'' if self.stop is None else self.stop}]"

    def check(self) -> None:
        """Raise ValueError with its problem, if it has one."""
        if self.problem is not None:
            raise ValueError(self.problem)

    def reason(self, error: Exception) -> str:
        """What an error about the file says, in one line, without the file's name."""
        text = " ".join(str(error).split()) or type(error).__name__
        return text.removeprefix(f"{self.file}: ").removeprefix(f"{os.path.abspath(str(self.file))}: ")
