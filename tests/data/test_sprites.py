"""Sprites: what is drawn is what the factors say."""

import numpy as np
import pytest
import torch

from vidtwin.data.sprites import BACKGROUNDS, SHAPES, SpriteClips, background, draw_factors, hue

SIZE = (8, 96, 128)
AREAS = {"square": 1.6**2, "triangle": 3 * np.sqrt(3) / 4, "bar": 2 * 0.7, "half disc": np.pi / 2}  # of radius 1


@pytest.fixture(scope="module")
def clips() -> SpriteClips:
    return SpriteClips(draw_factors(40, seed=3), *SIZE)


def test_clips_are_in_range_and_the_same_for_a_seed(clips):
    again = SpriteClips(draw_factors(40, seed=3), *SIZE)
    for index in range(4):
        x = clips[index]
        assert x.shape == (3, *SIZE) and x.dtype == torch.float32 and x.min() >= -1 and x.max() <= 1
        assert torch.equal(x, again[index])
    assert not torch.equal(clips[0], SpriteClips(draw_factors(40, seed=4), *SIZE)[0])


def test_every_category_is_drawn_and_factors_are_independent(clips):
    factors = draw_factors(2000)
    assert set(factors.shape) == set(range(len(SHAPES))) and set(factors.background) == set(range(len(BACKGROUNDS)))
    values = np.concatenate(list(factors.targets().values()), axis=1)
    assert values.shape == (2000, 4 + 2 + 1 + 4 + 2 + 2 + 1 + 1)
    between = np.corrcoef(values.T)[[5, 6, 11, 12, 13, 14, 15, 16]][:, [5, 6, 11, 12, 13, 14, 15, 16]] - np.eye(8)
    assert np.abs(between).max() < 0.1


def test_the_covered_area_is_the_shapes(clips):
    for index in range(40):
        factors = clips.factors
        expected = AREAS[SHAPES[factors.shape[index]]] * (factors.size[index] * 96) ** 2
        np.testing.assert_allclose(clips.coverage(index).sum(axis=(1, 2)), expected, rtol=0.03)


def test_the_centre_moves_with_the_velocity_through_the_position(clips):
    y, x = np.mgrid[:96, :128] + 0.5
    tau = (np.arange(8) - 3.5) / 8
    for index in np.flatnonzero(clips.factors.shape < 3):  # a half disc's centre of mass is elsewhere
        covered = clips.coverage(index)
        centres = np.stack([(covered * axis).sum(axis=(1, 2)) / covered.sum(axis=(1, 2)) for axis in (x, y)], axis=1)
        expected = clips.factors.position[index] + tau[:, None] * clips.factors.velocity[index]
        np.testing.assert_allclose(centres, expected * (128, 96), atol=0.15)


def test_a_bar_turns_by_its_spin(clips):
    y, x = np.mgrid[:96, :128] + 0.5
    for index in np.flatnonzero(clips.factors.shape == SHAPES.index("bar"))[:4]:
        for frame, covered in enumerate(clips.coverage(index)):
            dx, dy = (axis - (covered * axis).sum() / covered.sum() for axis in (x, y))
            angle = np.arctan2(2 * (covered * dx * dy).sum(), (covered * (dx**2 - dy**2)).sum()) / 2  # of its long axis
            expected = 2 * np.pi * clips.factors.spin[index] * (frame - 3.5) / 8
            assert np.sin(angle - expected) == pytest.approx(0, abs=0.05)


def test_sprites_stay_inside_the_frame():
    clips = SpriteClips(draw_factors(60, seed=1), *SIZE)
    for index in range(60):
        covered = clips.coverage(index)
        assert not covered[:, [0, -1]].any() and not covered[:, :, [0, -1]].any()


def test_flicker_takes_opacity_in_two_frames_of_four(clips):
    index = int(clips.factors.flicker.argmax())
    fade, ground = clips.factors.flicker[index], background(BACKGROUNDS[clips.factors.background[index]], 96, 128)
    colour = hue(clips.factors.colour[index])[:, None, None]
    for frame, lost in enumerate([0, 0.5, 1, 0.5, 0, 0.5, 1, 0.5]):
        inside = clips.coverage(index)[frame] == 1
        expected = np.broadcast_to(ground[0] + (1 - fade * lost) * (colour - ground[0]), (3, 96, 128))
        np.testing.assert_allclose(clips[index][:, frame].numpy()[:, inside], expected[:, inside], atol=1e-6)


def test_edges_are_those_of_a_finer_picture_averaged():
    factors = draw_factors(6, seed=2)
    fine, coarse = SpriteClips(factors, 4, 256, 256), SpriteClips(factors, 4, 64, 64)
    for index in range(6):
        averaged = torch.nn.functional.avg_pool2d(fine[index], 4)
        assert (averaged - coarse[index]).abs().max() < 0.4 and (averaged - coarse[index]).abs().mean() < 0.01


def test_hues():
    np.testing.assert_allclose([hue(0), hue(1 / 3), hue(2 / 3)], 2 * np.eye(3) - 1, atol=1e-9)
    np.testing.assert_allclose(hue(1 / 6), [1, 1, -1])


def test_no_pixels_are_refused():
    with pytest.raises(ValueError, match=r"^sprites of 8 frames of 0x4: each must be at least 1$"):
        SpriteClips(draw_factors(1), 8, 0, 4)
