import io
import json
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vidtwin.cli import main
from vidtwin.training.autoencoder import train
from vidtwin.training.log import Clock, Means, RunLog
from vidtwin.video.read.reader import read_video


def records(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def events(out):
    reader = EventAccumulator(str(out / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    reader.Reload()
    return reader


def test_every_value_of_the_log_is_in_tensorboard_too(everything, tmp_path):
    train(everything, tmp_path, progress=False)
    lines = records(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 6]
    losses = {"total", "l1", "l2", "perceptual", "nll", "kl", "kl_structure", "kl_dynamics", "psnr", "bits_structure"}
    facts = {"gradient_norm", "learning_rate", "logvar", "skipped_steps", "clips_per_second", "data_share", "log_share"}
    assert losses | facts <= set(lines[0])
    judged = {"adversarial", "adversarial_weight", "discriminator_hinge", "discriminator_lecam", "discriminator_gradient_norm"}
    assert not judged & set(lines[0])  # from step 3 on
    assert judged | {"discriminator_learning_rate", "validation_psnr"} <= set(lines[1])
    assert not {"data", "stop"} & set(lines[-1])

    written = events(tmp_path)
    assert set(written.Tags()["scalars"]) == set().union(*lines) - {"step"}
    for name in written.Tags()["scalars"]:
        expected = [(line["step"], line[name]) for line in lines if name in line]
        assert [event.step for event in written.Scalars(name)] == [step for step, _ in expected]
        assert [event.value for event in written.Scalars(name)] == pytest.approx([value for _, value in expected], rel=1e-6)


def test_reconstructions_are_videos_and_animations(recipe, tmp_path):
    run = tmp_path / "run"
    train(recipe, run, progress=False)
    assert [path.name for path in sorted((run / "videos").iterdir())] == ["step-00000004.mp4", "step-00000006.mp4"]
    shown = read_video(run / "videos" / "step-00000004.mp4").frames
    assert len(shown) == 16
    written = events(run)
    assert written.Tags()["images"] == ["reconstruction"]
    assert [image.step for image in written.Images("reconstruction")] == [4, 6]
    image = written.Images("reconstruction")[0]
    animation = Image.open(io.BytesIO(image.encoded_image_string))
    assert (animation.format, animation.is_animated) == ("GIF", True)
    assert (image.height, image.width) == shown.shape[1:3] == animation.size[::-1]


def test_a_still_frame_gives_a_picture_all_the_same(tmp_path):
    log = RunLog(tmp_path, 0, {})
    log.video(1, np.zeros((1, 32, 32, 3), np.uint8))
    log.close()
    assert len(read_video(tmp_path / "videos" / "step-00000001.mp4").frames) == 1
    assert len(events(tmp_path).Images("reconstruction")) == 1


def test_what_was_logged_after_the_checkpoint_is_dropped_everywhere(tmp_path):
    first = RunLog(tmp_path, 0, {})
    for step in (1, 2, 3):
        first.write(step, {"total": float(step)})
    first.close()
    again = RunLog(tmp_path, 1, {})
    again.write(2, {"total": 20.0})
    again.close()
    assert records(tmp_path) == [{"step": 1, "total": 1.0}, {"step": 2, "total": 20.0}]
    assert [(event.step, event.value) for event in events(tmp_path).Scalars("total")] == [(1, 1.0), (2, 20.0)]


@pytest.mark.parametrize("rest", ["{", '{"step": 3, "total": 1.5', '{"step"', "", '{"step": 2, "total": 1.0}\n{"st'])
def test_a_log_that_a_kill_cut_short_is_repaired(tmp_path, rest):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "total": 3.0}\n' + rest)
    log = RunLog(tmp_path, 2, {})
    log.write(3, {"total": 1.0})
    log.close()
    steps = [record["step"] for record in records(tmp_path)]
    assert steps == ([1, 2, 3] if "2" in rest else [1, 3])


@pytest.mark.parametrize(
    "line", ["{}", '{"step": "1"}', '{"step": 1.0}', '{"step": NaN}', '{"step": ' + "1" * 40 + "}", "[{}", '{"step": {"a": 1}}']
)
def test_a_log_of_something_else_is_one_line(tmp_path, line):
    (tmp_path / "log.jsonl").write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(ValueError, match="log.jsonl: line 2 is not a record of a run .*; delete the line"):
        RunLog(tmp_path, 2, {})
    assert (tmp_path / "log.jsonl").read_text() == f'{{"step": 1}}\n{line}\n'


def test_a_value_that_is_not_finite_is_null(tmp_path):
    log = RunLog(tmp_path, 0, {})
    log.write(1, {"total": float("nan"), "gradient_norm": float("inf"), "l1": 0.5})
    log.close()
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1, "total": null, "gradient_norm": null, "l1": 0.5}\n'


def test_without_tensorboard_there_is_the_log_alone(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    run = tmp_path / "run"
    train(replace(recipe, steps=2), run, progress=False)
    assert not (run / "tensorboard").exists()
    assert [record["step"] for record in records(run)] == [2]
    assert (run / "videos" / "step-00000002.mp4").exists()


def test_wandb_without_the_package_is_one_line(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    (tmp_path / "r.yaml").write_text(json.dumps(recipe.to_dict()))
    assert main(["train", str(tmp_path / "r.yaml"), "--device", "cpu", "--out", str(tmp_path / "run"), "--wandb", "project"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vidtwin:")]
    assert "--wandb project: the package is not installed; pip install wandb" in line


def test_means_are_over_the_steps_that_had_the_value():
    means = Means()
    means.add({"a": 1.0})
    means.add({"a": 2.0, "b": 5.0})
    assert means.take() == {"a": 1.5, "b": 5.0}
    assert means.take() == {}


def test_the_clock_gives_rates_and_shares_and_starts_anew():
    clock = Clock()
    with clock("data"):
        pass
    clock.steps += 2
    values = clock.take(clips=4)
    assert values["clips_per_second"] > 0
    assert 0 <= values["data_share"] <= 1
    assert clock.take(clips=4) == {"clips_per_second": 0}


@pytest.mark.parametrize("target", [None, "/dev/zero"])
def test_a_pipe_or_device_in_place_of_a_log_is_refused(tmp_path, target):
    path = tmp_path / "log.jsonl"
    os.mkfifo(path) if target is None else path.symlink_to(target)
    with pytest.raises(OSError, match="log.jsonl: is a pipe, a socket or a device, not a file"):
        RunLog(tmp_path, 0, {})


def test_a_log_of_gigabytes_is_refused_unread(tmp_path):
    with (tmp_path / "log.jsonl").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="log.jsonl: has 1,099,511,627,776 bytes, more than 268,435,456; split it"):
        RunLog(tmp_path, 0, {})
