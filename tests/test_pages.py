"""What the pages under docs/ name is there; docs/how-it-works.md has the numbers of the model."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from vidtwin import VidTwin, preset
from vidtwin.model.latents import Posterior

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
PATH = re.compile(r"(?<![\w/.-])(?:\.\./)?((?:src|benchmarks|recipes|docs|tests|scripts)/[\w./*-]*[\w*/])")
FILE = re.compile(r"`((?:\w+/)+\w+\.py)`")  # of the package, of the tests, or from the root
TEST = re.compile(r"\b((?:\w+/)*test_\w+\.py)::(\w+)")
MODULE = re.compile(r"python -m (benchmarks(?:\.\w+)+)")
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)(?:#[^)]*)?\)")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


@cache
def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", PAGES)
def test_every_path_that_is_named_exists(name):
    text = page(name)
    missing = [path for path in PATH.findall(text) if not any(ROOT.glob(path.rstrip("/")))]
    missing += [path for path in FILE.findall(text) if not any((ROOT / at / path).is_file() for at in ("src/vidtwin", "tests", ""))]
    missing += [module for module in MODULE.findall(text) if not (ROOT / f"{module.replace('.', '/')}.py").is_file()]
    missing += [link for link in LINK.findall(text) if not (ROOT / "docs" / link).exists()]
    assert sorted(set(missing)) == []


@pytest.mark.parametrize("name", [name for name in PAGES if name != "commands.md"] + ["../README.md"])
def test_a_page_has_one_title_then_a_sentence_and_code_that_needs_no_scrolling(name):
    text = page(name)
    code = [block for language, block in re.findall(r"^```(.*)\n([^`]*)^```$", text, flags=re.MULTILINE) if "{" not in language]
    assert [line for block in code for line in block.splitlines() if len(line) > 98] == []
    title, first, *_ = re.sub(r"^```.*?^```", "```", text, flags=re.MULTILINE | re.DOTALL).split("\n\n")
    assert title.startswith("# ") and text.startswith(title)
    assert re.match(r"[A-Z`][\w ]+", first) and "." in first, "the first paragraph says what the page is for"
    assert len(re.findall(r"^# ", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), flags=re.MULTILINE)) == 1


@pytest.mark.parametrize("name", [name for name in PAGES if TEST.search(page(name))])
def test_every_test_that_is_named_exists(name):
    for path, function in TEST.findall(page(name)):
        assert function in functions(ROOT / "tests" / path.removeprefix("tests/")), f"{path}::{function}"


def test_every_difference_has_its_evidence():
    rows = [row for row in rows_of("differences.md") if "evidence" in row]
    assert len(rows) > 40
    for row in rows:
        assert len(row) == 5
        assert TEST.search(row["evidence"]) or PATH.search(row["evidence"]) or LINK.search(row["evidence"]), row["point"]


def rows_of(name: str) -> list[dict[str, str]]:
    """The rows of all tables of a page, by the heads of their columns."""
    rows: list[dict[str, str]] = []
    head: list[str] = []
    for line in page(name).splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] if line.startswith("|") else []
        if not cells:
            head = []
        elif not head:
            head = cells
        elif set("".join(cells)) != {"-"}:
            rows.append(dict(zip(head, cells, strict=True)))
    return rows


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text.replace(",", "") if re.fullmatch(r"\d+(,\d{3})+", text) else text)]


SYMBOLS = [row for row in rows_of("how-it-works.md") if "symbol" in row]
WALK = {row["symbol"]: row for row in SYMBOLS if "shape" in row}


@pytest.mark.parametrize("row", SYMBOLS, ids=lambda row: row["symbol"])
def test_every_symbol_is_a_name_of_its_file(row):
    files, names = (re.findall(r"`([^`]+)`", row[column]) for column in ("file", "here"))
    assert files and names
    modules = [importlib.import_module(f"vidtwin.{file.removesuffix('.py').replace('/', '.')}") for file in files]
    for name, module in zip(names, modules if len(modules) > 1 else modules * len(names), strict=True):
        owner, *attribute = name.split(".")
        found = getattr(module, owner)
        assert found.__module__ == module.__name__, f"{name} is of {found.__module__}"
        for part in attribute:
            assert part in getattr(found, "__dataclass_fields__", {}) or hasattr(found, part), name


def test_sizes_are_those_of_the_released_config():
    rows = [row for row in SYMBOLS if "released" in "".join(row) and "shape" not in row]
    assert len(rows) == 10
    for row in rows:
        found: list[int] = []
        for name in re.findall(r"`VidTwinConfig\.(\w+)`", row["here"]):
            value: Any = getattr(preset("released"), name)
            found += value if isinstance(value, tuple) else [value]
        assert numbers(row["`released`"]) == found, row["symbol"]


def test_shapes_are_those_of_the_walk():
    config = preset("released")
    with torch.device("meta"):
        model = VidTwin(config)
        x = torch.empty(1, *config.clip_shape)
        z = model.encoder(x)
        f, (h, w) = config.frames, config.grid
        moments = model.structure_encoder(z), *model.dynamics_encoder(z)
        latents = Posterior.from_moments(*moments).mean
        u_S, u_D = model.u_S(latents), model.u_D(latents)
        found = {
            "x": x,
            "z": z,
            "F_S": moments[0],
            "z'_S": model.structure_encoder.qformer(torch.empty(h * w, f, config.hidden)),
            "F_D": moments[1],
            "z_S": latents.structure,
            "z_D, its x": latents.dynamics_x,
            "z_D, its y": latents.dynamics_y,
            "u_S": u_S,
            "u_D^(w), u_D^(h)": model.dynamics_decoder.axis_feature(latents.dynamics_x, 0),
            "u_D": u_D,
            "x_hat": model.decoder(u_S + u_D),
        }
    assert {symbol: numbers(row["`released`"]) for symbol, row in WALK.items() if row["`released`"]} == {
        symbol: list(tensor.shape) for symbol, tensor in found.items()
    }
    parts = {
        row["module of `VidTwin`"].strip("`"): row["parameters of `released`"]
        for row in rows_of("how-it-works.md")
        if "part" in row
    }
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_children()}
    assert parts == {name: f"{count:,}" for name, count in counts.items()} | {"": f"{sum(counts.values()):,}"}


def test_rates_are_computed():
    rows = [row for row in rows_of("how-it-works.md") if "rate" in row]
    assert len(rows) == 6
    for row in rows:
        config = preset(row["preset"].strip("`"))
        *structure, structure_values = numbers(row["z_S: d_S, n_q, h_S, w_S"])
        *dynamics, dynamics_values = numbers(row["z_D: d_D, f, w_D + h_D"])
        d_D, f, w_D = config.dynamics_x_shape
        assert (tuple(structure), dynamics) == (config.structure_shape, [d_D, f, w_D + config.dynamics_y_shape[-1]])
        assert structure_values + dynamics_values == int(row["values"]) == config.latent_values
        assert row["rate"] == f"{100 * config.compression_rate:.4f} %"


def test_the_figure_has_the_shapes_of_the_page():
    figure = (ROOT / "docs" / "how-it-works.svg").read_text()
    for symbol in ("z_S", "z_D, its x", "z_D, its y", "u_S"):
        assert " × ".join(map(str, numbers(WALK[symbol]["`released`"])[1:])) in figure, symbol
