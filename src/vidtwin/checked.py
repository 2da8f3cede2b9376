"""What a file states, believed once it is what a dataclass says: JSON and YAML that anybody may have written."""

import difflib
import json
import math
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

from vidtwin.files import check_regular, in_line

MOST_DEEP = 32
MOST_JSON = 2**26  # bytes of a file
MOST_WHOLE = 2**63
NAMES = {str: "text", float: "a number", dict: "a mapping", list: "a list"}

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "an object"}

T = TypeVar("T")
Kind = TypeVar("Kind", bool, int, float, str, list, dict)


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        OSError: no such file, or a pipe or a device. ValueError: more than MOST_JSON bytes, or as `parse_json`.
    """
    check_regular(path, MOST_JSON)
    return parse_json(path.read_bytes())


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: not JSON, bytes that are not UTF-8, a key twice, or as `plain`.
    """
    try:
        return plain(json.loads(text, object_pairs_hook=unique))
    except RecursionError:
        raise ValueError(f"nested deeper than {MOST_DEEP}") from None


def unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Pairs as a mapping. Raises ValueError for a key that appears twice."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {in_line(repr(next(key for key in keys if keys.count(key) > 1)), 60)} appears twice")
    return mapping


def plain(value: Any) -> Any:
    """`value` itself, if it is made of mappings with text as keys, lists, text, truth values, null and numbers.

    Raises:
        ValueError: anything else in it; NaN, an infinity, a whole number of more than 64 bits; nested deeper than MOST_DEEP.
    """
    level = [value]
    for _ in range(MOST_DEEP):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict) and all(type(key) is str for key in item):
                inner += item.values()
            elif isinstance(item, list | tuple):
                inner += item
            elif type(item) is int and not -MOST_WHOLE <= item < MOST_WHOLE:
                raise ValueError(f"a whole number of {item.bit_length()} bits: at most 64 are read")
            elif type(item) is float and not math.isfinite(item):
                raise ValueError(f"{item} is not a finite number")
            elif item is not None and type(item) not in (str, int, float, bool):
                raise ValueError(f"{in_line(repr(item), 60)}: expected text, a number, a list, or a mapping with text as keys")
        if not inner:
            return value
        level = inner
    raise ValueError(f"nested deeper than {MOST_DEEP}")


def fact(facts: Any, name: str, kind: type[Kind], least: float = -math.inf) -> Kind:
    """The value `name` of an object of JSON, held against its kind; numbers are finite, at least `least`, whole ones below 2^63.

    Raises ValueError, in one line without the file, for another kind, or if it is missing.
    """
    if not isinstance(facts, dict) or name not in facts:
        raise ValueError(f"{name} is missing")
    value = facts[name]
    right = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if right and kind in (int, float):
        right = least <= value and abs(value) < (MOST_WHOLE if kind is int else math.inf)
    if not right:
        beyond = f" of at least {least:g}" if least > -math.inf else ""
        raise ValueError(f"{name} is {in_line(repr(value), 60)}, not {KINDS[kind]}{beyond}")
    return value


def build(kind: type[T], values: Any, prefix: str = "", more: bool = False) -> T:
    """A dataclass of plain values, each of its field's type.

    Fields may be text, numbers, truth values, `Any`, dataclasses, and of these `Literal`, tuples, lists, mappings and unions.

    Args:
        kind: the dataclass. prefix: of the names of keys in errors. more: whether other keys than its fields are left out.

    Raises:
        ValueError: not a mapping; a key that is unknown (with the nearest known one) or missing; a value of another type; and what
            `kind` refuses.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{prefix}{values!r}: expected a mapping of keys to values")
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    if more:
        values = {key: value for key, value in values.items() if key in known}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise ValueError(f"unknown key {prefix}{key}; the nearest known one is {prefix}{near}")
    converted = {key: _convert(prefix + key, value, known[key].type, more) for key, value in values.items()}
    for key, f in known.items():
        if key not in values and f.default is MISSING and f.default_factory is MISSING:
            choices = f" ({', '.join(get_args(f.type))})" if get_origin(f.type) is Literal else ""
            raise ValueError(f"key {prefix}{key}{choices} is missing")
    return kind(**converted)


def _convert(key: str, value: Any, kind: Any, more: bool) -> Any:
    """`value` as `kind`, the type of a field; ValueError names key and value."""
    origin, kinds = get_origin(kind) or kind, get_args(kind)
    if kind is Any:
        return value
    if isinstance(kind, UnionType):
        if value is None and type(None) in kinds:
            return None
        kinds = tuple(k for k in kinds if k is not type(None))
        fitting = [k for k in kinds if len(kinds) == 1 or _fits(value, k)]
        if not fitting:
            raise ValueError(f"{key}={value!r}: expected {' or '.join(map(_name, kinds))}")
        return _convert(key, value, fitting[0], more)
    if is_dataclass(kind):
        if isinstance(value, kind):  # type: ignore[arg-type]
            return value
        if not isinstance(value, dict):
            raise ValueError(f"{key}={value!r}: expected a mapping, as in {{{fields(kind)[0].name}: 1.0}}")
        return build(kind, value, f"{key}.", more)  # type: ignore[arg-type]
    if origin is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in kinds):
            raise ValueError(f"{key}={value!r}: choose one of {', '.join(map(str, kinds))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise ValueError(f"{key}={value!r}: expected a list of {len(kinds)} numbers")
        return tuple(_convert(key, item, k, more) for item, k in zip(value, kinds, strict=True))
    if origin is float and type(value) is int:
        return float(value)
    if not _fits(value, kind):
        raise ValueError(f"{key}={value!r}: expected {_name(kind)}")
    if origin is list:
        return [_convert(key, item, kinds[0], more) for item in value]
    if origin is dict:
        return {name: _convert(f"{key}.{name}", item, kinds[1], more) for name, item in value.items()}
    return value


def _fits(value: Any, kind: Any) -> bool:
    return type(value) is (get_origin(kind) or kind)


def _name(kind: Any) -> str:
    origin = get_origin(kind) or kind
    return NAMES.get(origin, origin.__name__)
