import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import SMALL
from tests.training.conftest import difference, launch, same_checkpoints, stopping_after_saving
from vidtwin import VidTwin
from vidtwin.data.clips import first_frames
from vidtwin.data.failures import FailureList
from vidtwin.data.sources import recordings
from vidtwin.losses.objective import LossWeights
from vidtwin.training.autoencoder import train
from vidtwin.training.coefficients import CoefficientClips, cache_coefficients, collate_coefficients, view_frames
from vidtwin.training.patches import to_blocks, to_patches

LINEAR = SMALL.to_dict() | {
    "temporal_attention": "full", "structure_downsamples": 0, "dynamics_downsamples": 0, "query_dropout": 0.0, "query_layers": 1,
    "num_queries": 2, "structure_channels": 3, "query_dim": 32, "query_heads": 8, "query_mlp": 16, "structure_width": 16,
    "hidden": 32, "heads": 2, "depth": 2,
}  # fmt: skip


@pytest.fixture
def coefficients(recipe):
    """A few steps on coefficients of the two real videos."""
    return replace(recipe, model=LINEAR, coefficients=24, loss=LossWeights(l1=0.0, log=0.05, kl=1e-4))


def cached(recipe, folder):
    failures = FailureList(folder.parent / "failures.jsonl", 10, 0.9)
    cache_coefficients(recipe, recordings(recipe.train_videos), folder, failures)
    return CoefficientClips(folder, recipe)


