"""`generate`, as Python calls it."""

import json
import re

import numpy as np
import pytest

from tests.generation.conftest import small_pipeline
from vidtwin.generation.generate import SETTINGS_FILE, GeneratedFiles, generate
from vidtwin.inference.encode import encode_video
from vidtwin.video import VideoWriter, read_video


def test_a_folder_of_videos_that_the_same_call_goes_on_with(pipeline, tmp_path):
    steps: list[tuple[int, int]] = []
    first = generate(pipeline, str(tmp_path / "out"), "dog", num_inference_steps=2)
    again = generate(
        pipeline, tmp_path / "out", per_class=2, num_inference_steps=2, batch=2, progress=lambda *now: steps.append(now)
    )
    names = ["cat-0000.mp4", "cat-0001.mp4", "dog-0000.mp4", "dog-0001.mp4"]
    assert first == GeneratedFiles((tmp_path / "out" / "dog-0000.mp4",), 0)
    assert again == GeneratedFiles(tuple(tmp_path / "out" / name for name in names), 1)
    assert steps == [(0, 6), (2, 6), (4, 6), (5, 6), (6, 6)]
    info = read_video(again.paths[0]).info
    assert (info.width, info.height, info.fps, len(read_video(again.paths[0]).frames)) == (32, 32, 25, 16)
    settings = json.loads((tmp_path / "out" / SETTINGS_FILE).read_text())
    assert list(settings) == ["generator", "frames", "guidance", "guidance_interval", "steps", "seed", "structure", "dynamics"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_class": 0}, "per_class=0: give at least 1"),
        ({"batch": 0}, "batch=0: give at least 1"),
        ({"num_frames": 0}, "num_frames=0: give at least 1"),
        ({"num_inference_steps": 1001}, "num_inference_steps=1001: give 1 to 1000"),
        ({"classes": ["cat", "bird"]}, "classes=['bird']: the generator has cat, dog; choose among these"),
        ({"structure": "a.mp4", "dynamics": "b.mp4"}, "structure='a.mp4', dynamics='b.mp4': nothing is left to sample"),
        ({"structure": "missing.mp4"}, "missing.mp4"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(pipeline, tmp_path, options, message):
    with pytest.raises((ValueError, OSError), match=re.escape(message)) as caught:
        generate(pipeline, tmp_path / "out", **options)
    assert "--" not in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_unconditional_generator_has_no_classes(tmp_path):
    with pytest.raises(ValueError, match="the generator is unconditional; leave them out"):
        generate(small_pipeline(classes=()), tmp_path / "out", "cat")


@pytest.mark.parametrize(
    ("change", "name"),
    [({"guidance_scale": 3.0}, "guidance_scale (2.0, not 3.0)"), ({"num_frames": 9}, "num_frames (None, not 9)")],
)
def test_a_folder_of_other_settings_is_refused_by_the_argument_s_name(pipeline, tmp_path, change, name):
    generate(pipeline, tmp_path, "cat", num_inference_steps=1)
    with pytest.raises(ValueError, match=re.escape(f"holds videos made with another {name}; choose another folder")):
        generate(pipeline, tmp_path, "cat", num_inference_steps=1, **change)


def test_a_damaged_note_of_the_settings_is_refused_where_there_are_videos(pipeline, tmp_path):
    (tmp_path / SETTINGS_FILE).write_text("[")
    generate(pipeline, tmp_path, "cat", num_inference_steps=1)  # nothing was there that it could be of
    (tmp_path / SETTINGS_FILE).write_text("[")
    with pytest.raises(ValueError, match=r"generated.json: is damaged; delete it, or choose another folder"):
        generate(pipeline, tmp_path, num_inference_steps=1)


def test_a_video_that_could_not_be_written_leaves_the_folder_to_other_settings(pipeline, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(VideoWriter, "write", full)
        with pytest.raises(OSError, match="the disk is full"):
            generate(pipeline, tmp_path, "cat", num_inference_steps=1)
    assert generate(pipeline, tmp_path, "cat", num_inference_steps=1, seed=1).kept == 0


def test_an_output_that_is_a_file_is_refused_before_any_work(pipeline, tmp_path):
    (tmp_path / "out").write_text("")
    for out in (tmp_path / "out", tmp_path / "out" / "deep"):
        with pytest.raises(NotADirectoryError, match="is not a folder, or lies in a file; choose another one"):
            generate(pipeline, out, num_inference_steps=1)


def test_the_first_window_of_a_short_video_is_filled_up(pipeline, tmp_path, clip):
    with VideoWriter(tmp_path / "short.mkv", 25, (180, 320)) as writer:
        writer.write(read_video(clip, 0, 5).frames)
    encode_video(pipeline.autoencoder, tmp_path / "short.mkv", tmp_path / "short.vidtwin", stored="float32")
    made = [
        generate(pipeline, tmp_path / suffix, "cat", num_inference_steps=1, structure=tmp_path / f"short.{suffix}")
        for suffix in ("mkv", "vidtwin")
    ]
    a, b = (read_video(files.paths[0]).frames for files in made)
    assert np.array_equal(a, b)


def test_latents_of_tiles_are_refused(pipeline, tmp_path, clip):
    encode_video(pipeline.autoencoder, clip, tmp_path / "in.vidtwin", policy="tile", stop=16)
    with pytest.raises(
        ValueError, match=r"in.vidtwin': has \d+ clips of each window, tiles of a larger frame; give the video itself"
    ):
        generate(pipeline, tmp_path / "out", dynamics=tmp_path / "in.vidtwin")
