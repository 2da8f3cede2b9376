"""What the README says runs, runs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from vidtwin.cli import COMMANDS, main
from vidtwin.model.config import PRESETS
from vidtwin.video.read.reader import read_video

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_the_python_examples_run(capsys):
    first, second, _ = blocks(README)
    exec(compile(first, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("Latents(structure=(1, 16, 8, 7, 7)")
    names: dict[str, Any] = {}
    exec(compile(second, "README.md", "exec"), names)
    assert names["motion"].shape == (2, 1792)  # as for the released model: 2 x 8 x 16 x 7


def test_the_example_of_whole_videos_runs(capsys, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.mp4").write_bytes(clip.read_bytes())
    (block,) = blocks((ROOT / "docs" / "video.md").read_text())
    exec(compile(block, "video.md", "exec"), {})
    assert capsys.readouterr().out.startswith("50 [] Latents(")
    assert len(read_video(tmp_path / "out.mp4").frames) == 20


def test_the_examples_of_data_sets_run(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos" / "dog").mkdir(parents=True)
    (tmp_path / "videos" / "dog" / "a.mp4").write_bytes(clip.read_bytes())
    assert main(["encode-dataset", "videos", "-o", "latents", "--label"]) == 0
    names: dict[str, Any] = {}
    exec(compile(blocks(README)[2], "README.md", "exec"), names)
    assert len(names["z"]) == 4
    (block,) = blocks((ROOT / "docs" / "datasets.md").read_text())
    names["__name__"] = "__main__"
    exec(compile(block.replace("num_workers=2", "num_workers=0"), "datasets.md", "exec"), names)
    assert names["clip"].shape == (4, 3, 16, 224, 224)


def test_every_command_and_preset_that_is_named_exists():
    assert set(re.findall(r"^vidtwin (\S+)", README, flags=re.MULTILINE)) <= set(COMMANDS)
    presets = (ROOT / "docs" / "checkpoints.md").read_text()
    assert {name for name in PRESETS if f"`{name}`" in presets} == set(PRESETS)


def test_the_readme_is_read_in_minutes():
    words = re.sub(r"```.*?```", "", README, flags=re.DOTALL).split()
    assert 600 <= len(words) <= 900


@pytest.mark.parametrize("name", ["tiny", "mini"])
def test_figures_of_the_models_are_those_of_their_evaluation(name):
    (row,) = (line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
    result = json.loads((ROOT / "benchmarks" / "results" / f"evaluation-{name}.json").read_text())
    size = (ROOT / "src" / "vidtwin" / "weights" / name / "model.safetensors").stat().st_size / 1e6
    overall = result["overall"]
    for figure in (f"{overall['psnr']:.2f} dB", f"{overall['psnr_pca']:.2f} dB", f"{overall['ssim']:.3f}", f"{size:.1f} MB"):
        assert f" {figure} " in row, figure


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:scripts|docs|recipes|src|benchmarks)/[\w./-]+\.\w+", README))))
def test_every_file_that_is_named_exists(path):
    assert (ROOT / path).is_file()
