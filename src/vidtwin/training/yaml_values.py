"""YAML as recipes hold it: plain values, every key once."""

import re
from collections.abc import Collection
from typing import Any

import yaml

from vidtwin.checked import plain, unique
from vidtwin.files import in_line


class _Loader(yaml.SafeLoader):
    """Of YAML without keys that are there twice, and without aliases: a short file can nest them to a value that no memory holds
    when it is printed. 1e-4 is a number, as in YAML 1.2."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name); write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        return unique([(self.construct_object(key, True), self.construct_object(value, True)) for key, value in node.value])


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), list("-+0123456789"))


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: not YAML, or not plain (`checked.plain`); in one line.
    """
    try:
        return plain(yaml.load(text, _Loader))
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise ValueError(f"not valid YAML ({in_line(' '.join(str(error).split()))})") from None


def put(values: dict[str, Any], setting: str, taken: Collection[str]) -> None:
    """Put key=value, or mapping.key=value, into `values`.

    Raises:
        ValueError: not of that form, a value that is not YAML, a key of what is no mapping, or one of those `taken`.
    """
    name, equals, text = setting.partition("=")
    key, dot, inner = name.strip().partition(".")  # mappings of recipes have one level; names of parameters have dots
    if not equals or not key or (dot and not inner):
        raise ValueError(f"settings={setting!r}: expected key=value, as in loss.kl=0.001")
    if key in taken:
        raise ValueError(f"settings={setting!r}: {key} is given twice; leave out one of the two")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"settings={setting!r}: {error}") from None
    if not dot:
        values[key] = value
        return
    mapping = values.get(key)
    if not isinstance(mapping, dict | None):
        raise ValueError(f"settings={setting!r}: {key} is {mapping!r}, not a mapping; set {key} as a whole")
    values[key] = (mapping or {}) | {inner: value}
