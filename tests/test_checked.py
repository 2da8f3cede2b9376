"""JSON and YAML that anybody may have written are believed once they are what a dataclass says."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from vidtwin.checked import build, parse_json
from vidtwin.training.recipe import Recipe, read_recipe


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0


@dataclass(frozen=True)
class Outer:
    count: int
    name: str
    kind: Literal["a", "b"] = "a"
    sides: tuple[int, int] = (1, 1)
    on: bool = False
    inner: Inner | None = None
    rates: dict[str, float] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    rest: Any = None


def test_values_become_those_of_the_fields():
    given = b'{"count": 1, "name": "x", "sides": [2, 3], "inner": {"rate": 2}, "rates": {"a": 1}, "names": ["b"], "rest": [1]}'
    found = build(Outer, parse_json(given))
    assert found == Outer(1, "x", "a", (2, 3), False, Inner(2.0), {"a": 1.0}, ["b"], [1])
    assert type(found.inner.rate) is float
    assert build(Inner, {"rate": 1.5, "other": 3}, more=True) == Inner(1.5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "nan",
        "NaN",
        "[Infinity]",
        "1e999",
        "-1e999",
        "9" * 40,
        "9" * 5000,
        "[" * 40 + "]" * 40,
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"a": 1, "a": 2}',
        b"\xff\xfe\xfd",
        b"\x80",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_plain_json_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "expected a mapping of keys"),
        ({"count": 1}, "key name is missing"),
        ({"count": "1"}, "count='1': expected int"),
        ({"count": 1.0}, "count=1.0: expected int"),
        ({"count": True}, "count=True: expected int"),
        ({"name": ["x"]}, "name=.*: expected text"),
        ({"kind": "c"}, "kind='c': choose one of a, b"),
        ({"sides": [1]}, "sides=.*: expected a list of 2"),
        ({"sides": [1, "2"]}, "sides='2': expected int"),
        ({"on": 1}, "on=1: expected bool"),
        ({"inner": 3}, "inner=3: expected a mapping"),
        ({"inner": {"rate": "1"}}, "inner.rate='1': expected a number"),
        ({"rates": {"a": "fast"}}, "rates.a='fast': expected a number"),
        ({"names": "b"}, "names='b': expected a list"),
        ({"names": [1]}, "names=1: expected text"),
        ({"nam": "x"}, "unknown key nam; the nearest known one is name"),
    ],
)
def test_other_types_are_refused_by_name(values, message):
    given = values if values == [] or values == {"count": 1} else {"count": 1, "name": "x"} | values
    with pytest.raises(ValueError, match=message):
        build(Outer, given)


@pytest.mark.parametrize(
    "line",
    [
        "learning_rate: .inf",
        "clip_norm: .nan",
        "seed: " + "9" * 40,
        "steps: 1e400",
        "rate_factors: {a: fast}",
        "rate_factors: {1: 0.5}",
        "rate_factors: {a: .inf}",
        "seed: 2020-01-01",
        "batch_size: 2\nbatch_size: 3",
        "model: " + "[" * 40 + "]" * 40,
        "model: " + "{a: " * 3000,
        "model: {? [1] : 2}",
        "flip: !!binary aGk=",
        "workers: 100000",
        "train_videos: !!set {a}",
    ],
    ids=lambda line: line[:24],
)
def test_recipes_that_are_well_formed_and_wrong_are_one_line(tmp_path, line):
    keys = {"model": "tiny", "train_videos": "v", "validation_videos": "v", "perceptual": "none"}
    taken = line.split(":")[0]
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join(f"{key}: {value}" for key, value in keys.items() if key != taken) + f"\n{line}\n")
    with pytest.raises(ValueError) as caught:
        read_recipe(path, Recipe)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value) and len(str(caught.value)) < 800
    path.write_text("\n".join(f"{key}: {value}" for key, value in keys.items()) + "\nlearning_rate: 1e-4\n")
    assert read_recipe(path, Recipe).learning_rate == 1e-4


def test_a_missing_recipe_says_where_recipes_are():
    with pytest.raises(FileNotFoundError, match=r"recipes/tiny.yaml: no such recipe \(did you mean tiny\?\); .* lists"):
        read_recipe("nowhere/recipes/tiny.yaml", Recipe)


def test_a_key_of_any_length_that_is_there_twice_is_named_in_a_line():
    with pytest.raises(ValueError, match="appears twice") as caught:
        parse_json(f'{{"{"a" * 10**6}": 1, "{"a" * 10**6}": 2}}')
    assert len(str(caught.value)) < 200
