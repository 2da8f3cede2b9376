"""`vidtwin generate` and `vidtwin draw-sprites`, through the command line, to real files."""

import inspect
import json

import numpy as np
import pytest
import torch

from tests.generation.conftest import small_pipeline
from vidtwin import LatentDataset
from vidtwin.cli import main
from vidtwin.cli.generating import generate_command
from vidtwin.data.moving_sprites import CLASSES
from vidtwin.files import locked
from vidtwin.generation.config import GUIDANCE
from vidtwin.generation.generate import SETTINGS_FILE, generate
from vidtwin.generation.pipeline import VidTwinPipeline
from vidtwin.latent_sets.items import list_items
from vidtwin.video import read_video


@pytest.fixture
def folder(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def run(*arguments) -> int:
    return main(["generate", *map(str, arguments), "--steps", "2", "--device", "cpu"])


def frames_of(path):
    return read_video(path).frames


def test_every_class_gets_its_videos(folder, tmp_path, capsys):
    assert run(folder, "-o", tmp_path / "out", "--per-class", 2) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 4 videos\n"
    names = sorted(path.name for path in (tmp_path / "out").glob("*.mp4"))
    assert names == ["cat-0000.mp4", "cat-0001.mp4", "dog-0000.mp4", "dog-0001.mp4"]
    assert frames_of(tmp_path / "out" / "cat-0000.mp4").shape == (16, 32, 32, 3)


def test_what_is_there_is_kept_and_the_rest_is_as_if_never_stopped(folder, tmp_path, capsys):
    assert run(folder, "-o", tmp_path / "whole", "--per-class", 3) == 0
    assert run(folder, "-o", tmp_path / "parts", "--classes", "cat") == 0
    assert run(folder, "-o", tmp_path / "parts", "--per-class", 3, "--batch", 2) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("5 videos, 1 were there")
    for path in (tmp_path / "whole").glob("*.mp4"):
        a, b = (frames_of(tmp_path / name / path.name).astype(int) for name in ("whole", "parts"))
        assert np.abs(a - b).max() <= 3, path.name  # of another batch: rounding
    assert run(folder, "-o", tmp_path / "parts", "--seed", 1) == 1
    assert "holds videos made with another seed (0, not 1); choose another folder" in capsys.readouterr().err


def test_a_class_named_twice_gets_twice_as_many(tmp_path, capsys):
    small_pipeline(classes=("0", "1")).save_pretrained(tmp_path / "model")
    assert run(tmp_path / "model", "-o", tmp_path / "out", "--classes", 0, 0) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 2 videos\n"
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mp4")) == ["0-0000.mp4", "0-0001.mp4"]


def test_a_run_that_failed_at_once_leaves_the_folder_to_other_options(tmp_path, capsys):
    small_pipeline().save_pretrained(tmp_path / "model")
    assert run(tmp_path / "model", "-o", tmp_path / "out", "--frames", 17) == 1
    assert "num_frames=17: this generator makes 16" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []
    assert run(tmp_path / "model", "-o", tmp_path / "out", "--classes", "cat") == 0


@pytest.mark.parametrize("part", ["structure", "dynamics"])
def test_a_generator_without_levels_of_their_own_takes_no_latent(tmp_path, clip, capsys, part):
    pipeline = small_pipeline()
    pipeline.separate_levels = 0.0
    pipeline.save_pretrained(tmp_path / "model")
    assert run(tmp_path / "model", "-o", tmp_path / "out", f"--{part}", clip) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{part}: this generator cannot sample" in line and "trained with separate_levels: 0; train one with" in line
    assert not (tmp_path / "out").exists()


def test_two_calls_in_one_folder_are_one_too_many(folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".cat-0000.partial-1.mp4").write_bytes(b"left by a kill")
    with locked(tmp_path / "out"):
        assert run(folder, "-o", tmp_path / "out", "--classes", "cat") == 1
    assert "another run is writing it" in capsys.readouterr().err
    assert run(folder, "-o", tmp_path / "out", "--classes", "cat", "--guidance", "nan") == 2
    assert run(folder, "-o", tmp_path / "out", "--classes", "cat") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cat-0000.mp4", SETTINGS_FILE]
    (tmp_path / "out" / SETTINGS_FILE).write_text('{"seed": NaN}')
    assert run(folder, "-o", tmp_path / "out", "--classes", "cat") == 1
    assert "is damaged; delete it, or choose another folder" in capsys.readouterr().err


def test_the_default_weight_of_guidance_is_one_number(folder, tmp_path):
    assert run(folder, "-o", tmp_path / "out", "--classes", "cat") == 0
    assert json.loads((tmp_path / "out" / SETTINGS_FILE).read_text())["guidance"] == GUIDANCE == 2.0
    for function in (generate_command, generate, VidTwinPipeline.__call__):
        (default,) = (
            p.default for name, p in inspect.signature(function).parameters.items() if name.endswith(("guidance", "scale"))
        )
        assert default == GUIDANCE


def test_longer_than_a_window(folder, tmp_path):
    assert run(folder, "-o", tmp_path / "out", "--classes", "dog", "--frames", 20) == 0
    assert len(frames_of(tmp_path / "out" / "dog-0000.mp4")) == 20


@pytest.mark.parametrize("part", ["structure", "dynamics"])
def test_one_latent_of_a_video(folder, tmp_path, clip, pipeline, part):
    pipeline.autoencoder.save_pretrained(tmp_path / "weights")
    latents = tmp_path / "in.vidtwin"
    assert main(["encode", str(clip), "-o", str(latents), "--weights", str(tmp_path / "weights")]) == 0
    for name, source in (("video", clip), ("latents", latents)):
        assert run(folder, "-o", tmp_path / name, "--classes", "cat", f"--{part}", source) == 0
    a, b = (frames_of(tmp_path / name / "cat-0000.mp4") for name in ("video", "latents"))
    assert np.array_equal(a, b)
    assert run(folder, "-o", tmp_path / "plain", "--classes", "cat") == 0
    assert not np.array_equal(a, frames_of(tmp_path / "plain" / "cat-0000.mp4"))


def test_latents_of_other_weights_are_refused(folder, tmp_path, clip, capsys):
    assert main(["encode", str(clip), "-o", str(tmp_path / "in.vidtwin"), "--frames", "0:16"]) == 0
    capsys.readouterr()
    assert run(folder, "-o", tmp_path / "out", "--structure", tmp_path / "in.vidtwin") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "mini" in line


def test_an_unconditional_generator_makes_videos_without_a_name(tmp_path):
    small_pipeline(classes=()).save_pretrained(tmp_path / "model")
    assert run(tmp_path / "model", "-o", tmp_path / "out", "--per-class", 2) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mp4")) == ["video-0000.mp4", "video-0001.mp4"]


def test_a_name_of_a_class_leads_nowhere_else(tmp_path):
    small_pipeline(classes=("../a", ".b/c")).save_pretrained(tmp_path / "model")
    assert run(tmp_path / "model", "-o", tmp_path / "deep" / "out") == 0
    made = {path.name for path in tmp_path.rglob("*.mp4")}
    assert made == {path.name for path in (tmp_path / "deep" / "out").glob("*.mp4")} and len(made) == 2


def test_classes_whose_files_would_have_one_name_are_refused(tmp_path, capsys):
    small_pipeline(classes=("a/b", "a_b")).save_pretrained(tmp_path / "model")
    assert run(tmp_path / "model", "-o", tmp_path / "out") == 2
    assert "classes=['a/b', 'a_b']: both would be written to a_b-0000.mp4; ask for them apart" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classes", "bird"], "classes=['bird']: the generator has cat, dog; choose among these"),
        (["--per-class", "0"], "--per-class 0: give at least 1"),
        (["--structure", "a.mp4", "--dynamics", "b.mp4"], "--structure and --dynamics: nothing is left to sample"),
    ],
)
def test_wrong_usage_is_told_in_a_line(folder, tmp_path, capsys, options, message):
    assert main(["generate", str(folder), "-o", str(tmp_path / "out"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vidtwin: error: {message}")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_generator_is_told_in_a_line(tmp_path, capsys):
    assert run(tmp_path, "-o", tmp_path / "out") == 1
    assert "generator.json: missing; give the folder `model` of a run of vidtwin train-generator" in capsys.readouterr().err


def test_sprites_are_a_source_of_latents(tmp_path, capsys):
    assert main(["draw-sprites", "-o", str(tmp_path / "s"), "--per-class", "1", "--frames", "16"]) == 0
    assert f"{len(CLASSES)} videos of {len(CLASSES)} classes" in capsys.readouterr().out
    small_pipeline().autoencoder.save_pretrained(tmp_path / "weights")
    weights = ["--weights", str(tmp_path / "weights"), "--processes", "1"]
    assert main(["encode-dataset", str(tmp_path / "s" / "sprites.csv"), "-o", str(tmp_path / "rows"), *weights]) == 0
    rows = LatentDataset(tmp_path / "rows", columns=["label", "vx"])
    assert sorted(rows.column("label")) == sorted(CLASSES) and isinstance(rows[0]["vx"], float)
    assert main(["draw-sprites", "-o", str(tmp_path / "s"), "--size", "8"]) == 2


def test_the_split_files_of_ucf101_are_lists(tmp_path, assets):
    """As published: CLASS/v_CLASS_g01_c01.avi in UCF-101/, and beside it lists with the number of the class after each path."""
    for label, clip in (("Basketball Dunk", 1), ("Biking", 1), ("Biking", 2)):
        folder = tmp_path / "UCF-101" / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"v_{label}_g01_c0{clip}.avi").write_bytes((assets / "mpeg4.avi").read_bytes())
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("Basketball Dunk/v_Basketball Dunk_g01_c01.avi 1\r\nBiking/v_Biking_g01_c01.avi 11\r\n")
    (lists / "testlist01.txt").write_text("Biking/v_Biking_g01_c02.avi\n")
    items = list_items(str(lists / "trainlist01.txt"), label=True, root=tmp_path / "UCF-101")
    assert [dict(item.columns)["label"] for item in items] == ["Basketball Dunk", "Biking"]
    assert all(item.file.is_file() for item in items)
    assert items[1].video == "Biking/v_Biking_g01_c01.avi"
    (test,) = list_items(str(lists / "testlist01.txt"), label=True, root=tmp_path / "UCF-101")
    assert test.file.is_file()
    with pytest.raises(ValueError, match="root='.*': is for lists"):
        list_items(str(tmp_path / "UCF-101"), root=tmp_path)


def test_from_pretrained_on_one_device_is_deterministic(folder):
    made = [
        VidTwinPipeline.from_pretrained(folder)("dog", num_inference_steps=3, generator=torch.Generator().manual_seed(4)).videos
        for _ in range(2)
    ]
    assert torch.equal(*made)
