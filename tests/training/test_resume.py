import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from tests.training.conftest import same_checkpoints, same_state
from vidtwin import VidTwin
from vidtwin.training import checkpoints
from vidtwin.training.autoencoder import train

KILLS, STEPS = 5, 11
TIMED = ("clips_per_second", "data_share", "log_share")  # of the clock, not of the run


def start(recipe, out, workers):
    path = out.parent / f"{workers}.yaml"
    path.write_text(json.dumps(replace(recipe, workers=workers).to_dict()))
    command = [sys.executable, "-m", "vidtwin", "train", str(path), "--device", "cpu", "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def step_of(out):
    paths = checkpoints.saved(out)
    return int(paths[0].stem[5:]) if paths else 0


def unfinished(out):
    """What is being written now, or was when a process was killed."""
    return [*out.glob(".*.partial-*"), *(out / "checkpoints").glob(".*.partial-*")]


def moment(kind, out, chance):
    """A condition to kill on: anywhere in the start, some time after a few steps, or while a model or checkpoint is written."""
    before, begin = step_of(out), time.monotonic()
    if kind == "start":
        delay = chance.uniform(0, 4)
        return lambda: time.monotonic() > begin + delay
    if kind in ("model", "step"):
        folder = out if kind == "model" else out / "checkpoints"
        known = set(folder.glob(f".{kind}*.partial-*"))
        return lambda: set(folder.glob(f".{kind}*.partial-*")) - known
    steps, delay, reached = chance.randint(1, 2), chance.uniform(0, 0.4), []

    def after_steps():
        if step_of(out) >= before + steps:
            reached.append(time.monotonic())
        return reached and time.monotonic() > reached[0] + delay

    return after_steps


@pytest.mark.slow
def test_a_run_that_is_killed_five_times_ends_with_the_same_bits(everything, tmp_path, record_property):
    recipe = replace(everything, steps=STEPS, log_every=1, validate_every=6, checkpoint_every=1)
    train(recipe, tmp_path / "never", progress=False)
    chance, run, kills, attempt = random.Random(7), tmp_path / "killed", [], 0
    kinds = ["start", "step", "steps", "model", "steps", "step", "steps"]
    while len(kills) < KILLS and attempt < len(kinds):
        process = start(recipe, run, workers=2 * (attempt % 2))
        now = moment(kinds[attempt], run, chance)
        while process.poll() is None and not now():
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        if process.returncode == -signal.SIGKILL:
            kills.append((kinds[attempt], step_of(run), len(unfinished(run))))
        else:
            assert process.returncode == 0, errors
        attempt += 1
    print("kills (kind, last checkpoint, files left unfinished so far):", kills)
    record_property("kills", kills)
    assert len(kills) == KILLS
    assert kills[0][1] == 0  # before the first checkpoint
    assert max(left for _, _, left in kills) > 0  # in the middle of a file

    train(recipe, run, progress=False)
    assert same_checkpoints(run, tmp_path / "never")
    assert not unfinished(run / "checkpoints") + unfinished(run)
    for folder in ("model", "best"):
        a, b = (dict(VidTwin.from_pretrained(out / folder).state_dict()) for out in (run, tmp_path / "never"))
        assert same_state(a, b), folder

    def lines(out):
        records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        return [{name: value for name, value in record.items() if name not in TIMED} for record in records]

    assert lines(run) == lines(tmp_path / "never")
