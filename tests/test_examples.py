"""The scripts in examples/ run as they are, and so does what docs/start.md and docs/cookbook.md show."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vidtwin import MotionExtractor
from vidtwin.cli import COMMANDS, main
from vidtwin.cli.options import SAMPLE
from vidtwin.video.read.reader import read_video

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def run(name: str, out: Path) -> str:
    """What a script says; its output is `out`."""
    command = [sys.executable, str(EXAMPLES / name), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"written {out}\n")
    return done.stdout


def test_reconstruct_writes_a_clip_and_says_how_near_it_is(tmp_path):
    said = run("reconstruct.py", tmp_path / "out.mp4")
    assert "52416 values a clip" in said
    assert 28 < float(said.split("PSNR ")[1].split()[0]) < 40
    assert read_video(tmp_path / "out.mp4").frames.shape == (16, 224, 224, 3)


def test_motion_latents_are_the_same_offline_and_live(tmp_path):
    assert "equal: True" in run("motion_latents.py", tmp_path / "motion.npz")
    with np.load(tmp_path / "motion.npz") as cache:  # pickles are refused
        motion, record = cache["motion"], json.loads(str(cache["record"]))
    assert motion.shape == (10, 1792) and motion.dtype == np.float32
    assert MotionExtractor.from_record(record).weights_hash == record["weights"]["hash"]


def test_swap_writes_as_many_frames_as_a_half_has(tmp_path):
    said = run("swap.py", tmp_path / "out.mp4")
    assert "49 frames: Structure of frames 0 to 48, Dynamics of 49 to 97" in said
    assert read_video(tmp_path / "out.mp4").frames.shape == (49, 224, 224, 3)


def test_every_script_is_tried():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"reconstruct.py", "motion_latents.py", "swap.py"}


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / name).read_text(), flags=re.DOTALL)


def test_the_python_of_the_pages_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE, "my.mp4")
    assert main(["encode", "my.mp4", "-o", "my.vidtwin"]) == 0
    (first,) = blocks("start.md", "python")
    capsys.readouterr()
    exec(compile(first, "start.md", "exec"), {})
    assert capsys.readouterr().out.endswith("98 True\n")
    for block in blocks("cookbook.md", "python"):
        exec(compile(block, "cookbook.md", "exec"), {})


def commands(name: str) -> list[list[str]]:
    """The words after `vidtwin` of each command of a page's blocks."""
    lines = [line.partition(" #")[0] for block in blocks(name, "bash") for line in block.replace("\\\n", " ").splitlines()]
    found = [re.search(r"(?:^|-m )vidtwin (.*)", line) for line in lines]
    return [shlex.split(match[1]) for match in found if match and match[1] != "--version"]


@pytest.mark.parametrize("name", ["start.md", "cookbook.md"])
def test_every_option_of_the_pages_exists(name, capsys):
    options: dict[str, set[str]] = {}
    for command, *words in commands(name):
        options.setdefault(command, set()).update(word for word in words if word.startswith("-"))
    assert len(options) > 5
    for command, named in options.items():
        assert command in COMMANDS
        with pytest.raises(SystemExit):
            main([command, "--help"])
        known = set(re.findall(r"--?[\w-]+", capsys.readouterr().out))
        assert named <= known, command
