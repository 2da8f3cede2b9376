import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
import yaml

from tests.training.conftest import FIELDS, difference, launch, same_checkpoints, stopping_after_saving
from vidtwin import VidTwin
from vidtwin.losses.objective import LossWeights
from vidtwin.training import checkpoints
from vidtwin.training.autoencoder import train
from vidtwin.training.recipe import read_recipe


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

    with stopping_after_saving():
        train(recipe, tmp_path / "stopped", progress=False)
    resumed = train(replace(recipe, workers=2), tmp_path / "stopped", progress=False)
    assert same(never, resumed)


def test_another_recipe_does_not_continue_a_run(recipe, tmp_path):
    train(recipe, tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match=r"another recipe; .* \(learning_rate: 0.001, now 0.5\)"):
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


@pytest.mark.slow
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
    assert "1 of 3 recordings were skipped" in capsys.readouterr().out
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


@pytest.mark.slow
def test_two_processes_train_to_the_weights_of_one_with_the_doubled_batch(everything, tmp_path):
    # A large eps: Adam's first steps are the signs of gradients, and rounding alone decides the sign of one that is all but zero.
    recipe = replace(everything, model=FIELDS | {"query_dropout": 0.0}, batch_size=4, steps=5, checkpoint_every=3, eps=1e-3)
    train(recipe, tmp_path / "one", progress=False)
    launch(recipe, tmp_path / "two", 2)
    assert difference(tmp_path / "one", tmp_path / "two") < 1e-5
    shutil.copytree(tmp_path / "two", tmp_path / "more")
    checkpoints.saved(tmp_path / "more")[0].unlink()  # as if it had been killed before its last checkpoint
    launch(recipe, tmp_path / "more", 2)
    assert same_checkpoints(tmp_path / "two", tmp_path / "more")


@pytest.mark.slow
def test_sharded_processes_train_to_the_same_weights(everything, tmp_path):
    # It gets worse by its own wish, so that no validation but the first is the best: saving would gather the weights anew.
    worse = LossWeights(l1=-1.0, perceptual=0.05)
    every = {"log_every": 1, "validate_every": 1, "checkpoint_every": 10}
    recipe = replace(everything, model=FIELDS | {"query_dropout": 0.0}, batch_size=4, steps=4, eps=1e-3, loss=worse, **every)
    train(recipe, tmp_path / "one", progress=False)
    launch(replace(recipe, shard=True), tmp_path / "sharded", 2)
    assert difference(tmp_path / "one", tmp_path / "sharded") < 1e-5
    train(replace(recipe, steps=5), tmp_path / "one", progress=False)
    launch(replace(recipe, steps=5, shard=True), tmp_path / "sharded", 2)  # goes on
    assert difference(tmp_path / "one", tmp_path / "sharded") < 1e-5
