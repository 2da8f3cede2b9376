"""Training a generator on latents of real videos: resumed, spread over processes, refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import yaml

from tests.conftest import SMALL
from tests.latent_sets.conftest import encode
from tests.training.conftest import same_checkpoints
from vidtwin import LatentDataset, VidTwin
from vidtwin.cli import main
from vidtwin.latent_sets.plan import Plan
from vidtwin.latents.stream import Identity
from vidtwin.model.checkpoint import read_pickle
from vidtwin.training import checkpoints
from vidtwin.training.generator import frames_per_second, train_generator
from vidtwin.training.generator_recipe import GeneratorRecipe
from vidtwin.training.latent_rows import TrainingRows, class_names, collate
from vidtwin.training.recipe import read_recipe
from vidtwin.video import read_video
from vidtwin.video.write.writer import VideoWriter


@pytest.fixture(scope="module")
def latents(assets, model, tmp_path_factory):
    """Two classes of videos, one of them of three windows."""
    folder = tmp_path_factory.mktemp("latents")
    for name, label in (("h264_aac.mp4", "cat"), ("rot90.mp4", "dog"), ("vfr_jitter.mp4", "dog")):
        (folder / "videos" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(assets / name, folder / "videos" / label / name)
    model.save_pretrained(folder / "weights")
    plan = Plan(SMALL, Identity.of(model, "small"), stored="float32")
    encode(folder / "videos", folder / "rows", model, plan, label=True)
    return folder


@pytest.fixture
def recipe(latents) -> GeneratorRecipe:
    return GeneratorRecipe(
        model={"hidden": 32, "depth": 2, "heads": 2},
        latents=str(latents / "rows"),
        validation_latents=str(latents / "rows"),
        autoencoder=str(latents / "weights"),
        previous=True,
        separate_levels=0.5,
        batch_size=4,
        steps=6,
        warmup_steps=2,
        ema_decay=0.9,
        workers=0,
        log_every=2,
        validate_every=4,
        validation_rows=4,
        checkpoint_every=2,
        keep_checkpoints=9,
    )


def run_command(recipe, out, processes=1):
    """`vidtwin train-generator` on several processes of this machine (gloo)."""
    out.parent.mkdir(exist_ok=True)
    path = out.parent / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(recipe.to_dict()))
    spread = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"] if processes > 1 else []
    return [sys.executable, "-m", *spread, "vidtwin", "train-generator", str(path), "--device", "cpu", "--out", str(out)]


def difference(a, b) -> float:
    first, second = (read_pickle(checkpoints.saved(run)[0])["run"]["ema"] for run in (a, b))
    x, y = (torch.cat([tensor.double().flatten() for tensor in state.values()]) for state in (first, second))
    return ((x - y).norm() / x.norm()).item()


@pytest.mark.parametrize("method", ["ddim", "flow"])
def test_a_run_leaves_a_pipeline_a_log_and_samples(recipe, tmp_path, method):
    out = tmp_path / "run"
    pipeline = train_generator(replace(recipe, method=method, sample_every=6), out, progress=False)
    assert pipeline.classes == ("cat", "dog") and pipeline.process.method == method
    assert pipeline.separate_levels == recipe.separate_levels
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    for name in ("total", "structure", "dynamics", "structure_mse", "dynamics_mse", "gradient_norm", "learning_rate"):
        assert all(line[name] > 0 for line in lines), name
    assert [("validation_total" in line) for line in lines] == [False, True, True]
    assert read_video(out / "videos" / "step-00000006.mp4").frames.shape == (16, 52, 64, 3)
    assert read_recipe(out / "recipe.yaml", GeneratorRecipe) == replace(recipe, method=method, sample_every=6)
    made = pipeline("cat", num_inference_steps=2, num_frames=20)
    assert made.videos.shape == (1, 20, 32, 32, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_equals_one_that_never_stopped(recipe, tmp_path, workers):
    train_generator(recipe, tmp_path / "never", progress=False)
    train_generator(replace(recipe, workers=workers), tmp_path / "killed", progress=False)
    for path in checkpoints.saved(tmp_path / "killed")[:2]:
        path.unlink()
    assert checkpoints.saved(tmp_path / "killed")[0].name == "step-00000002.pt"
    train_generator(replace(recipe, workers=2 - workers), tmp_path / "killed", progress=False)
    assert same_checkpoints(tmp_path / "never", tmp_path / "killed")


@pytest.mark.slow
def test_a_run_that_is_killed_ends_with_the_same_bits(recipe, tmp_path):
    recipe = replace(recipe, steps=12, checkpoint_every=1)
    train_generator(recipe, tmp_path / "never", progress=False)
    for _ in range(2):
        known = len(checkpoints.saved(tmp_path / "killed"))
        process = subprocess.Popen(
            run_command(recipe, tmp_path / "killed"), stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        while process.poll() is None and len(checkpoints.saved(tmp_path / "killed")) < known + 3:
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    train_generator(recipe, tmp_path / "killed", progress=False)
    assert same_checkpoints(tmp_path / "never", tmp_path / "killed")


@pytest.mark.slow
def test_two_processes_train_to_the_weights_of_one(recipe, tmp_path):
    recipe = replace(recipe, eps=1e-3)  # else rounding alone decides the first steps of gradients that are all but zero
    train_generator(recipe, tmp_path / "one", progress=False)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(run_command(recipe, tmp_path / "two", 2), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert difference(tmp_path / "one", tmp_path / "two") < 1e-5


def test_passes_of_a_step_add_up_to_one(recipe, tmp_path):
    for accumulate in (1, 2):
        train_generator(replace(recipe, accumulate=accumulate, eps=1e-3), tmp_path / str(accumulate), progress=False)
    assert difference(tmp_path / "1", tmp_path / "2") < 1e-5


def test_examples_are_functions_of_their_number(recipe, latents):
    rows = LatentDataset(recipe.latents)
    config = replace(recipe.config.of_latents(SMALL), classes=2)
    first, second = (TrainingRows(recipe.latents, recipe, config, ["cat", "dog"]) for _ in range(2))
    second[5]
    for number in (0, 3, 700):
        for name in ("clean", "noise", "previous"):
            assert all(map(torch.equal, getattr(first[number], name), getattr(second[number], name)))
        assert torch.equal(first[number].levels, second[number].levels)
    for epoch in range(2):
        assert sorted(first.row(epoch * len(rows) + place) for place in range(len(rows))) == list(range(len(rows)))
    batch = collate([first[number] for number in range(500)])
    shares = [(batch.levels[:, i] == 0).float().mean().item() for i in range(2)]
    assert shares == pytest.approx([0.5 / 3, 0.5 / 3], abs=0.05)
    equal = (batch.levels[:, 0] == batch.levels[:, 1]).float().mean().item()
    assert equal == pytest.approx(0.5, abs=0.07)
    assert (batch.labels == 2).float().mean().item() == pytest.approx(0.2, abs=0.06)


def test_the_window_before_is_that_of_the_same_video(recipe):
    rows = LatentDataset(recipe.latents, columns=["video", "frame_index"])
    config = replace(recipe.config.of_latents(SMALL), classes=2)
    examples = TrainingRows(recipe.latents, replace(recipe, previous_dropout=0.0), config, ["cat", "dog"])
    for number in range(len(rows)):
        example, row = examples[number], examples.row(number)
        first = rows[row]["frame_index"] == 0
        assert bool(example.has_previous) == (not first)
        expected = torch.zeros_like(example.previous[0][0]) if first else rows[row - 1]["structure"]
        assert torch.equal(example.previous[0][0], expected)
        if not first:
            assert rows[row - 1]["video"] == rows[row]["video"]


def test_classes_are_the_values_of_a_column(recipe):
    rows = LatentDataset(recipe.latents)
    assert class_names(rows, "label") == ["cat", "dog"]
    assert class_names(rows, None) == []
    with pytest.raises(ValueError, match=r"no column 'kind' to take classes from; encode with label=True, .* \(label: null\)"):
        class_names(rows, "kind")


def test_without_classes(recipe, tmp_path):
    pipeline = train_generator(replace(recipe, label=None, previous=False, steps=2), tmp_path / "run", progress=False)
    assert pipeline.classes == () and pipeline(num_inference_steps=1).videos.shape[0] == 1


def test_other_weights_are_refused(recipe, tmp_path, assets):
    other = VidTwin(SMALL)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"autoencoder: .*other did not encode .*rows, but 'small' \(\w+\) did; give those weights"
    ):
        train_generator(replace(recipe, autoencoder=str(tmp_path / "other")), tmp_path / "run", progress=False)


def test_windows_must_follow_one_another_to_go_on(recipe, tmp_path, model, assets):
    with VideoWriter(tmp_path / "short.mp4", Fraction(8), (32, 32)) as writer:
        writer.write(read_video(assets / "h264_aac.mp4", 0, 10).frames[:, :32, :32])
    plan = Plan(SMALL, Identity.of(model, "small"))
    encode(tmp_path, tmp_path / "rows", model, plan)
    with pytest.raises(ValueError, match="has no windows that follow one another, which previous: true learns from"):
        train_generator(replace(recipe, latents=str(tmp_path / "rows"), label=None), tmp_path / "run", progress=False)
    assert frames_per_second(LatentDataset(tmp_path / "rows")) == 8.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "huge"}, "preset 'huge': unknown; choose one of paper, base, small, tiny"),
        ({"model": {"classes": 3}}, "model.classes: is not a key of model; latents and the recipe decide it"),
        ({"model": {"wide": 3}}, "unknown key wide; the nearest known one is hidden"),
        ({"class_dropout": 1.5}, "class_dropout=1.5: must be in [0, 1]"),
        ({"structure_weight": 0.0}, "structure_weight=0.0: must be positive"),
        ({"sample_every": 0}, "sample_every=0: must be at least 1"),
        ({"method": "ddim", "shift": 3.0}, "shift, center and spread are of method: flow; leave them out"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0: must be positive"),
    ],
)
def test_bad_keys_are_refused_with_a_remedy(recipe, tmp_path, capsys, change, message):
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps(recipe.to_dict() | change))
    assert main(["train-generator", str(path), "--out", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vidtwin: error: {path}: {message}")


def test_another_recipe_in_the_same_folder_is_refused(recipe, tmp_path):
    train_generator(replace(recipe, steps=2), tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="holds a run with another recipe"):
        train_generator(replace(recipe, steps=2, method="flow"), tmp_path / "run", progress=False)
