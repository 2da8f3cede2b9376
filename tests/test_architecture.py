"""The house rules that can be checked: imports point down, and importing the package is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vidtwin

SRC = Path(__file__).parents[1] / "src" / "vidtwin"
# What each room may import of ours. Rooms that are not here (cli, inspection) may import anything.
ROOMS: dict[str, set[str]] = {
    "files": set(),
    "processes": set(),
    "version": set(),
    "model": {"model", "checkpoint"},  # the checkpoint mixin, so that VidTwin.from_pretrained exists
    "checkpoint": {"files", "model.config"},
    "released": {"files", "checkpoint", "model"},
    "video": {"files", "video"},
    "losses": {"files", "checkpoint", "model", "losses"},
    "evaluation": {
        "files",
        "model",
        "video",
        "evaluation",
        "version",
        "checkpoint",
        "losses.lpips",
        "losses.ms_ssim",
        "inference.entropy",
        "processes",
    },
    "data": {"files", "processes", "model.config", "video", "data"},
    "loading": {"checkpoint", "model", "released"},
    "inference": {"files", "checkpoint", "model", "video", "evaluation.metrics", "inference"},
    "cache": {"files", "processes", "version", "data", "model", "video", "inference", "cache"},
    "generation": {"files", "checkpoint", "model", "generation"},
    "demo": {"files", "model", "video", "evaluation.metrics", "inference", "generation", "demo"},
    "motion": {"version", "checkpoint", "loading", "model", "video", "motion"},
    "training": {
        "files",
        "checkpoint",
        "loading",
        "released",
        "data",
        "model",
        "losses",
        "evaluation.metrics",
        "video",
        "generation",
        "cache.dataset",
        "training",
    },
}
FORBIDDEN = {"torchvision", "torchaudio", "transformers", "lightning", "lpips", "piq", "decord", "gradio", "hydra"}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda path: str(path.relative_to(SRC)))
def test_imports_point_down(path):
    room = path.relative_to(SRC).parts[0].removesuffix(".py")
    names = imports(path)
    assert not {name.split(".")[0] for name in names} & (FORBIDDEN - ({"gradio"} if room == "demo" else set()))
    if room in ROOMS:
        ours = {name.removeprefix("vidtwin.") for name in names if name.split(".")[0] == "vidtwin"}
        outside = {name for name in ours if not any(name == ok or name.startswith(ok + ".") for ok in ROOMS[room])}
        assert outside == set()
    if room not in ("cli", "__main__"):
        assert not any(name.startswith(("vidtwin.cli", "vidtwin.demo")) for name in names) or room == "demo"


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


def test_every_public_name_is_found():
    for name in vidtwin.__all__:
        assert getattr(vidtwin, name).__doc__ or name == "__version__"
        assert name in dir(vidtwin)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        vidtwin.Nothing  # noqa: B018
