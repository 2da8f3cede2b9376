import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from tests.training.conftest import FIELDS, difference, same_checkpoints, same_state
from vidtwin.cli import main
from vidtwin.model.checkpoint import read_pickle
from vidtwin.training import checkpoints
from vidtwin.training.autoencoder import train

WITHOUT_DROPOUT = FIELDS | {"query_dropout": 0.0}


def last_state(out):
    return read_pickle(checkpoints.saved(out)[0])["run"]


def command_line(recipe, out):
    """The arguments of `vidtwin` that train `recipe` in `out`."""
    path = out.with_suffix(".yaml")
    path.write_text(json.dumps(recipe.to_dict()))
    return ["train", str(path), "--device", "cpu", "--out", str(out)]


def test_gradient_checkpointing_gives_the_same_bits(everything, tmp_path):
    for checkpointing in (False, True):
        train(replace(everything, steps=3, gradient_checkpointing=checkpointing), tmp_path / str(checkpointing), progress=False)
    assert same_checkpoints(tmp_path / "False", tmp_path / "True")


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")), reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_trains_to_the_same_weights(everything, tmp_path):
    few = {"query_layers": 1, "structure_downsamples": 0, "dynamics_downsamples": 0}  # each operation more is compiled four times
    recipe = replace(everything, model=WITHOUT_DROPOUT | few, batch_size=1, steps=3, eps=1e-3)  # validated one by one
    for compiled in (False, True):
        train(replace(recipe, compile=compiled), tmp_path / str(compiled), progress=False)
    assert difference(tmp_path / "False", tmp_path / "True") < 1e-4


def test_bfloat16_is_of_the_passes_and_not_of_the_weights(everything, tmp_path):
    for precision in ("float32", "bfloat16"):
        train(replace(everything, steps=3, precision=precision), tmp_path / precision, progress=False)
    state = last_state(tmp_path / "bfloat16")
    for part in ("model", "ema", "discriminator"):
        for name, tensor in state[part].items():
            assert tensor.dtype == torch.float32, name
            assert torch.isfinite(tensor).all(), name
    assert not same_state(state["model"], last_state(tmp_path / "float32")["model"])
    lines = [json.loads(line) for line in (tmp_path / "bfloat16" / "log.jsonl").read_text().splitlines()]
    assert [line["skipped_steps"] for line in lines] == [0, 0]
    assert all(value is not None for line in lines for value in line.values())


def test_float16_on_a_cpu_is_refused_in_one_line(recipe, tmp_path, capsys):
    assert main(command_line(replace(recipe, precision="float16"), tmp_path / "run")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vidtwin: error: precision: float16 is not available on this device")
    assert line.endswith("use float32")


def test_passes_of_a_step_add_up_to_one(everything, tmp_path):
    # The adaptive weight of the adversarial term is of a pass, so it is off here; eps as in the test of two processes.
    judged = replace(everything.discriminator, adaptive=False)
    recipe = replace(everything, model=WITHOUT_DROPOUT, batch_size=4, steps=4, eps=1e-3, discriminator=judged)
    for accumulate in (1, 2):
        train(replace(recipe, accumulate=accumulate), tmp_path / str(accumulate), progress=False)
    assert difference(tmp_path / "1", tmp_path / "2") < 1e-5
    first, second = (last_state(tmp_path / name) for name in ("1", "2"))
    torch.testing.assert_close(first["logvar"], second["logvar"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("batch_size", "accumulate", "use"), [(4, 3, 3), (2, 4, 4), (7, 2, 6)])
def test_a_batch_that_does_not_divide_is_refused(recipe, tmp_path, batch_size, accumulate, use):
    with pytest.raises(
        ValueError, match=rf"batch_size={batch_size}: must be a multiple of 1 processes x accumulate=.*; use {use}$"
    ):
        train(replace(recipe, batch_size=batch_size, accumulate=accumulate), tmp_path / "run", progress=False)


def wait_for_lines(path, count, process):
    """Wait until a log has `count` lines."""
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_text().count("\n") < count:
        assert process.poll() is None and time.monotonic() < deadline, "the run ended before it was asked to"
        time.sleep(0.01)


def ask_to_stop(recipe, out, lines, number, group):
    """Run the command until its log has `lines` lines more, send it (or its processes, all of them) a signal, and give its end."""
    command = [sys.executable, "-m", "vidtwin", *command_line(recipe, out)]
    known = (out / "log.jsonl").read_text().count("\n") if out.exists() else 0
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    wait_for_lines(out / "log.jsonl", known + lines, process)
    (os.killpg if group else os.kill)(process.pid, number)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_stopping_finishes_the_step_saves_it_and_goes_on_to_the_same_bits(everything, tmp_path, workers):
    # A constant learning rate, so that `steps` can be as many as were done.
    recipe = replace(everything, steps=10**6, final_lr_ratio=1.0, workers=workers)
    endless = replace(recipe, log_every=1, validate_every=10**6, checkpoint_every=10**6)
    done = 0
    # Ctrl-C reaches all processes of the terminal, a scheduler's signal one of them or all; without workers it is one anyway.
    signals = [(signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGTERM, True)]
    for number, group in signals if workers else signals[1:2]:
        code, output, errors = ask_to_stop(endless, tmp_path / "run", 2, number, group)
        assert code == 130, errors
        assert errors.splitlines()[-1] == "vidtwin: interrupted"
        assert "Traceback" not in errors
        before, done = done, read_pickle(checkpoints.saved(tmp_path / "run")[0])["step"]
        assert done >= before + 2
        assert f"stopped after step {done}; the same command continues from the last checkpoint" in output
    ended = replace(recipe, steps=done + 2, log_every=10**6, validate_every=10**6, checkpoint_every=10**6)
    train(ended, tmp_path / "run", progress=False)
    train(ended, tmp_path / "never", progress=False)
    assert same_checkpoints(tmp_path / "run", tmp_path / "never")
