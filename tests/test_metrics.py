"""PSNR and SSIM: against direct formulas, self-checks, refusals."""

import math

import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vidtwin import metrics
from vidtwin.metrics import frame_psnr, frame_ssim, psnr, ssim


def _pair(frames: int = 2, height: int = 40, width: int = 52, noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(frames, 3, height // 4, width // 4, generator=generator, dtype=torch.float64)
    x = F.interpolate(coarse, size=(height, width), mode="bilinear")
    return x, (x + noise * torch.randn(x.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)


def _direct_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Wang et al. (2004) with a plain 11x11 convolution per channel."""
    axis = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / (2 * 1.5**2))
    weight = (window / window.sum()).expand(3, 1, 11, 11)

    def mean(image: torch.Tensor) -> torch.Tensor:
        return F.conv2d(image, weight, groups=3)

    c_1, c_2 = 0.01**2, 0.03**2
    m_x, m_y = mean(x), mean(y)
    s_xx, s_yy, s_xy = mean(x * x) - m_x**2, mean(y * y) - m_y**2, mean(x * y) - m_x * m_y
    value = (2 * m_x * m_y + c_1) * (2 * s_xy + c_2) / ((m_x**2 + m_y**2 + c_1) * (s_xx + s_yy + c_2))
    return value.mean(dim=(1, 2, 3))


@pytest.mark.parametrize("noise", [0.01, 0.2])
def test_as_scikit_image(noise):
    x, y = _pair(2, 64, 80, noise)
    images = list(zip(*(frames.permute(0, 2, 3, 1).numpy() for frames in (x, y)), strict=True))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1, "channel_axis": 2}
    expected = [structural_similarity(a, b, **options) for a, b in images]
    torch.testing.assert_close(ssim(x, y), torch.tensor(expected), atol=1e-9, rtol=0)
    expected = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in images]  # which has no floor
    torch.testing.assert_close(psnr(x, y), torch.tensor(expected), atol=1e-3, rtol=0)


def test_psnr_of_a_known_error():
    x = torch.full((3, 3, 8, 8), 0.5)
    y = x + torch.tensor([0.1, 0.01, 0.0]).view(3, 1, 1, 1)
    first, second, third = psnr(x, y, data_range=1.0).tolist()
    assert first == pytest.approx(20, abs=1e-4)
    assert second == pytest.approx(-10 * math.log10(1e-4 + 1e-8), abs=1e-4)
    assert third == math.inf


def test_psnr_does_not_depend_on_the_unit():
    x, y = _pair()
    torch.testing.assert_close(psnr(x * 255, y * 255, data_range=255), psnr(x, y, data_range=1.0))


def test_psnr_stops_at_80_db_unless_identical():
    x = torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64)
    assert psnr(x, x + 1e-7).item() == pytest.approx(80, abs=1e-3)
    assert psnr(x, x.clone()).item() == math.inf


@pytest.mark.parametrize("size", [(11, 11), (40, 52), (64, 17), (173, 30)])
@pytest.mark.parametrize("noise", [0.01, 0.2])
def test_ssim_equals_the_direct_convolution(size, noise):
    x, y = _pair(2, *size, noise)
    torch.testing.assert_close(ssim(x, y), _direct_ssim(x, y), atol=1e-9, rtol=0)
    torch.testing.assert_close(ssim(x.float(), y.float()), _direct_ssim(x, y), atol=1e-6, rtol=0)


@pytest.mark.parametrize("serial", [1, 5000, 2**18])
@pytest.mark.parametrize("size", [(11, 11), (12, 40), (51, 37)])
def test_products_with_blocks_are_sums_of_shifted_images(monkeypatch, size, serial):
    """What the CPU computes, and other devices."""
    monkeypatch.setattr(metrics, "SERIAL", serial)
    x, y = torch.rand(2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = metrics._local_means(torch.stack([x, y, x * x + y * y, x * y]))
    torch.testing.assert_close(torch.from_numpy(metrics._banded_means(x.numpy(), y.numpy())), expected, atol=1e-14, rtol=0)


def test_frames_of_clips_are_scored_one_by_one():
    x, y = (clip.transpose(0, 1).float() * 2.2 - 1.1 for clip in _pair(3))
    before = x.clone()
    frames = [(value.clamp(-1, 1) * 0.5 + 0.5).transpose(0, 1) for value in (x, y)]
    assert torch.equal(frame_psnr(x, y), psnr(*frames)) and torch.equal(frame_ssim(x, y), ssim(*frames))
    assert frame_psnr(x, x).tolist() == [80.0] * 3 and torch.equal(x, before)
    half = [frame_ssim(*(clip.to(dtype) for clip in (x.bfloat16(), y.bfloat16()))) for dtype in (torch.bfloat16, torch.float32)]
    assert torch.equal(*half)


def test_ssim_pools_large_frames_first():
    x, y = _pair(1, 384, 396)  # round(384 / 256) = 2
    assert ssim(x, y).item() == pytest.approx(ssim(F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)).item(), abs=1e-12)
    x, y = x[..., :380, :], y[..., :380, :]  # round(380 / 256) = 1
    assert abs(ssim(x, y) - ssim(F.avg_pool2d(x, 2), F.avg_pool2d(y, 2))).item() > 0.1


def test_ssim_of_identical_frames_is_one():
    x, _ = _pair()
    torch.testing.assert_close(ssim(x, x), torch.ones(2, dtype=torch.float64))
    flat = torch.full((1, 3, 16, 16), 0.7)
    assert ssim(flat, flat).item() == pytest.approx(1, abs=1e-12)


def test_ssim_is_symmetric_and_falls_with_noise():
    x, slightly = _pair(noise=0.02)
    _, strongly = _pair(noise=0.3)
    torch.testing.assert_close(ssim(x, slightly), ssim(slightly, x))
    assert (ssim(x, slightly) > ssim(x, strongly)).all()


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_bad_input_is_refused_in_one_line(metric):
    good = torch.rand(2, 3, 16, 16)
    nan = good.clone()
    nan[0, 0, 0, 0] = math.nan
    cases = [
        ((good * 255).to(torch.uint8), good, "uint8"),
        (good, (good * 255).to(torch.uint8), "uint8"),
        (good, good[:1], "same shape"),
        (good[0], good[0], "(N, 3, H, W)"),
        (good[:, :1], good[:, :1], "(N, 3, H, W)"),
        (good[:0], good[:0], "(N, 3, H, W)"),
        (good * 2 - 1, good, "rescale"),
        (good, good + 1, "rescale"),
        (nan, good, "nan"),
    ]
    for x, y, said in cases:
        with pytest.raises(ValueError) as error:
            metric(x, y)
        assert said in str(error.value)
        assert "\n" not in str(error.value)


def test_ssim_refuses_frames_smaller_than_its_window():
    with pytest.raises(ValueError, match="10x64"):
        ssim(torch.zeros(1, 3, 10, 64), torch.zeros(1, 3, 10, 64))


@pytest.mark.parametrize("data_range", [0, -1.0, math.inf, math.nan])
def test_psnr_refuses_a_senseless_range(data_range):
    with pytest.raises(ValueError, match="data_range"):
        psnr(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), data_range=data_range)
