"""What the library says of Python's arguments, in the flags of the command that was run."""

import re
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import get_args, get_type_hints

from tyro.conf import Positional

OTHERWISE = {"check_db": "check", "stored": "store", "cameras": "camera"}  # arguments of the library whose flags have other names
ARGUMENT = re.compile(r"""(?<![^\s(])(\w+)=('[^']*'|"[^"]*"|[\w.+-]+)(?=[\s:;,)]|$)""")


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