def test_a_clip_is_the_projection_of_frames_of_its_video(coefficients, tmp_path):
    clips = cached(replace(coefficients, flip=False), tmp_path / "cache")
    sample = clips[0]
    assert sample.clip.shape == (16, 16, 24) and sample.clip.dtype == torch.bfloat16
    found = []
    for recording in recordings(coefficients.train_videos):
        frames = torch.cat(list(view_frames(coefficients, recording, 0, 0)))
        projected, _ = clips.basis.project(frames)
        h, w = clips.grid
        for start in first_frames(recording, 16, 1):
            for top in range(projected.shape[1] - h + 1):
                for left in range(projected.shape[2] - w + 1):
                    part = projected[start : start + 16, top : top + h, left : left + w]
                    found.append((to_patches(part, SMALL.patch // clips.basis.side) - sample.clip.float()).abs().max().item())
    assert min(found) < 0.05  # bfloat16 of values up to 10


def test_a_clip_is_a_function_of_the_seed_and_its_number(coefficients, tmp_path):
    first = cached(coefficients, tmp_path / "a")
    again = cached(coefficients, tmp_path / "b")
    for index in (0, 1, 7, 3):
        assert torch.equal(first[index].clip, again[index].clip) and torch.equal(first[index].outside, again[index].outside)
    assert not torch.equal(first[0].clip, CoefficientClips(tmp_path / "a", replace(coefficients, seed=1))[0].clip)


def test_brightness_and_contrast_are_those_of_pixels(coefficients, tmp_path):
    plain = replace(coefficients, flip=False)
    clips = cached(plain, tmp_path / "cache")
    brighter = CoefficientClips(tmp_path / "cache", replace(plain, brightness=0.2, contrast=0.3))
    x, y = clips[0], brighter[0]
    vectors, mean = clips.basis.of_patches(SMALL.patch)
    pixels, changed = (sample.clip.double() @ vectors + mean for sample in (x, y))
    design = torch.stack([(pixels @ vectors.T).flatten(), (torch.ones_like(pixels) @ vectors.T).flatten()], 1)
    solution = torch.linalg.lstsq(design, (changed @ vectors.T).flatten()[:, None])
    gain, offset = solution.solution[:, 0].tolist()
    assert 0.7 <= gain <= 1.3 and -0.2 <= offset <= 0.2 and abs(gain - 1) + abs(offset) > 0.01
    assert (design @ solution.solution - (changed @ vectors.T).flatten()[:, None]).abs().max() < 0.1  # bfloat16
    torch.testing.assert_close(y.outside, gain**2 * x.outside, rtol=0.02, atol=1e-3)


def test_frames_are_mirrored_reversed_and_skipped(coefficients, tmp_path):
    changed = replace(coefficients, reverse=True, max_stride=2, views=2, short_side=(32, 48), colour=0.1)
    clips = cached(changed, tmp_path / "cache")
    batch = collate_coefficients([clips[index] for index in range(6)])
    assert batch.clips.shape[:2] == (6, 16) and batch.outside.shape == (6, 16) and batch.indices.tolist() == list(range(6))
    assert torch.isfinite(batch.clips.float()).all() and (batch.outside >= 0).all()
    stored = json.loads((tmp_path / "cache" / "cache.json").read_text())
    assert len(stored["videos"]) == 4  # two views each


def test_a_video_that_cannot_be_read_is_listed_and_left_out(coefficients, tmp_path):
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    clips = cached(coefficients, tmp_path / "cache")
    assert len(clips.videos) == 2
    assert "broken.mp4" in (tmp_path / "failures.jsonl").read_text()


def test_a_cache_of_something_else_is_refused(coefficients, tmp_path):
    cached(coefficients, tmp_path / "cache")
    with pytest.raises(ValueError, match="holds coefficients of other components; choose another cache"):
        cached(replace(coefficients, coefficients=8), tmp_path / "cache")
    with pytest.raises(FileNotFoundError, match="no coefficients are stored there"):
        CoefficientClips(tmp_path / "nowhere", coefficients)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_equals_one_that_never_stopped(coefficients, tmp_path, precision):
    recipe = replace(
        coefficients, initialization="linear", init_clips=24, optimizer="muon", rate_factors={"head": 2.0, ".bias": 0.5},
        ema_decay=0.9, precision=precision, cache=str(tmp_path / "cache"),
    )  # fmt: skip
    train(recipe, tmp_path / "whole", progress=False)

    with stopping_after_saving():
        train(recipe, tmp_path / "parts", progress=False)
    torch.set_num_threads(1)
    model = train(recipe, tmp_path / "parts", progress=False)
    assert same_checkpoints(tmp_path / "whole", tmp_path / "parts")
    assert isinstance(model, VidTwin)


@pytest.mark.slow
def test_two_processes_train_to_the_weights_of_one(coefficients, tmp_path):
    recipe = replace(coefficients, batch_size=4, steps=4, eps=1e-3, structure_alone=0.25, cache=str(tmp_path / "cache"))
    train(recipe, tmp_path / "one", progress=False)
    launch(recipe, tmp_path / "two", 2)
    assert difference(tmp_path / "one", tmp_path / "two", ("model",)) < 1e-5


def test_training_goes_on_from_weights_on_pixels(coefficients, tmp_path):
    first = train(replace(coefficients, steps=2), tmp_path / "first", progress=False)
    recipe = replace(coefficients, init_from=str(tmp_path / "first" / "model"), steps=2, learning_rate=1e-12)
    again = train(recipe, tmp_path / "again", progress=False)
    x = torch.rand(1, *SMALL.clip_shape) * 0.2
    vectors, mean = CoefficientClips(tmp_path / "again" / "coefficients", recipe).basis.of_patches(SMALL.patch)
    inside = (to_blocks(x.movedim(2, 1), SMALL.patch).double() - mean) @ vectors.T @ vectors + mean
    assert inside.shape[-1] == 3 * SMALL.patch**2
    torch.testing.assert_close(first.encode(x).structure, again.encode(x).structure, atol=0.2, rtol=0.2)


def test_what_coefficients_do_not_know_is_refused(coefficients):
    with pytest.raises(ValueError, match="the squared error alone"):
        replace(coefficients, loss=LossWeights(l1=1.0))
    with pytest.raises(ValueError, match="work on coefficients; set coefficients: 128"):
        replace(coefficients, coefficients=None, reverse=True)
    with pytest.raises(ValueError, match="coefficients=0: a block has 1 to"):
        replace(coefficients, coefficients=0)


def test_a_cache_without_a_part_or_of_no_numbers_is_refused_by_name(coefficients, tmp_path):
    cached(coefficients, tmp_path / "cache")
    part = tmp_path / "cache" / "outside.float16"
    part.rename(tmp_path / "kept")
    with pytest.raises(ValueError, match="outside.float16: not as large as cache.json says; delete the folder"):
        CoefficientClips(tmp_path / "cache", coefficients)
    (tmp_path / "kept").rename(part)
    basis = load_file(tmp_path / "cache" / "basis.safetensors")
    basis["vectors"][0, 0] = float("nan")
    save_file(basis, tmp_path / "cache" / "basis.safetensors")
    with pytest.raises(ValueError, match=r"basis.safetensors: has NaN or infinite values; delete the folder"):
        CoefficientClips(tmp_path / "cache", coefficients)
