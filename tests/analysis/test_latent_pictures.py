"""Pictures: every tile is what its place says."""

import numpy as np
import pytest
import torch

from tests.analysis.twins import Twin, twin_clips
from vidtwin import Latents
from vidtwin.analysis.codes import encode_clips
from vidtwin.analysis.pictures import dynamics_maps, interpolation_strips, signed, structure_maps, swap_matrix, tiles

CLIPS, SIDE, STEP = twin_clips(3), 6, 6 + 4


def _picture(clip: torch.Tensor, frame: int = 4) -> np.ndarray:
    return ((clip[:, frame].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()


def _tile(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    return picture[row * STEP : row * STEP + SIDE, column * STEP : column * STEP + SIDE]


@pytest.mark.parametrize("frame", [None, 1])
def test_swap_matrix(frame):
    model, shown = Twin(), 4 if frame is None else frame
    picture = swap_matrix(model, CLIPS, encode_clips(model, CLIPS), frame)
    assert picture.shape == (4 * STEP - 4, 4 * STEP - 4, 3) and picture.dtype == np.uint8
    assert (_tile(picture, 0, 0) == 255).all()
    means = CLIPS.mean(2, keepdim=True)
    for i in range(3):
        for place in ((0, i + 1), (i + 1, 0)):
            np.testing.assert_array_equal(_tile(picture, *place), _picture(CLIPS[i], shown))
        for j in range(3):
            expected = _picture(means[i] + CLIPS[j] - means[j], shown).astype(int)
            assert np.abs(_tile(picture, i + 1, j + 1) - expected).max() <= 1


def test_interpolation_strips():
    model = Twin()
    picture = interpolation_strips(model, encode_clips(model, CLIPS), 0, 2, steps=3)
    assert picture.shape == (3 * STEP - 4, 3 * STEP - 4, 3)
    S, D = CLIPS.mean(2, keepdim=True), CLIPS - CLIPS.mean(2, keepdim=True)
    for column, weight in enumerate((0, 0.5, 1)):
        s, d = S[0] + weight * (S[2] - S[0]), D[0] + weight * (D[2] - D[0])
        for row, clip in enumerate((s + d, s + D[0], S[0] + d)):
            assert np.abs(_tile(picture, row, column) - _picture(clip).astype(int)).max() <= 1
    with pytest.raises(ValueError, match="at least 2"):
        interpolation_strips(model, encode_clips(model, CLIPS), 0, 1, steps=1)


def test_maps():
    latents = Latents(torch.zeros(2, 3, 2, 4, 5), torch.zeros(2, 6, 7, 5), torch.zeros(2, 6, 7, 5))
    latents.structure[1, 2, 1, 0, 0] = 1.0
    latents.dynamics_y[1, 0, 6, 4] = -1.0
    structure, dynamics = structure_maps(latents, 1, scale=2), dynamics_maps(latents, 1, scale=2)
    assert structure.shape == (2 * 8 + 4, 3 * 10 + 2 * 4, 3) and dynamics.shape == (2 * 14 + 4, 6 * 10 + 5 * 4, 3)
    assert np.argwhere((structure != 255).any(-1)).tolist() == [[12, 28], [12, 29], [13, 28], [13, 29]]
    assert np.argwhere((dynamics != 255).any(-1)).tolist() == [[30, 8], [30, 9], [31, 8], [31, 9]]
    wide = structure_maps(Latents(torch.ones(1, 20, 2, 4, 5), latents.dynamics_x[:1], latents.dynamics_y[:1]), scale=1)
    assert wide.shape == (4 * 4 + 3 * 4, 16 * 5 + 15 * 4, 3)
    filled = [(wide[row * 8 : row * 8 + 4, ::9] == [220, 100, 0]).all(axis=(0, 2)).sum() for row in range(4)]
    assert filled == [16, 4, 16, 4]
    assert structure[12, 28].tolist() == [220, 100, 0] and dynamics[30, 8].tolist() == [0, 90, 181]
    with pytest.raises(ValueError, match="no Dynamics"):
        dynamics_maps(Latents(latents.structure, latents.dynamics_x[:, :0], latents.dynamics_y[:, :0]))


def test_colours_have_a_sign():
    colours = signed(np.array([[-5.0, -1, 0, 1, 5]]), 1.0)[0]
    assert colours.tolist() == [[0, 90, 181], [0, 90, 181], [255] * 3, [220, 100, 0], [220, 100, 0]]
    assert (signed(np.zeros((2, 2)), 0.0) == 255).all()


def test_tiles_leave_white_gaps():
    grid = tiles([[np.zeros((2, 3, 3), np.uint8)] * 2] * 2)
    assert grid.shape == (8, 10, 3) and (grid[2:6] == 255).all() and (grid[:, 3:7] == 255).all() and not grid[:2, :3].any()
