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
from vidtwin.training.autoencoder import learning_rate, refuse_non_finite, train
from vidtwin.training.recipe import Recipe, read_recipe

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
        batch_size=2,
        steps=6,
        warmup_steps=2,
        workers=0,
        log_every=2,
        validate_every=4,
        checkpoint_every=2,
        validation_clips=1,
    )


def same(a: VidTwin, b: VidTwin) -> bool:
    return all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


def test_a_run_leaves_model_log_and_checkpoint(recipe, tmp_path):
    model = train(recipe, tmp_path / "run", progress=False)
    assert not model.training
    assert sorted(os.listdir(tmp_path / "run")) == ["checkpoint.pt", "log.jsonl", "model"]
    assert same(model, VidTwin.from_pretrained(tmp_path / "run" / "model"))
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4, 6]
    assert {"total", "l1", "l2", "kl", "kl_structure", "kl_dynamics", "psnr", "gradient_norm", "clips_per_second"} <= set(
        records[0]
    )
    assert "validation_psnr" in records[1]
    assert "validation_psnr" in records[2]


def test_resuming_equals_never_stopping(recipe, tmp_path):
    never = train(recipe, tmp_path / "never", progress=False)

    import vidtwin.training.autoencoder as loop

    saved = loop.save

    def stop_after_saving(*arguments):
        saved(*arguments)
        raise KeyboardInterrupt

    loop.save = stop_after_saving  # the process ends right after its first checkpoint
    try:
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "stopped", progress=False)
    finally:
        loop.save = saved
    resumed = train(replace(recipe, workers=2), tmp_path / "stopped", progress=False)
    assert same(never, resumed)


def test_a_killed_run_resumes_to_the_same_weights(recipe, tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    program = [sys.executable, "-m", "vidtwin", "train", str(tmp_path / "r.yaml"), "--device", "cpu", "--out"]
    command = [*program, str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "killed" / "checkpoint.pt").exists()
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run([*program, str(tmp_path / "never")], check=True, capture_output=True)
    assert same(*(VidTwin.from_pretrained(tmp_path / run / "model") for run in ("killed", "never")))


def test_another_recipe_does_not_continue_a_run(recipe, tmp_path):
    train(recipe, tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match=r"another recipe \(learning_rate: 0.001, now 0.5\)"):
        train(replace(recipe, learning_rate=0.5), tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="more than steps=3"):
        train(replace(recipe, steps=3), tmp_path / "run", progress=False)
    train(replace(recipe, steps=8), tmp_path / "run", progress=False)


def test_a_damaged_checkpoint_and_a_damaged_video_are_one_line(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match="checkpoint.pt"):
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
        recipe, model=larger, steps=100, learning_rate=4e-3, flip=False, log_every=10, validate_every=10, checkpoint_every=100
    )
    train(more, tmp_path / "run", progress=False)
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    validations = [record["validation_psnr"] for record in records if "validation_psnr" in record]
    assert validations[-1] > validations[0] + 1


def test_broken_videos_are_left_out_and_named(recipe, assets, tmp_path, capsys):
    folder = tmp_path / "videos"
    (folder / "audio.mp4").write_bytes((assets / "audio_only.mp4").read_bytes())
    train(replace(recipe, steps=1), tmp_path / "run", progress=False)
    assert "left out" in capsys.readouterr().out
    for video in folder.iterdir():
        video.write_bytes(b"")
    with pytest.raises(ValueError, match="no video with a whole clip"):
        train(recipe, tmp_path / "other", progress=False)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        train(replace(recipe, train_videos=str(tmp_path / "no")), tmp_path / "other", progress=False)


def test_values_that_are_not_finite_stop_the_run_by_name():
    with pytest.raises(FloatingPointError, match="step 3: kl is nan"):
        refuse_non_finite({"l1": torch.tensor(1.0), "kl": torch.tensor(float("nan"))}, 3)


def test_the_learning_rate_warms_up_and_follows_a_cosine():
    recipe = Recipe(model="tiny", train_videos="a", validation_videos="b", steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(step, recipe) for step in range(100)]
    assert rates[0] == 0.1
    assert max(rates) == rates[9] == 1.0
    assert rates[55] == pytest.approx((1 + 0.01) / 2, abs=0.01)
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)


def test_recipes_survive_the_checkpoint(recipe, tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    assert read_recipe(tmp_path / "r.yaml") == recipe
