"""The scripts in examples/ run as they are, with the shipped weights and the sample clip."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from vidtwin import MotionExtractor
from vidtwin.video.read import read_video

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, out: Path) -> str:
    """What a script says; its output is `out`."""
    command = [sys.executable, str(EXAMPLES / name), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"written {out}\n")
    return done.stdout


def test_reconstruct_writes_a_clip_and_says_how_near_it_is(tmp_path):
    said = run("reconstruct.py", tmp_path / "out.mp4")
    assert "8064 values a clip" in said
    assert 19 < float(said.split("PSNR ")[1].split()[0]) < 30
    assert read_video(tmp_path / "out.mp4").frames.shape == (16, 224, 224, 3)


def test_motion_latents_are_the_same_offline_and_live(tmp_path):
    assert "equal: True" in run("motion_latents.py", tmp_path / "motion.npz")
    with np.load(tmp_path / "motion.npz") as cache:  # pickles are refused
        motion, record = cache["motion"], json.loads(str(cache["record"]))
    assert motion.shape == (10, 1792) and motion.dtype == np.float32
    MotionExtractor.from_record(record).check(record, **record["episode"])


def test_swap_writes_as_many_frames_as_a_half_has(tmp_path):
    said = run("swap.py", tmp_path / "out.mp4")
    assert "49 frames: Structure of frames 0 to 48, Dynamics of 49 to 97" in said
    assert read_video(tmp_path / "out.mp4").frames.shape == (49, 224, 224, 3)


def test_every_script_is_tried():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"reconstruct.py", "motion_latents.py", "swap.py"}
