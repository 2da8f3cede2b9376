import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
import yaml

from tests.conftest import SMALL
from vidtwin import VidTwin
from vidtwin.checkpoint import read_pickle
from vidtwin.losses.lpips import LPIPS
from vidtwin.losses.objective import LossWeights
from vidtwin.training import checkpoints
from vidtwin.training.autoencoder import train
from vidtwin.training.recipe import DiscriminatorRecipe, Recipe, read_recipe

FIELDS = SMALL.to_dict() | {"query_dropout": 0.1}


@pytest.fixture
def recipe(assets, tmp_path) -> Recipe:
    """A few steps of a small model on two real videos."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("h264_aac.mp4", "rot90.mp4"):
        (folder / name).write_bytes((assets / name).read_bytes())
    return Recipe(
        model=FIELDS,
        train_videos=str(folder),
        validation_videos=str(folder),
        perceptual="none",
        batch_size=2,
        steps=6,
        warmup_steps=2,
        workers=0,
        log_every=2,
        validate_every=4,
        checkpoint_every=2,
        validation_clips=1,
    )


@pytest.fixture
def everything(recipe, tmp_path) -> Recipe:
    """The same with every loss on: a narrow LPIPS of random weights, a learned log-variance, discriminator, LeCam, EMA."""
    torch.manual_seed(0)
    torch.save(LPIPS((4, 4, 8, 8, 8)).state_dict(), tmp_path / "lpips.pth")
    return replace(
        recipe,
        perceptual="lpips",
        perceptual_weights=str(tmp_path / "lpips.pth"),
        loss=LossWeights(l1=1.0, l2=0.5, perceptual=0.05),
        learned_logvar=True,
        discriminator=DiscriminatorRecipe(start=2, width=4, layers=2, lecam=1e-3, warmup_steps=2),
        ema_decay=0.9,
    )


def same_checkpoints(a, b) -> bool:
    """Whether the last checkpoints of two runs hold the same bits: weights, running means, both optimizers."""
    first, second = (read_pickle(checkpoints.saved(run)[0]) for run in (a, b))
    return first["step"] == second["step"] and same_state(first["run"], second["run"])


def same_state(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_state, a, b))
    return a == b


def same(a: VidTwin, b: VidTwin) -> bool:
    return all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


def test_a_run_leaves_model_log_and_checkpoint(recipe, tmp_path):
    model = train(recipe, tmp_path / "run", progress=False)
    assert not model.training
    assert sorted(os.listdir(tmp_path / "run")) == [
        "best",
        "checkpoints",
        "log.jsonl",
        "model",
        "recipe.yaml",
        "tensorboard",
        "videos",
    ]
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == ["step-00000004.pt", "step-00000006.pt"]
    assert read_recipe(tmp_path / "run" / "recipe.yaml") == recipe
    assert same(model, VidTwin.from_pretrained(tmp_path / "run" / "model"))
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4, 6]
    assert {"total", "l1", "l2", "kl", "kl_structure", "kl_dynamics", "psnr", "gradient_norm", "clips_per_second"} <= set(
        records[0]
    )
    assert "validation_psnr" in records[1]
    assert "validation_psnr" in records[2]


def test_resuming_equals_never_stopping(recipe, tmp_path, monkeypatch):
    never = train(recipe, tmp_path / "never", progress=False)

    saved = checkpoints.save

    def stop_after_saving(*arguments):
        saved(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", stop_after_saving)  # the process ends right after its first checkpoint
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "stopped", progress=False)
    monkeypatch.undo()
    resumed = train(replace(recipe, workers=2), tmp_path / "stopped", progress=False)
    assert same(never, resumed)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_resumes_to_the_same_weights(everything, tmp_path, workers):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(replace(everything, workers=workers).to_dict()))
    program = [sys.executable, "-m", "vidtwin", "train", str(tmp_path / "r.yaml"), "--device", "cpu", "--out"]
    command = [*program, str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not checkpoints.saved(tmp_path / "killed") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoints.saved(tmp_path / "killed")
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run([*program, str(tmp_path / "never")], check=True, capture_output=True)
    assert same_checkpoints(tmp_path / "killed", tmp_path / "never")


def test_another_recipe_does_not_continue_a_run(recipe, tmp_path):
    train(recipe, tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match=r"another recipe \(learning_rate: 0.001, now 0.5\)"):
        train(replace(recipe, learning_rate=0.5), tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="more than steps=3"):
        train(replace(recipe, steps=3), tmp_path / "run", progress=False)
    train(replace(recipe, steps=8), tmp_path / "run", progress=False)


def test_a_damaged_checkpoint_and_a_damaged_video_are_one_line(recipe, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step-00000002.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match="step-00000002.pt"):
        train(recipe, tmp_path / "run", progress=False)
    for video in (tmp_path / "videos").iterdir():
        data = bytearray(video.read_bytes())
        data[8_000:30_000] = bytes(22_000)
        video.write_bytes(data)
    with pytest.raises(ValueError, match="cannot be decoded") as caught:
        train(replace(recipe, workers=1, steps=30), tmp_path / "other", progress=False)
    assert "\n" not in str(caught.value)


def test_a_resumed_log_has_every_step_once(recipe, tmp_path):
    train(replace(recipe, checkpoint_every=4, log_every=1, steps=4), tmp_path / "run", progress=False)
    with (tmp_path / "run" / "log.jsonl").open("a") as log:
        log.write('{"step": 5}\n{"step": 6, "tot')  # logged, but its checkpoint was never written; then killed
    train(replace(recipe, log_every=1), tmp_path / "run", progress=False)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_it_learns_a_real_clip(recipe, tmp_path):
    larger = FIELDS | {"hidden": 32, "structure_channels": 8, "structure_width": 32, "query_dropout": 0.0}
    more = replace(
        recipe,
        model=larger,
        steps=100,
        learning_rate=4e-3,
        initialization="principal",
        init_clips=2,
        flip=False,
        log_every=10,
        validate_every=10,
        checkpoint_every=100,
    )
    train(more, tmp_path / "run", progress=False)
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    validations = [record["validation_psnr"] for record in records if "validation_psnr" in record]
    assert validations[-1] > validations[0] + 1


def test_broken_videos_are_passed_over_and_listed(recipe, assets, tmp_path, capsys):
    folder = tmp_path / "videos"
    (folder / "audio.mp4").write_bytes((assets / "audio_only.mp4").read_bytes())
    train(replace(recipe, steps=3, max_failures=0.5), tmp_path / "run", progress=False)
    assert "1 of 3 recordings were passed over" in capsys.readouterr().out
    (record,) = map(json.loads, (tmp_path / "run" / "failures.jsonl").read_text().splitlines())
    assert record["recording"].endswith("audio.mp4")
    with pytest.raises(ValueError, match=r"1 of 3 recordings could not be used, more than max_failures=0.1"):
        train(replace(recipe, steps=3), tmp_path / "strict", progress=False)
    for video in folder.iterdir():
        video.write_bytes(b"")
    with pytest.raises(ValueError, match="none of 3 recordings holds a clip"):
        train(recipe, tmp_path / "other", progress=False)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        train(replace(recipe, train_videos=str(tmp_path / "no")), tmp_path / "other", progress=False)


def test_recipes_survive_the_checkpoint(recipe, tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    assert read_recipe(tmp_path / "r.yaml") == recipe


def launch(recipe, out, processes):
    """`vidtwin train` on several processes of this machine (gloo)."""
    out.parent.mkdir(exist_ok=True)
    path = out.parent / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(recipe.to_dict()))
    spread = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"] if processes > 1 else []
    command = [sys.executable, "-m", *spread, "vidtwin", "train", str(path), "--device", "cpu", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr


def difference(a, b) -> float:
    """Relative L2 of the weights, running means and discriminator in the last checkpoints of two runs, the worst of the three."""
    first, second = (read_pickle(checkpoints.saved(run)[0])["run"] for run in (a, b))

    def flat(state):
        return torch.cat([tensor.double().flatten() for tensor in state.values()])

    parts = [(flat(first[part]), flat(second[part])) for part in ("model", "ema", "discriminator")]
    return max(((x - y).norm() / x.norm()).item() for x, y in parts)


def test_two_processes_train_to_the_weights_of_one_with_the_doubled_batch(everything, tmp_path):
    # A large eps: Adam's first steps are the signs of gradients, and rounding alone decides the sign of one that is all but zero.
    recipe = replace(everything, model=FIELDS | {"query_dropout": 0.0}, batch_size=4, steps=5, eps=1e-3)
    launch(recipe, tmp_path / "one", 1)
    launch(recipe, tmp_path / "two", 2)
    assert difference(tmp_path / "one", tmp_path / "two") < 1e-5
    launch(replace(recipe, steps=3), tmp_path / "more", 2)
    launch(recipe, tmp_path / "more", 2)
    assert same_checkpoints(tmp_path / "two", tmp_path / "more")
