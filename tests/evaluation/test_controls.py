"""The DCT and resize controls: orthonormality, exact counts, and a search that predicts what it will get."""

import math

import numpy as np
import pytest
import torch

from vidtwin.evaluation import controls
from vidtwin.evaluation.controls import (
    DCTBoxes,
    box_values,
    clip_dct,
    dct_control,
    default_boxes,
    resize_control,
    resize_shape,
    search_boxes,
)
from vidtwin.metrics import psnr


def _clip(frames: int = 8, height: int = 24, width: int = 32, seed: int = 0) -> torch.Tensor:
    """A few drifting coloured waves, far from 0 and 1, so that no clamp acts."""
    rng = np.random.default_rng(seed)
    t, y, x = np.meshgrid(*(np.arange(size) / size for size in (frames, height, width)), indexing="ij")
    planes = np.zeros((3, frames, height, width))
    for _ in range(6):
        a, b, c = rng.uniform(-1, 1, 3) * (1, 5, 5)
        wave = np.cos(2 * math.pi * (a * t + b * y + c * x + rng.uniform()))
        planes += rng.uniform(0, 0.04, 3).reshape(3, 1, 1, 1) * wave
    return torch.from_numpy(planes + 0.5).float()


def _mean_psnr(x: torch.Tensor, y: torch.Tensor) -> float:
    return psnr(x.transpose(0, 1), y.transpose(0, 1)).mean().item()


def test_keeping_everything_gives_the_clip_back():
    clip = _clip()
    full = DCTBoxes(luma=(8, 24, 32), chroma=(8, 24, 32))
    assert full.values == clip.numel()
    torch.testing.assert_close(dct_control(clip, full), clip, atol=1e-5, rtol=0)


def test_keeping_one_coefficient_per_plane_gives_the_mean_colour():
    clip = _clip()
    mean = clip.mean(dim=(1, 2, 3), keepdim=True).expand_as(clip)
    torch.testing.assert_close(dct_control(clip, DCTBoxes((1, 1, 1), (1, 1, 1))), mean, atol=1e-5, rtol=0)


def test_grey_has_no_chroma():
    coefficients = clip_dct(_clip()[:1].expand(3, -1, -1, -1))
    assert np.abs(coefficients[1:]).max() < 1e-4 * np.abs(coefficients[0]).max()


def test_box_values_counts_luma_once_and_chroma_twice():
    assert box_values((2, 44, 44), (2, 15, 16)) == 3872 + 960
    assert DCTBoxes((2, 44, 44), (2, 15, 16)).values == 4832


def test_the_errors_of_the_search_are_those_of_the_reconstruction():
    clip = _clip()
    luma = np.array([[2, 10, 6], [4, 5, 5], [1, 24, 32], [3, 4, 9]])
    chroma = np.array([[1, 4, 12], [4, 5, 5], [8, 1, 1], [5, 6, 3]])  # none, all or some sides larger than luma's
    predicted = controls._rgb_error(clip_dct(clip), luma, chroma)
    for y, c, error in zip(luma, chroma, predicted, strict=True):
        decoded = dct_control(clip, DCTBoxes(tuple(y.tolist()), tuple(c.tolist())))
        assert (decoded - clip).square().sum().item() == pytest.approx(error, rel=1e-3)


def test_the_search_finds_the_best_candidate_within_the_budget():
    clips, values = [_clip(seed=seed) for seed in range(2)], 200
    best = search_boxes(iter(clips), values)
    assert best.values <= values

    def clip_db(boxes: DCTBoxes) -> float:
        errors = [(dct_control(clip, boxes) - clip).square().mean().item() for clip in clips]
        return float(np.mean([-10 * math.log10(error + 1e-8) for error in errors]))

    luma, chroma = controls._candidates(values, (8, 24, 32))
    others = np.random.default_rng(0).choice(len(luma), 20, replace=False)
    for index in others:
        boxes = DCTBoxes(tuple(luma[index].tolist()), tuple(chroma[index].tolist()))
        assert boxes.values <= values
        assert clip_db(boxes) <= clip_db(best) + 1e-3


def test_more_values_are_never_worse():
    clip = _clip()
    scores = [_mean_psnr(dct_control(clip, search_boxes([clip], values)), clip) for values in (50, 200, 800)]
    assert scores == sorted(scores)


@pytest.mark.parametrize("values", [3, 4, 10, 97, 10**6])
def test_every_candidate_fits(values):
    luma, chroma = controls._candidates(values, (4, 12, 20))
    counts = luma.prod(axis=1) + 2 * chroma.prod(axis=1)
    assert len(luma) >= 1
    assert counts.max() <= values
    for boxes in (luma, chroma):
        assert boxes.min() >= 1
        assert (boxes <= (4, 12, 20)).all()


@pytest.mark.parametrize("values", [3, 100, 1056, 4928, 6000, 8064, 10**5, 10**8])
@pytest.mark.parametrize("size", [(16, 224, 224), (4, 32, 32), (16, 128, 256)])
def test_default_boxes_fit_and_use_most_of_the_values(values, size):
    boxes = default_boxes(values, size)
    assert boxes.values <= values
    assert all(side <= most for box in (boxes.luma, boxes.chroma) for side, most in zip(box, size, strict=True))
    if 100 <= values <= 0.2 * math.prod(size):
        assert boxes.values >= 0.85 * values


def test_resize_shape_keeps_the_aspect_and_the_budget():
    assert resize_shape(4928, (16, 224, 224)) == (2, 29, 28)
    assert resize_shape(3, (16, 224, 224)) == (1, 1, 1)
    t, h, w = resize_shape(3000, (16, 100, 200), frames=4)
    assert t == 4 and 3 * t * h * w <= 3000 and 0.4 < h / w < 0.6


def test_resize_control_is_exact_on_flat_clips_and_at_full_size():
    flat = torch.full((3, 8, 24, 32), 0.25)
    torch.testing.assert_close(resize_control(flat, (2, 3, 4)), flat)
    clip = _clip()
    torch.testing.assert_close(resize_control(clip, (8, 24, 32)), clip)
    small, large = (_mean_psnr(resize_control(clip, shape), clip) for shape in ((2, 6, 8), (4, 12, 16)))
    assert small < large


def test_controls_refuse_what_does_not_fit():
    clip = _clip()
    with pytest.raises(ValueError, match="luma"):
        dct_control(clip, DCTBoxes((9, 1, 1), (1, 1, 1)))
    with pytest.raises(ValueError, match="chroma"):
        dct_control(clip, DCTBoxes((1, 1, 1), (1, 0, 1)))
    with pytest.raises(ValueError, match="float"):
        clip_dct((clip * 255).to(torch.uint8))
    with pytest.raises(ValueError, match="does not fit"):
        resize_control(clip, (1, 25, 1))
    with pytest.raises(ValueError, match="at least 3"):
        resize_shape(2, (8, 24, 32))
    with pytest.raises(ValueError, match="at least 3"):
        search_boxes([clip], 2)
    with pytest.raises(ValueError, match="at least 3"):
        default_boxes(2, (8, 24, 32))
    with pytest.raises(ValueError, match="at least one clip"):
        search_boxes([], 100)
    with pytest.raises(ValueError, match="one size"):
        search_boxes([clip, clip[:, :4]], 100)
