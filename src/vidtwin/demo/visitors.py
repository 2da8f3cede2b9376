"""A folder for each visitor, and what has been made in it; it goes away with the visitor, and all of them with the server."""

import secrets
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from vidtwin.demo.studio import Clip


@dataclass(eq=False)
class Visitor:
    """One visitor's things.

    Attributes:
        folder: theirs alone, with an unguessable name, made at the first file. clips: what they gave, "a" and "b".
    """

    clips: dict[str, Clip] = field(default_factory=dict)
    folder: Path | None = None

    def __deepcopy__(self, memo: object) -> "Visitor":
        return Visitor()  # a page's initial state is copied for every visitor: each begins with nothing

    def file(self, name: str) -> Path:
        """A new file's path, in a folder of its own, so that no two results meet."""
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="visitor-"))
        place = self.folder / secrets.token_hex(8)
        place.mkdir()
        return place / name

    def leave(self) -> None:
        """Delete everything of theirs."""
        self.clips.clear()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None
