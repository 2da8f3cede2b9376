import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from vidtwin.cli import main


@pytest.fixture
def refused(recipe, tmp_path, capsys):
    """refused(exit code, key=value, ...): the one line in which `vidtwin train` refuses the recipe with these keys."""

    def refused(code, **changes):
        values = recipe.to_dict() | changes
        (tmp_path / "r.yaml").write_text(json.dumps(values))
        assert main(["train", str(tmp_path / "r.yaml"), "--device", "cpu", "--out", str(tmp_path / "run")]) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("vidtwin: error: ")
        return line

    return refused


LPIPS = {"perceptual": "lpips", "loss": {"perceptual": 0.1}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "float16"}, "precision: float16 is not available on this device"),
        ({"init_from": "nowhere"}, "weights 'nowhere': no such file or folder"),
        ({"init_from": "nowhere.ckpt"}, "nowhere.ckpt"),
        ({"init_from": "tiny"}, "weights to start from have"),
        (LPIPS | {"perceptual_weights": "nowhere.pth"}, "nowhere.pth"),
        ({"train_videos": "nowhere"}, "nowhere: no such file or folder"),
        ({"validation_videos": "nowhere"}, "nowhere: no such file or folder"),
        ({"stepss": 3}, "r.yaml: unknown key stepss; the nearest known one is steps"),
        ({"learning_rate": float("nan")}, "r.yaml: learning_rate='NaN': expected a number"),
        ({"betas": [0.9, 1.5]}, "r.yaml: betas=[0.9, 1.5]: must be in [0, 1)"),
        ({"accumulate": 3}, "batch_size=2: must be a multiple of 1 processes x accumulate=3; use 3"),
        ({"short_side": [16, 32]}, "short_side=16,32: must rise, from 32"),
        ({"model": {"hidden": 15}}, "r.yaml: hidden=15"),
    ],
)
def test_what_cannot_be_trained_is_one_line(refused, changes, message):
    assert message in refused(1, **changes)


def test_settings_are_refused_in_the_words_of_the_command_line(recipe, tmp_path, capsys):
    (tmp_path / "r.yaml").write_text(json.dumps(recipe.to_dict()))
    assert main(["train", str(tmp_path / "r.yaml"), "--set", "steps=1", "--set", "loss.kl"]) == 1
    assert capsys.readouterr().err == "vidtwin: error: --set loss.kl: expected key=value, as in loss.kl=0.001\n"


def test_files_that_are_missing_or_no_recipes_are_one_line(tmp_path, capsys):
    assert main(["train", str(tmp_path / "no.yaml")]) == 1
    assert "no.yaml: no such recipe" in capsys.readouterr().err
    (tmp_path / "r.yaml").write_text("steps: [")
    assert main(["train", str(tmp_path / "r.yaml")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "r.yaml: not valid YAML" in line


def test_a_folder_that_cannot_be_made_is_one_line(recipe, tmp_path, capsys):
    (tmp_path / "r.yaml").write_text(json.dumps(recipe.to_dict()))
    (tmp_path / "file").write_text("")
    assert main(["train", str(tmp_path / "r.yaml"), "--device", "cpu", "--out", str(tmp_path / "file" / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "file" in line


def test_options_replace_the_recipes_keys(recipe, tmp_path, capsys):
    folder = recipe.train_videos
    values = replace(recipe, train_videos="nowhere", validation_videos="nowhere", steps=9).to_dict()
    (tmp_path / "r.yaml").write_text(json.dumps(values))
    options = [
        "--train-videos",
        folder,
        "--validation-videos",
        folder,
        "--steps",
        "1",
        "--seed",
        "5",
        "--device",
        "cpu",
        "--set",
        "log_every=1",
    ]
    assert main(["train", str(tmp_path / "r.yaml"), *options, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert re.search(
        rf"^2 recordings of {folder}, 1 clips to validate on; [\d,]+ parameters; cpu, 1 process; 1 steps of 2$", said, re.M
    )
    assert f"trained 1 steps; the model is in {tmp_path / 'run' / 'model'}" in said
    assert "log_every: 1\n" in (tmp_path / "run" / "recipe.yaml").read_text()
    assert "seed: 5" in (tmp_path / "run" / "recipe.yaml").read_text()


@pytest.mark.parametrize("package", ["accelerate"])
def test_without_the_packages_of_training_it_says_what_to_install(tmp_path, package):
    program = f"import sys; sys.modules[{package!r}] = None; from vidtwin.cli import main; sys.exit(main(['train', 'r.yaml']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"vidtwin: error: training needs the package {package}: pip install 'vidtwin[train]'\n"


def test_check_data_prints_a_table_of_real_videos(recipe, assets, tmp_path, capsys):
    (tmp_path / "videos" / "audio.mp4").write_bytes((assets / "audio_only.mp4").read_bytes())
    report = tmp_path / "report.json"
    assert main(["check-data", recipe.train_videos, "--workers", "0", "--json-out", str(report)]) == 0
    table = capsys.readouterr().out
    assert "audio.mp4" in table
    values = json.loads(report.read_text())
    assert (values["recordings"], values["usable"], len(values["broken"])) == (3, 2, 1)
    assert str(values["frames"]) in table
