import functools
import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from tests.training.conftest import same_state, stopping_after_saving
from vidtwin.cli import main
from vidtwin.losses import objective
from vidtwin.losses.lpips import LPIPS
from vidtwin.model.checkpoint import read_pickle
from vidtwin.training import autoencoder, autoencoder_state, checkpoints
from vidtwin.training.autoencoder import train
from vidtwin.training.guard import Guard
from vidtwin.training.optimization import make_accelerator

BAD = 3  # the step (from 0) that is made bad; the discriminator takes part from 2 on


def from_call(first, last):
    """Whether the call that this is, counted from 0, is one of first..last."""
    calls = iter(range(10**6))
    return lambda: first <= next(calls) <= last


def nan_in_data(monkeypatch, last):
    collate = autoencoder.collate

    def bad(samples):
        batch = collate(samples)
        clips = batch.clips.float()
        clips[torch.tensor([2 * BAD <= number < 2 * (last + 1) for number in batch.indices.tolist()]), 0, 3, 5, 7] = math.nan
        return batch._replace(clips=clips)

    monkeypatch.setattr(autoencoder, "collate", bad)


def bad_distance(monkeypatch, last, value):
    forward, now = LPIPS.forward, from_call(BAD, last)
    monkeypatch.setattr(LPIPS, "forward", lambda self, x, y: forward(self, x, y) * (value if now() else 1.0))


def nan_in_a_gradient(monkeypatch, last):
    untrained = autoencoder.untrained
    now = from_call(BAD, last)

    def hooked(*arguments):
        model = untrained(*arguments)
        model.structure_decoder.to_frames.weight.register_hook(lambda gradient: gradient * (math.nan if now() else 1.0))
        return model

    monkeypatch.setattr(autoencoder, "untrained", hooked)


def nan_in_the_discriminators_loss(monkeypatch, last):
    hinge, now = objective.hinge_loss, from_call(BAD - 2, last - 2)
    monkeypatch.setattr(objective, "hinge_loss", lambda real, fake: hinge(real, fake) * (math.nan if now() else 1.0))


def nan_in_a_gradient_of_the_discriminator(monkeypatch, last):
    critic, now = autoencoder_state.PatchGAN, from_call(BAD - 2, last - 2)

    def hooked(*arguments):
        module = critic(*arguments)
        module.main[2].weight.register_hook(lambda gradient: gradient * (math.nan if now() else 1.0))
        return module

    monkeypatch.setattr(autoencoder_state, "PatchGAN", hooked)


FAULTS = [
    pytest.param(nan_in_data, "data", id="data"),
    pytest.param(functools.partial(bad_distance, value=math.nan), "perceptual", id="perceptual"),
    pytest.param(functools.partial(bad_distance, value=math.inf), "perceptual", id="infinite"),
    pytest.param(nan_in_a_gradient, "gradient of structure_decoder.to_frames.weight", id="gradient"),
    pytest.param(nan_in_the_discriminators_loss, "discriminator_hinge", id="discriminator"),
    pytest.param(nan_in_a_gradient_of_the_discriminator, "gradient of discriminator.main.2.weight", id="gradient-of-discriminator"),
]


@pytest.fixture
def watched(everything):
    """A checkpoint and a log line for every step."""
    return replace(everything, steps=BAD + 3, checkpoint_every=1, log_every=1, validate_every=100, keep_checkpoints=100)


def state_after(out, step):
    return read_pickle(out / "checkpoints" / f"step-{step:08}.pt")["run"]


@pytest.mark.parametrize(("fault", "name"), FAULTS)
def test_a_step_with_a_value_that_is_not_finite_changes_nothing_and_is_counted(watched, tmp_path, monkeypatch, capsys, fault, name):
    fault(monkeypatch, BAD)
    train(watched, tmp_path, progress=False)
    assert f"step {BAD + 1} skipped: {name} is not finite" in capsys.readouterr().out
    assert same_state(state_after(tmp_path, BAD), state_after(tmp_path, BAD + 1))
    for step in (BAD - 1, BAD + 1, BAD + 2):
        before, after = state_after(tmp_path, step), state_after(tmp_path, step + 1)
        assert not any(same_state(before[part], after[part]) for part in before)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["skipped_steps"] for record in records] == [0] * BAD + [1] * 3
    assert ["total" in record for record in records] == [step != BAD for step in range(BAD + 3)]


@pytest.mark.parametrize(("fault", "name"), FAULTS)
def test_values_that_stay_not_finite_end_the_run_and_keep_its_last_checkpoint(watched, tmp_path, monkeypatch, fault, name):
    fault(monkeypatch, BAD + 10)
    with pytest.raises(FloatingPointError, match=rf"^step 6: {name} is not finite, for 3 steps in a row") as caught:
        train(watched, tmp_path, progress=False)
    assert "\n" not in str(caught.value)
    last = checkpoints.latest(tmp_path, watched)
    assert (last["step"], last["skipped"]) == (5, 2)
    assert same_state(last["run"], state_after(tmp_path, BAD))
    monkeypatch.undo()
    train(watched, tmp_path, progress=False)
    assert checkpoints.latest(tmp_path, watched)["skipped"] == 2


