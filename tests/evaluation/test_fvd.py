"""FVD and KVD against SciPy and plain loops; the I3D's file against what it must be."""

import hashlib

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from vidtwin.evaluation.fvd import I3D, frechet_distance, kernel_distance, real_floor


def features(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + shift


@pytest.mark.parametrize(("n", "m", "d"), [(50, 70, 8), (400, 300, 20), (12, 9, 30)], ids=["small", "large", "fewer than d"])
def test_frechet_is_scipys(n, m, d):
    x, y = features(n, d, 0), features(m, d, 1, shift=0.5)
    c_x, c_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    offset = 1e-9 * np.eye(d)
    root = scipy.linalg.sqrtm((c_x + offset) @ (c_y + offset)).real
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(c_x + c_y - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-6)


def test_frechet_of_gaussians_that_differ_in_mean_alone():
    x = features(30, 5, 0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(x, x + 3) == pytest.approx(5 * 9)


def test_kernel_is_a_plain_loop():
    x, y = features(7, 4, 0), features(5, 4, 1)

    def k(a, b):
        return (float(a @ b) / 4 + 1) ** 3

    within = sum(k(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / 42
    within += sum(k(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / 20
    across = sum(k(a, b) for a in x for b in y) / 35
    assert kernel_distance(x, y) == pytest.approx(within - 2 * across)


def test_the_floor_falls_with_the_number_of_clips():
    few, many = (real_floor(np.random.default_rng(0).normal(size=(n, 10))) for n in (20, 2000))
    assert few[0] > 10 * many[0] > 0
    assert abs(many[1]) < 0.05
    assert real_floor(np.eye(8)) == real_floor(np.eye(8))


def test_too_few_clips_are_refused():
    for x, y in ((np.ones((1, 3)), np.ones((5, 3))), (np.ones((5, 3)), np.ones((5, 4)))):
        for distance in (frechet_distance, kernel_distance):
            with pytest.raises(ValueError, match="at least 2 clips each"):
                distance(x, y)
    with pytest.raises(ValueError, match="at least 4 clips, got 3"):
        real_floor(np.ones((3, 2)))


class StandIn(nn.Module):
    """Of the interface of the real file."""

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> Tensor:
        assert rescale and resize and return_features
        return x.mean(dim=(2, 3, 4)).repeat(1, 134)[:, :400]


@pytest.fixture
def stand_in(tmp_path):
    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.script(StandIn()).save(path)
    return path


def test_only_the_known_file_is_run(stand_in, tmp_path):
    with pytest.raises(
        ValueError, match=r"i3d_torchscript.pt: its sha256 is \w+\.\.\., so it was not run; give i3d_torchscript.pt of"
    ):
        I3D(stand_in)
    with pytest.raises(FileNotFoundError, match="no such file; give i3d_torchscript.pt of StyleGAN-V"):
        I3D(tmp_path / "nothing.pt")
    network = I3D(stand_in, sha256=hashlib.sha256(stand_in.read_bytes()).hexdigest())
    x = torch.full((2, 3, 16, 8, 8), -1.0)
    x[1] = 3.0  # clamped
    found = network(x)
    assert found.shape == (2, 400) and found.dtype == np.float64
    assert (found[0] == 0).all() and (found[1] == 255).all()
    with pytest.raises(ValueError, match="at least 10 frames, got 4"):
        network(x[:, :, :4])
