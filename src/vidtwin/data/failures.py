"""The list of recordings that could not be used, kept beside a run: recorded, never replaced by invented data."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from vidtwin.checked import fact, parse_json
from vidtwin.files import atomic_output, check_regular, in_line

MOST_BYTES = 2**28


class FailureList:
    """A JSON-lines file of recordings and reasons, one line a recording, that a resumed run goes on with.

    Args:
        path: the file; read if it is there, a last line cut short by a kill left out.
        total: recordings of the source. limit: share of them (max_failures) that may be on the list.

    Raises:
        ValueError: the file holds something else. OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, total: int, limit: float):
        self.path, self.total, self.limit = path, total, limit
        self._reasons: dict[str, str] = {}
        if path.exists():
            check_regular(path, MOST_BYTES)
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        *lines, cut_short = text.split("\n")
        for number, line in enumerate(lines, 1):
            try:
                record = parse_json(line)
                self._reasons[fact(record, "recording", str)] = fact(record, "reason", str)
            except ValueError as error:
                raise ValueError(f"{path}: line {number} is not of a list of failures ({error}); delete the file") from error
        if cut_short:
            with atomic_output(path) as partial:
                partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def __len__(self) -> int:
        return len(self._reasons)

    def add(self, failures: Iterable[tuple[str, str]]) -> None:
        """Append what is new, on disk when this returns, and say it.

        Raises:
            ValueError: more than the permitted share of the recordings is on the list. OSError: the disk is full.
        """
        new = {name: reason for name, reason in failures if name not in self._reasons}
        if new:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"recording": name, "reason": reason}) + "\n" for name, reason in new.items())
                file.flush()
                os.fsync(file.fileno())
            self._reasons |= new
            for name, reason in new.items():
                tqdm.write(f"skipped: {in_line(name)}: {in_line(reason)}")
        if len(self) > self.limit * self.total:
            raise ValueError(
                f"{len(self)} of {self.total} recordings could not be used, more than max_failures={self.limit:g}; the list is in "
                f"{self.path}: repair or remove them and delete the list, or raise max_failures"
            )
