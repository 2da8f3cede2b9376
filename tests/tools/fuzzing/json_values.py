"""JSON that is well formed and wrong: values of other types and sizes, deep nesting, keys twice, not there or by another name."""

import json
from random import Random
from typing import Any

DEEP = 100_000
# JSON texts that take the place of a value.
VALUES = (
    "9" * 40, "-" + "9" * 40, "[" * 33 + "]" * 33,
    "null", "true", "false", "0", "1", "-1", "3", "1.5", "-0.0", "1e400", "-1e400", "1e-400", "NaN", "Infinity", "-Infinity",
    "2147483647", "4294967296", "1000000", "1000000000", "1000000000000", "9223372036854775807", "18446744073709551616",
    "-9223372036854775808", "1" + "0" * 400, "9" * 5000, "[]", "{}", "[0]", "[1, 1, 1]", "[-1, 4]", "[1000000000, 1000000000]",
    "[9223372036854775807, 4]", "[true, 2]", "[1e400, 2]", "[" + "1, " * 5000 + "1]", "[" * 500 + "]" * 500,
    "[" * DEEP + "]" * DEEP, '{"a": ' * DEEP + "1" + "}" * DEEP, '{"a": {"b": [null]}}',
)  # fmt: skip
# Also of a key.
TEXTS = (
    '""', '"a"', '"0"', '"-1"', '"1/0"', '"0/1"', '"1e999999999"', '"1e-999999999"', '"1e5000"', '"-3/7"', '"nan"', '"inf"',
    '"0x10"', '"' + "9" * 5000 + '"', '"' + "long" * 25_000 + '"', '"a\\nb"', '"a\\u0000b"', '"\\ud800"', '"\\u001b[31mred"',
    '"\\u202egnp"', '"../../etc/passwd"', '"http://127.0.0.1/a"', '"%s%n{0}{a}"', '"tile"', '"squash"', '"pad"', '"F16"', '"F64"',
    '"BOOL"', '"U8"', '"full"', '"none"', '"convolution"', '"flattened"', '"__metadata__"', '"policy"',
)  # fmt: skip


def damaged_json(rng: Random, text: str) -> str:
    """The text with one or some of its parts replaced, taken out, doubled or moved."""
    root = [json.loads(text)]
    raw: dict[str, str] = {}
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        if parts := _parts(root):
            _change(rng, *rng.choice(parts if rng.random() < 0.97 else parts[:1]), parts, raw)
    result = json.dumps(root[0]) if root else ""
    for mark, value in raw.items():
        result = result.replace(f'"{mark}"', value)
    return result


def _parts(container: Any) -> list[tuple[Any, Any]]:
    """All containers and keys of values below, the outermost first."""
    keys = list(container) if isinstance(container, dict) else range(len(container))
    parts = []
    for key in keys:
        parts.append((container, key))
        if isinstance(container[key], dict | list):
            parts += _parts(container[key])
    return parts


def _change(rng: Random, container: Any, key: Any, parts: list[tuple[Any, Any]], raw: dict[str, str]) -> None:
    def mark(value: str) -> str:
        """Stands for a JSON text that json.dumps would not write."""
        name = f"mark {len(raw)} of it"
        raw[name] = value
        return name

    value, draw = container[key], rng.random()
    if draw < 0.2 and type(value) is int:
        container[key] = rng.choice((value + 1, value - 1, -value, 2 * value, 8 * value, value + 2**32, value << 40, 1.0 * value))
    elif draw < 0.6:
        container[key] = mark(rng.choice(VALUES + TEXTS))
    elif draw < 0.7:
        del container[key]
    elif draw < 0.8:
        other, name = rng.choice(parts)
        if name in other if isinstance(other, dict) else name < len(other):
            container[key] = json.loads(json.dumps(other[name]))
    elif draw < 0.85:
        container[key] = rng.choice(([value], {"a": value}, [value, value], str(value)))
    elif isinstance(container, dict):
        name = rng.choice((*TEXTS, json.dumps(key), json.dumps(key)))
        container[mark(name)] = rng.choice((value, mark(rng.choice(VALUES))))
        if rng.random() < 0.5:
            del container[key]
    else:
        container.insert(key, value)