def test_steps_that_are_skipped_now_and_then_do_not_end_the_run(watched, tmp_path, monkeypatch):
    forward, calls = LPIPS.forward, iter(range(100))
    monkeypatch.setattr(LPIPS, "forward", lambda self, x, y: forward(self, x, y) * (math.nan if next(calls) % 3 else 1.0))
    train(watched, tmp_path, progress=False)  # two of three steps are bad
    assert checkpoints.latest(tmp_path, watched)["skipped"] == 4


def test_one_bad_pass_of_several_skips_the_step(watched, tmp_path, monkeypatch):
    forward, now = LPIPS.forward, from_call(2 * BAD, 2 * BAD)
    monkeypatch.setattr(LPIPS, "forward", lambda self, x, y: forward(self, x, y) * (math.nan if now() else 1.0))
    train(replace(watched, accumulate=2), tmp_path, progress=False)
    assert same_state(state_after(tmp_path, BAD), state_after(tmp_path, BAD + 1))


def test_the_command_says_it_in_one_line(watched, tmp_path, monkeypatch, capsys):
    (tmp_path / "r.yaml").write_text(json.dumps(watched.to_dict()))
    bad_distance(monkeypatch, 100, math.nan)
    assert main(["train", str(tmp_path / "r.yaml"), "--device", "cpu", "--out", str(tmp_path / "run")]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vidtwin:")]
    assert len(lines) == 1
    assert "step 6: perceptual is not finite" in lines[0]


def test_a_skipped_step_under_a_loss_scale_lowers_it_and_the_run_goes_on(watched, tmp_path, monkeypatch):
    def scaled(*arguments):  # float16 has its scale on GPUs only; a scale alone works anywhere
        accelerator = make_accelerator(*arguments)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        return accelerator

    monkeypatch.setattr(autoencoder, "make_accelerator", scaled)
    bad_distance(monkeypatch, BAD, math.nan)
    train(watched, tmp_path, progress=False)
    before, after = state_after(tmp_path, BAD), state_after(tmp_path, BAD + 1)
    assert (before.pop("scaler")["scale"], after.pop("scaler")["scale"]) == (1024.0, 512.0)
    assert same_state(before, after)
    assert not same_state(after["model"], state_after(tmp_path, BAD + 2)["model"])


def test_an_overflow_inside_the_encoder_is_a_skipped_step(watched, tmp_path, monkeypatch):
    untrained, now = autoencoder.untrained, from_call(BAD, BAD)

    def hooked(*arguments):
        model = untrained(*arguments)
        model.encoder.register_forward_hook(lambda module, inputs, z: z * (math.inf if model.training and now() else 1.0))
        return model

    monkeypatch.setattr(autoencoder, "untrained", hooked)
    train(watched, tmp_path, progress=False)
    assert same_state(state_after(tmp_path, BAD), state_after(tmp_path, BAD + 1))


def test_a_norm_beyond_all_numbers_of_gradients_that_are_finite_is_named_as_such():
    module = torch.nn.Linear(2, 2)
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 1e30)
    guard = Guard(2)
    values = {"total": 1.0, "gradient_norm": math.inf}
    assert guard.passes(values, {"": module}, 0) == "gradient of all parameters together"
    assert guard.passes({"total": 1.0}, {"": module}, 1) is None
    assert (guard.skipped, guard.row) == (1, 0)


TWO = """
import math, sys
from vidtwin.training import autoencoder
from vidtwin.training.recipe import read_recipe

collate = autoencoder.collate

def bad(samples):
    batch = collate(samples)
    clips = batch.clips.float()
    clips[batch.indices == 15] = math.nan  # of step 4 and the second process alone
    return batch._replace(clips=clips)

autoencoder.collate = bad
autoencoder.train(read_recipe(sys.argv[1]), sys.argv[2], progress=False)
"""


@pytest.mark.slow
def test_all_processes_skip_a_step_that_is_bad_on_one(watched, tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    (tmp_path / "r.yaml").write_text(json.dumps(replace(watched, batch_size=4).to_dict()))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "two.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "r.yaml"), str(tmp_path / "run")], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 4 skipped: data is not finite") == 1
    assert same_state(state_after(tmp_path / "run", BAD), state_after(tmp_path / "run", BAD + 1))
    assert not same_state(state_after(tmp_path / "run", BAD + 1), state_after(tmp_path / "run", BAD + 2))


def test_a_run_that_was_stopped_after_a_bad_first_step_goes_on_to_the_same_bits(watched, tmp_path, monkeypatch):
    forward = LPIPS.forward

    def first_bad():
        calls = iter(range(100))
        monkeypatch.setattr(LPIPS, "forward", lambda self, x, y: forward(self, x, y) * (1.0 if next(calls) else math.nan))

    first_bad()
    train(watched, tmp_path / "never", progress=False)
    first_bad()
    with stopping_after_saving():
        train(watched, tmp_path / "stopped", progress=False)
    train(watched, tmp_path / "stopped", progress=False)
    for step in (1, 2, 6):
        assert same_state(state_after(tmp_path / "never", step), state_after(tmp_path / "stopped", step)), step
