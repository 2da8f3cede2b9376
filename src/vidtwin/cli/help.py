"""What --help shows of an option: its text in one piece, its default in words, and its name where tyro would show a type."""

import re
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from tyro.conf import Positional, arg

TEXTS = (str, str | None)  # kinds of which the type says nothing


def joined(doc: str | None) -> str | None:
    """A docstring in which the text of an argument is one line: tyro would break it where the source does."""
    return re.sub(r"\n {12,}(?=\S)", " ", doc or "") or None


def in_words(default: str) -> str:
    """What follows an option's text; an option without a default says so in its text."""
    return {"None": "", "True": "(default: yes)", "False": "(default: no)", "": ""}.get(default, f"(default: {default})")


def explained(function: Callable[..., Any] | type) -> dict[str, Any]:
    """Annotations of a command, or of a group of options, with what tyro shows of each option."""
    hints = get_type_hints(function, include_extras=True)
    return {name: hint if name == "return" else _explained(name, hint) for name, hint in hints.items()}


@cache  # else each call of a command would nest the annotations once more
def _explain(group: type) -> None:
    group.__annotations__, group.__doc__ = explained(group), joined(group.__doc__)


def _explained(name: str, hint: Any) -> Any:
    kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if is_dataclass(kind):
        assert isinstance(kind, type)
        _explain(kind)
        return hint
    named = kind in TEXTS and not any(getattr(mark, "metavar", None) for mark in marks)
    metavar = f"[{name.upper()}]" if Positional in marks and kind is not str else name.upper()
    shown = arg(help_behavior_hint=in_words, metavar=metavar) if named else arg(help_behavior_hint=in_words)
    return Annotated[hint, shown]
