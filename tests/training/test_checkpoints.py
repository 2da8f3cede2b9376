import json
import math
import os
import resource
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from tests.training.conftest import same_checkpoints, same_state
from vidtwin import VidTwin
from vidtwin.cli import main
from vidtwin.model.checkpoint import read_pickle
from vidtwin.training import checkpoints
from vidtwin.training.autoencoder import train
from vidtwin.training.autoencoder_state import AutoencoderState
from vidtwin.training.optimization import make_accelerator


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@contextmanager
def largest_file(size):
    """Files that this process writes cannot grow beyond `size` bytes inside, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_keys_that_are_newer_than_a_run_are_at_their_defaults(recipe, tmp_path):
    train(replace(recipe, steps=2), tmp_path / "run", progress=False)
    path = checkpoints.saved(tmp_path / "run")[0]
    content = read_pickle(path)
    del content["recipe"]["loss"]["swap"], content["recipe"]["ema_decay"]
    torch.save(content, tmp_path / "older.pt")  # not over the file that is mapped
    (tmp_path / "older.pt").replace(path)
    assert checkpoints.latest(tmp_path / "run", recipe)["step"] == 2
    with pytest.raises(ValueError, match="another recipe"):
        checkpoints.latest(tmp_path / "run", replace(recipe, ema_decay=0.5))


@pytest.mark.parametrize(("keep", "kept"), [(1, (5,)), (3, (2, 4, 5))])
def test_the_last_checkpoints_are_kept_and_no_more(recipe, tmp_path, keep, kept):
    train(replace(recipe, steps=5, keep_checkpoints=keep), tmp_path / "run", progress=False)
    assert names(tmp_path / "run") == [f"step-{step:08}.pt" for step in kept]


def test_best_holds_the_weights_of_the_best_validation(everything, tmp_path):
    rates = {"learning_rate": 0.3, "warmup_steps": 1, "discriminator": None}  # so high that the model soon gets worse
    run = tmp_path / "run"
    plan = replace(everything, steps=4, log_every=1, validate_every=1, checkpoint_every=1, keep_checkpoints=10, **rates)
    train(plan, run, progress=False)
    scores = [json.loads(line)["validation_psnr"] for line in (run / "log.jsonl").read_text().splitlines()]
    best = scores.index(max(scores)) + 1
    assert best < 4
    content = read_pickle(run / "checkpoints" / f"step-{best:08}.pt")
    assert content["best"] == max(scores)
    assert same_state(dict(VidTwin.from_pretrained(run / "best").state_dict()), content["run"]["ema"])
    last = read_pickle(run / "checkpoints" / "step-00000004.pt")
    assert last["best"] == max(scores)
    assert same_state(dict(VidTwin.from_pretrained(run / "model").state_dict()), last["run"]["ema"])


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip_a_bit_of_a_weight(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose_a_block(path):
    content = bytearray(path.read_bytes())
    content[8192:12288] = bytes(4096)
    path.write_bytes(content)


def write_something_else(path):
    torch.save({"step": 6, "weights": torch.zeros(3)}, path)


def write_a_list(path):
    torch.save([1, 2], path)


def ask_for_code(path):
    torch.save({"step": print}, path)


DAMAGES = [cut, empty, flip_a_bit_of_a_weight, lose_a_block, write_something_else, write_a_list, ask_for_code]


def test_a_damaged_newest_checkpoint_is_passed_over_and_said(recipe, tmp_path, capsys):
    run = tmp_path / "run"
    train(recipe, run, progress=False)
    newest, before = checkpoints.saved(run)
    whole = newest.read_bytes()
    assert checkpoints.latest(run, recipe)["step"] == 6
    for damage in DAMAGES:
        newest.write_bytes(whole)
        damage(newest)
        capsys.readouterr()
        assert checkpoints.latest(run, recipe)["step"] == 4, damage
        (said,) = capsys.readouterr().out.splitlines()
        assert said.startswith("skipped: ")
        assert "step-00000006.pt" in said
    shutil.copy(newest, before)
    with pytest.raises(ValueError, match="step-00000006.pt.* choose another folder, or delete .*checkpoints to start over"):
        checkpoints.latest(run, recipe)


def test_checkpoints_that_are_well_formed_and_wrong_are_one_line(everything, tmp_path):
    run, plan = tmp_path / "run", replace(everything, steps=3, keep_checkpoints=1, log_every=3, validate_every=3)
    train(plan, run, progress=False)
    (path,) = checkpoints.saved(run)
    whole = torch.load(path, weights_only=True)  # all of it: the file is written over
    state, name = whole["run"], next(iter(whole["run"]["model"]))
    weight = state["model"][name]
    wrong: list[dict] = [
        {"step": "x"},
        {"step": 2},
        {"step": -3},
        {"step": 3.0},
        {"step": 10**40},
        {"recipe": [1]},
        {"recipe": {1: 2}},
    ]
    wrong += [{"recipe": whole["recipe"] | {"seed": weight}}, {"best": None}, {"best": "x"}, {"best": math.nan}, {"best": math.inf}]
    wrong += [{"skipped": 4}, {"skipped": None}, {"run": None}, {"run": {}}, {"more": 1}]
    wrong += [{"run": {key: value for key, value in state.items() if key != part}} for part in state]
    wrong += [{"run": state | {part: value}} for part in state for value in (None, 3, {})]
    wrong += [
        {"run": state | {part: {**state[part], name: tensor}}}
        for part in ("model", "ema")
        for tensor in (weight * math.nan, weight[:1])
    ]
    optimizer = state["optimizer_model"]
    wrong += [
        {"run": state | {"optimizer_model": optimizer | {"state": {name: value}}}}
        for value in (3, {"step": torch.tensor(1.0), "exp_avg": torch.zeros(1).expand(10**12), "exp_avg_sq": weight})
    ]
    wrong += [{"run": state | {"more": 1}}, {"run": state | {"logvar": torch.tensor(math.inf)}}]
    load = AutoencoderState(plan, VidTwin(plan.config), make_accelerator(plan, "cpu")).load
    for change in wrong:
        torch.save({**whole, **change}, path)
        with pytest.raises(ValueError, match="step-00000003.pt: not a (checkpoint|state)") as caught:
            found = checkpoints.latest(run, plan)
            checkpoints.restore(run, found, load)
        assert "\n" not in str(caught.value)
    torch.save(whole, path)
    checkpoints.restore(run, checkpoints.latest(run, plan), load)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_to_the_same_bits(everything, tmp_path, capsys):
    train(everything, tmp_path / "never", progress=False)
    shutil.copytree(tmp_path / "never", tmp_path / "damaged")
    flip_a_bit_of_a_weight(checkpoints.saved(tmp_path / "damaged")[0])
    train(everything, tmp_path / "damaged", progress=False)
    assert "skipped: " in capsys.readouterr().out
    assert same_checkpoints(tmp_path / "damaged", tmp_path / "never")


def test_a_damaged_checkpoint_does_not_push_out_the_good_ones(recipe, tmp_path):
    run = tmp_path / "run"
    train(replace(recipe, steps=6, checkpoint_every=3), run, progress=False)
    cut(checkpoints.saved(run)[0])
    again = replace(recipe, steps=6, checkpoint_every=1, keep_checkpoints=1)
    state = checkpoints.latest(run, again)["run"]
    checkpoints.save(run, again, 4, 0.0, 0, state)
    assert names(run) == ["step-00000004.pt", "step-00000006.pt"]
    assert checkpoints.latest(run, again)["step"] == 4
    checkpoints.save(run, again, 6, 0.0, 0, state)
    assert names(run) == ["step-00000006.pt"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before_and_goes_on_later(recipe, tmp_path, capsys):
    recipe, run, never = replace(recipe, steps=4), tmp_path / "run", tmp_path / "never"
    train(recipe, never, progress=False)
    (tmp_path / "r.yaml").write_text(json.dumps(recipe.to_dict()))
    command = ["train", str(tmp_path / "r.yaml"), "--device", "cpu", "--out", str(run)]
    size = checkpoints.saved(never)[0].stat().st_size
    assert size > (never / "model" / "model.safetensors").stat().st_size + 4096

    save, calls = checkpoints.save, iter(range(10))

    def second_time_full(*arguments):
        with largest_file(size - 2048 if next(calls) == 1 else resource.RLIM_INFINITY):
            save(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "save", second_time_full)
        assert main(command) == 1
    lines = capsys.readouterr().err.splitlines()
    assert not any("Traceback" in line for line in lines)
    (line,) = [line for line in lines if line.startswith("vidtwin:")]
    assert "step-00000004.pt: writing failed" in line
    assert "free some space" in line
    assert names(run) == ["step-00000002.pt"]
    assert not list(run.glob(".*"))
    assert main(command) == 0
    assert same_checkpoints(run, never)


def test_a_model_that_cannot_be_written_leaves_the_one_before(recipe, tmp_path, capsys):
    run = tmp_path / "run"
    train(replace(recipe, steps=2), run, progress=False)
    size = (run / "model" / "model.safetensors").stat().st_size
    (tmp_path / "r.yaml").write_text(json.dumps(replace(recipe, steps=4).to_dict()))
    with largest_file(size - 2048):
        assert main(["train", str(tmp_path / "r.yaml"), "--device", "cpu", "--out", str(run)]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vidtwin:")]
    assert "writing failed" in line
    assert names(run) == ["step-00000002.pt"]
    assert not list(run.glob(".*"))
    VidTwin.from_pretrained(run / "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 4}, "batch_size: 2, now 4"),
        ({"seed": 1, "betas": (0.5, 0.9)}, r"betas: \[0.9, 0.99\], now \[0.5, 0.9\]; |betas: .*, seed: 0, now 1"),
        ({"ema_decay": 0.5}, "ema_decay: None, now 0.5"),
        ({"precision": "bfloat16"}, "precision: 'float32', now 'bfloat16'"),
        ({"accumulate": 2}, "accumulate: 1, now 2"),
    ],
)
def test_what_a_step_does_cannot_change_in_a_run(recipe, tmp_path, changes, message):
    checkpoints.save(tmp_path, recipe, 2, 0.0, 0, {})
    with pytest.raises(ValueError, match=f"another recipe; choose another folder.*{message}") as caught:
        checkpoints.latest(tmp_path, replace(recipe, **changes))
    assert "\n" not in str(caught.value)


def test_how_a_run_is_carried_out_can_change(recipe, tmp_path):
    checkpoints.save(tmp_path, recipe, 2, 0.0, 0, {})
    changed = replace(recipe, workers=3, steps=9, train_videos="elsewhere", gradient_checkpointing=True, keep_checkpoints=5)
    assert checkpoints.latest(tmp_path, changed)["step"] == 2


def test_what_a_killed_process_left_unfinished_goes(recipe, tmp_path):
    run = tmp_path / "run"
    train(replace(recipe, steps=2), run, progress=False)
    (run / "checkpoints" / ".step-00000004.partial-1.pt").write_bytes(b"half a checkpoint")
    (run / ".log.partial-1.jsonl").write_text("{")
    (run / ".model.partial-a").mkdir()
    (run / ".model.partial-a" / "model.safetensors").write_bytes(b"half a model")
    (run / ".notes").write_text("of somebody else")
    train(replace(recipe, steps=4), run, progress=False)
    assert [path.name for path in run.glob(".*")] == [".notes"]
    assert names(run) == ["step-00000002.pt", "step-00000004.pt"]


@pytest.mark.parametrize("target", [None, "/dev/zero"])
def test_a_pipe_or_device_in_place_of_a_checkpoint_is_passed_over(recipe, tmp_path, target, capsys):
    """Opening it would wait for ever, or fill the memory."""
    out = tmp_path / "run"
    train(replace(recipe, steps=2), out, progress=False)
    odd = out / "checkpoints" / "step-00000004.pt"
    os.mkfifo(odd) if target is None else odd.symlink_to(target)
    assert checkpoints.latest(out, replace(recipe, steps=2))["step"] == 2
    assert f"skipped: {odd}: is a pipe, a socket or a device, not a file" in capsys.readouterr().out


def test_what_a_killed_process_left_goes_and_nothing_behind_a_link(tmp_path):
    for folder in (tmp_path / "run" / "checkpoints", tmp_path / "mine"):
        folder.mkdir(parents=True)
        (folder / "a").touch()
    (tmp_path / "run" / ".model.partial-1").symlink_to(tmp_path / "mine")
    (tmp_path / "run" / "checkpoints" / ".step.partial-2").mkdir()
    checkpoints.clear(tmp_path / "run")
    assert (tmp_path / "mine" / "a").exists() and not list((tmp_path / "run").rglob(".*.partial-*"))
