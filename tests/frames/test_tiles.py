from itertools import pairwise

import numpy as np
import pytest
import torch

from vidtwin.frames.clips import Geometry, from_clip, to_clip
from vidtwin.frames.tiles import Tiling, fit_from_dict, plan_fit, starts


def pictures(*size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)


def merged(tiling: Tiling, frames: np.ndarray) -> torch.Tensor:
    bands = list(tiling.merge(tiling.cut(frames, index) for index in range(tiling.count)))
    assert [band.top for band in bands] == tiling.tops
    return torch.cat([band.pixels for band in bands], dim=2)


@pytest.mark.parametrize(
    ("length", "size", "overlap", "expected"),
    [(500, 224, 56, [0, 138, 276]), (224, 224, 56, [0]), (100, 224, 56, [0]), (225, 224, 0, [0, 1]), (448, 224, 0, [0, 224])],
)
def test_starts(length, size, overlap, expected):
    assert starts(length, size, overlap) == expected


def test_starts_cover_every_length_and_share_what_was_asked():
    for size in (8, 32):
        for overlap in range(size // 2 + 1):
            for length in range(1, 5 * size):
                at = starts(length, size, overlap)
                assert at[0] == 0
                assert at[-1] + size >= length
                assert all(size - (b - a) >= overlap for a, b in pairwise(at)) or len(at) == 1
                assert length <= size or at[-1] + size == length


@pytest.mark.parametrize("size", [(100, 150), (32, 32), (33, 31), (7, 90), (1, 1), (64, 32), (97, 33)])
@pytest.mark.parametrize("overlap", [0, 5, 16])
def test_merging_what_was_cut_gives_the_picture_back(size, overlap):
    frames = pictures(*size)
    clip = merged(Tiling(size, (32, 32), overlap), frames)
    assert clip.shape == (3, 2, *size)
    exact = (torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255 - 0.5) / 0.5
    torch.testing.assert_close(clip, exact, rtol=0, atol=5e-7)


def test_all_neighbours_count_the_diagonal_ones_too():
    """Tiles of constant values: in a corner that four tiles share, the middle is the mean of all four."""
    tiling = Tiling((48, 48), (32, 32), 16)
    values = [0.0, 0.2, 0.4, 1.0]
    (first, second) = tiling.merge(torch.full((3, 1, 32, 32), value) for value in values)
    picture = torch.cat([first.pixels, second.pixels], dim=2)[0, 0]
    assert picture[0, 0] == 0.0
    assert picture[-1, -1] == 1.0
    middle = picture[16:32, 16:32]
    assert middle.mean().item() == pytest.approx(0.4, abs=1e-6)
    assert torch.equal(picture[:16, :16], torch.zeros(16, 16))
    steps = picture.diff(dim=1).abs().max()
    assert steps < 0.12  # no step between neighbours: a cosine over 16 pixels


def test_a_picture_of_one_tile_is_exactly_the_untiled_one():
    frames = pictures(32, 32)
    tiling, geometry = Tiling.plan((32, 32), (32, 32)), Geometry.plan("crop", (32, 32), (32, 32))
    assert tiling.count == 1
    clip = to_clip(frames, geometry)
    assert torch.equal(tiling.cut(frames, 0), clip)
    other = torch.randn(3, 2, 32, 32)
    (band,) = tiling.merge([other])
    assert torch.equal(band.pixels, other)
    assert np.array_equal(from_clip(clip, geometry), frames)


def test_records():
    for policy in ("tile", "crop", "pad"):
        fit = plan_fit(policy, (100, 150), (32, 32))
        assert fit_from_dict(fit.to_dict()) == fit
        assert "150x100" in fit.describe()
    for record in ({"policy": "tile"}, {"policy": "tile", "source": [1, 2], "model": [2, 2], "overlap": 9}, {"policy": "carp"}, {}):
        with pytest.raises(ValueError, match="is not valid"):
            fit_from_dict(record)
    with pytest.raises(ValueError, match="tile_overlap=17: give 0 to 16"):
        plan_fit("tile", (100, 150), (32, 32), 17)
    with pytest.raises(ValueError, match="tile_overlap=3: is for policy='tile'; leave it out with policy='crop'"):
        plan_fit("crop", (100, 150), (32, 32), 3)
