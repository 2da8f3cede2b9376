"""A folder that is written is locked: by no file, not in children, and no longer than its process lives."""

import os
import subprocess
import sys

import pytest

from vidtwin.cli import main
from vidtwin.files import clear_killed, locked

HOLD = """
import os, sys, time
from vidtwin.files import clear_killed, locked

with locked(sys.argv[1]):
    if os.fork():
        time.sleep(60)
    print("a child of the one that holds it", flush=True)
    time.sleep(3)
    os._exit(0)
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline()
    with pytest.raises(OSError, match="another run is writing it; wait for it, stop it, or choose another folder"):
        with locked(tmp_path):
            pass
    holder.kill()
    holder.wait()
    with locked(tmp_path):  # though the child lives on
        assert os.listdir(tmp_path) == []
    holder.stdout.close()


def test_one_process_holds_it_once(tmp_path):
    with locked(tmp_path), pytest.raises(OSError, match="another run"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("command", ["train", "train-generator"])
def test_two_trainings_in_one_folder_are_one_too_many(tmp_path, capsys, command):
    run, recipe = tmp_path / "run", tmp_path / "r.yaml"
    keys = "train_videos: v\nvalidation_videos: v\nperceptual: none" if command == "train" else "latents: l\nautoencoder: tiny"
    recipe.write_text(f"model: tiny\n{keys}\n")
    run.mkdir()
    with locked(run):
        assert main([command, str(recipe), "--out", str(run), "--device", "cpu"]) == 1
    assert f"{run}: another run is writing it" in capsys.readouterr().err
    assert os.listdir(run) == []


def test_what_a_killed_process_left_of_an_output_goes_and_nothing_else(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone = [f".out.partial-{ended.pid}.json", f".out.partial-{ended.pid}-x"]
    kept = [f".out.partial-{os.getpid()}.json", f".other.partial-{ended.pid}.json", ".out.partial-mine"]
    for name in (*gone, *kept):
        (tmp_path / name).touch()
    clear_killed(tmp_path / "out.json")
    assert {path.name for path in tmp_path.iterdir()} == set(kept)
