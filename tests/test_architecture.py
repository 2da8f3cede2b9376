"""The house rules that can be checked: imports point down, and importing the package is cheap."""

import ast
import re
import subprocess
import sys

import pytest

import vidtwin
from scripts.rooms import ROOMS, SRC, imports, modules, name_of, own, room_of

FORBIDDEN = {"torchvision", "torchaudio", "transformers", "lightning", "lpips", "piq", "decord", "gradio", "hydra"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SRC)))
def test_imports_point_down(path):
    order, room = list(ROOMS), room_of(path)
    assert {name.split(".")[0] for name in own(path)} <= set(order[: order.index(room) + 1])
    assert not {name.split(".")[0] for name in imports(path)} & (FORBIDDEN - ({"gradio"} if room == "demo" else set()))


def test_no_module_imports_itself_through_others():
    below = {name_of(path): own(path) for path in modules()}
    while leaves := {name for name, names in below.items() if not names & below.keys()}:
        below = {name: names for name, names in below.items() if name not in leaves}
    assert below == {}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SRC)))
def test_files_and_functions_are_short_or_say_why_not(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or re.search(
            r"\bLong (for|so)\b", ast.get_docstring(node) or ""
        ):
            continue
        command = room_of(path) == "cli" and node.name.endswith("_command")  # whose signature and docstring are its help
        first = node.body[1].lineno if command else node.lineno
        assert node.end_lineno is not None and node.end_lineno - first < 60, node.name


def test_every_room_is_in_the_plan():
    assert {room_of(path) for path in modules()} == set(ROOMS)


def loaded_by(statement: str) -> set[str]:
    """Top names of the modules that a fresh process has after a statement."""
    code = f"{statement}; import sys; print(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_pulls_in_nothing_heavy():
    model = loaded_by("from vidtwin import VidTwin, Latents, load_released")
    assert "torch" in model and not model & (
        FORBIDDEN | {"scipy", "av", "tyro", "PIL", "torchmetrics", "diffusers", "huggingface_hub", "matplotlib"}
    )
    assert not loaded_by("import vidtwin.__main__") & {"torch", "numpy"}  # which reads its settings from the environment then


@pytest.mark.parametrize("name", ["MotionExtractor", "LatentDataset", "VidTwin"])
def test_what_needs_no_video_needs_no_video_library(name):
    code = f"import sys; sys.modules['av'] = None; import vidtwin; print(vidtwin.{name}.__name__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == name


def test_every_public_name_is_found():
    for name in vidtwin.__all__:
        assert getattr(vidtwin, name).__doc__ or name == "__version__"
    assert dir(vidtwin) == sorted(vidtwin.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        vidtwin.Nothing  # noqa: B018
