"""The sparse resampling: against torch's interpolate in float64, in strips and blocks of any size."""

import numpy as np
import pytest
import torch

from vidtwin.frames import resample as resampling
from vidtwin.frames.resample import resample

SIZES = [((1, 1), (5, 3)), ((7, 9), (7, 9)), ((300, 41), (20, 90)), ((33, 500), (64, 31)), ((64, 48), (1, 2)), ((90, 61), (89, 60))]


@pytest.fixture(autouse=True)
def no_blocks_of_other_tests():
    resampling._blocks.cache_clear()
    yield
    resampling._blocks.cache_clear()


def _exact(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return torch.nn.functional.interpolate(
        torch.from_numpy(planes)[None].double(), size=size, mode="bilinear", align_corners=False, antialias=True
    )[0].numpy()


@pytest.mark.parametrize(("strip", "serial"), [(2048, 2**18), (7, 2**18), (2048, 1), (1, 2000)])
@pytest.mark.parametrize(("source", "size"), SIZES, ids=str)
def test_it_is_interpolate(monkeypatch, source, size, strip, serial):
    monkeypatch.setattr(resampling, "STRIP", strip)
    monkeypatch.setattr(resampling, "SERIAL", serial)
    planes = np.random.default_rng(0).integers(0, 256, (2, *source), np.uint8)
    exact = _exact(planes, size)
    assert abs(resample(planes, size, range(size[0]), range(size[1])) - exact).max() < 1e-4  # of 255
    rows, columns = range(size[0] // 3, size[0]), range(size[1] // 4, size[1] // 4 + 1)
    assert abs(resample(planes, size, rows, columns) - exact[:, rows][:, :, columns]).max() < 1e-4


def test_every_level_as_a_float_is_that_level():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    floats = levels.astype(np.float32) / np.float32(255)
    for size in ((9, 31), (16, 16)):
        both = [resample(planes, size, range(size[0]), range(size[1])) for planes in (levels, floats)]
        assert np.array_equal(*both)
    assert np.array_equal(both[0], levels)
