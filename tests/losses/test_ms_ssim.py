"""MS-SSIM: against pytorch-msssim, finite gradients where a term is 0, precisions, refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_msssim import ms_ssim as reference
from torch import Tensor

from vidtwin.losses.ms_ssim import _power, ms_ssim
from vidtwin.video.read.reader import read_clip


def _noisy(x: Tensor, noise: float) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (x + noise * torch.randn(x.shape, generator=generator, dtype=x.dtype)).clamp(0, 1)


def _random(height: int = 176, width: int = 192, frames: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(frames, 3, height // 8, width // 8, generator=generator)
    return F.interpolate(coarse, size=(height, width), mode="bilinear")


def _real(assets: Path, name: str) -> Tensor:
    frames: np.ndarray = read_clip(assets / name, 0, 2, 5)
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


def _against_reference(x: Tensor, y: Tensor) -> None:
    ours, theirs = y.clone().requires_grad_(), y.clone().requires_grad_()
    value, expected = ms_ssim(x, ours), reference(x, theirs, data_range=1.0, size_average=False)
    assert value.dtype == x.dtype and value.shape == (len(x),)
    torch.testing.assert_close(value, expected, atol=1e-5, rtol=0)
    value.sum().backward()
    expected.sum().backward()
    assert (ours.grad - theirs.grad).norm() < 1e-4 * theirs.grad.norm()


@pytest.mark.parametrize("noise", [0.02, 0.2])
@pytest.mark.parametrize("size", [(176, 192), (161, 187), (163, 161)])
def test_equals_pytorch_msssim_on_random_frames(size, noise):
    x = _random(*size)
    _against_reference(x, _noisy(x, noise))
    _against_reference(x.double(), _noisy(x.double(), noise))


@pytest.mark.parametrize("name", ["h264_aac.mp4", "hevc_gray.mp4"])
def test_equals_pytorch_msssim_on_real_frames(assets, name):
    x = _real(assets, name)
    _against_reference(x, _noisy(x, 0.05))
    _against_reference(x, F.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False))
    _against_reference(x[:1], x[1:])


def test_negative_terms_count_zero_and_their_gradient_is_finite():
    x = _random()
    opposite = (1 - x).requires_grad_()
    value = ms_ssim(x, opposite)
    assert torch.equal(value, torch.zeros(2))
    assert torch.equal(reference(x, 1 - x, data_range=1.0, size_average=False), value)
    value.sum().backward()
    assert torch.equal(opposite.grad, torch.zeros_like(x))


def test_the_slope_at_zero_is_bounded():
    terms = torch.tensor([0.0, -0.1, 1e-30, 1e-6, 0.5], requires_grad=True)
    powers = _power(terms, 0.0448)
    assert powers[:2].tolist() == [0, 0] and powers[4].item() == pytest.approx(0.5**0.0448)
    powers.sum().backward()
    assert terms.grad[:3].tolist() == [0, 0, 0]
    assert (terms.grad[3:] > 0).all() and terms.grad.max() < 0.0448 * 1e-6 ** (0.0448 - 1) * 1.01


def test_white_against_black_has_a_finite_gradient():
    white = torch.ones(1, 3, 170, 170, requires_grad=True)
    ms_ssim(torch.zeros_like(white), white).sum().backward()
    assert torch.isfinite(white.grad).all()


def test_identical_frames():
    for x in (_random(), torch.zeros(1, 3, 170, 170), torch.ones(1, 3, 170, 170)):
        y = x.clone().requires_grad_()
        value = ms_ssim(x, y)
        torch.testing.assert_close(value, torch.ones(len(x)))
        value.sum().backward()
        assert torch.isfinite(y.grad).all() and y.grad.abs().max() < 1e-4


def test_half_precision_is_computed_in_float32():
    x = _random().half()
    y = _noisy(x.float(), 0.05).half()
    assert torch.equal(ms_ssim(x, y), ms_ssim(x.float(), y.float()))
    with torch.autocast("cpu", torch.bfloat16):
        inside = ms_ssim(x, y)
    assert torch.equal(inside, ms_ssim(x, y))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.rand(1, 3, 160, 400), torch.rand(1, 3, 160, 400), "MS-SSIM needs frames with sides above 160 pixels, got 160x400"),
        (torch.rand(1, 3, 170, 170), torch.rand(2, 3, 170, 170), "the same shape, got (1, 3, 170, 170) and (2, 3, 170, 170)"),
        (torch.zeros(1, 3, 170, 170, dtype=torch.uint8), torch.rand(1, 3, 170, 170), "x must be a float batch"),
        (torch.rand(1, 3, 170, 170), torch.rand(3, 170, 170), "y must be a float batch"),
    ],
)
def test_refusals(x, y, message):
    with pytest.raises(ValueError) as error:
        ms_ssim(x, y)
    assert message in str(error.value) and "\n" not in str(error.value)
