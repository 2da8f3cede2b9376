"""What commands print: in their own flags, and nothing that a terminal obeys."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import fields, is_dataclass
from typing import Any, TextIO, get_args, get_type_hints

from tyro.conf import Positional

from vidtwin.files import printable

# Arguments of the library whose flags have other names.
OTHERWISE = {"check_db": "check", "stored": "store", "cameras": "camera", "settings": "set"}
ARGUMENT = re.compile(r"""(?<![^\s(])(\w+)=('[^']*'|"[^"]*"|[\w.+-]+)(?=[\s:;,)]|$)""")

OF_BARS = re.compile(r"\n*(\x1b\[A)*")  # how tqdm goes to the line of another bar


class PrintableStream:
    """A text stream that shows control characters of what is written, as escapes; otherwise as the stream in it.

    Kept are ends of lines, tabs, and what progress bars need: a return at the beginning, and going up by lines and nothing else.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        start = "\r" * text.startswith("\r")
        shown = text if OF_BARS.fullmatch(text) else start + printable(text[len(start) :], kept="\n\t")
        self._stream.write(shown)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def printing_safely() -> Iterator[None]:
    """All that is printed inside, to standard output and standard error, goes through a `PrintableStream`."""
    out: Any = PrintableStream(sys.stdout)
    error: Any = PrintableStream(sys.stderr)
    with redirect_stdout(out), redirect_stderr(error):
        yield


def in_flags(text: str, command: Callable[..., None], typed: Sequence[str] = ()) -> str:
    """`text` with each name=value as --name value, if `command` has that flag; not where it is part of what was typed.

    policy='tile' becomes --policy tile, dtype=torch.float32 --dtype float32, and resume=True --resume.
    """
    flags = flags_of(command)

    def flag(match: re.Match[str]) -> str:
        name, value = OTHERWISE.get(match[1], match[1]), match[2]
        if name not in flags or any(match[0] in argument for argument in typed if not argument.startswith("--")):
            return match[0]
        option = name.replace("_", "-")
        if value in ("True", "False"):
            return f"--{option}" if value == "True" else f"--no-{option}"
        value = value[1:-1] if value[0] in ("'", '"') else value.removeprefix("torch.")
        return f"--{option} {value}"

    return ARGUMENT.sub(flag, text)


def flags_of(command: Callable[..., None]) -> set[str]:
    """The parameters of a command that have a flag; of groups of options, their fields."""
    names = set()
    for name, hint in get_type_hints(command, include_extras=True).items():
        kind, *marks = get_args(hint) or (hint,)
        if is_dataclass(kind):
            names |= {field.name for field in fields(kind)}
        elif Positional not in marks:
            names.add(name)
    return names - {"return"}
