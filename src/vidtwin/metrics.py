"""PSNR and SSIM per frame, as the released evaluation computes them.

N frames; H, W height and width in pixels; values in [0, 1] (PSNR: [0, data_range]).
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F

PSNR_FLOOR = 1e-8  # added to the mean squared error
PSNR_LIMIT = 80.0  # dB; what that makes of identical frames: -10 log10(1e-8)
SSIM_WINDOW = 11  # side of the Gaussian window in pixels
SSIM_SIGMA = 1.5  # its standard deviation in pixels
SSIM_K = (0.01, 0.03)  # the constants K_1 and K_2 of Wang et al. (2004)
SSIM_POOL = 256  # frames are average-pooled until their shorter side is about this many pixels
WINDOW = np.exp(-((np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2) ** 2) / (2 * SSIM_SIGMA**2))  # along one axis
WINDOW /= WINDOW.sum()
STRIP = 72  # rows of window positions
SERIAL = 2**18  # multiplications of one product of matrices; OpenBLAS starts threads above

Array = TypeVar("Array", np.ndarray, torch.Tensor)


def psnr(x: torch.Tensor, y: torch.Tensor, data_range: float = 1.0) -> torch.Tensor:
    """Peak signal-to-noise ratio of every frame in dB: -10 log10(mse + 1e-8), the mse over channels, height and width.

    This is the number the released evaluation reports; take its mean over the frames of a clip, then over clips. The
    PSNR of the mean squared error of a whole clip is 0.5-0.8 dB lower: the two must not be compared.

    Args:
        x, y: float (N, 3, H, W), values in [0, data_range].
        data_range: the largest possible value; the error is measured in units of it.

    Returns:
        float64 (N,) in dB, at most 80 for frames that differ, infinity for frames that are identical.

    Raises:
        ValueError: shapes that differ or are not (N, 3, H, W), integer input, or values outside [0, data_range].
    """
    if not (math.isfinite(data_range) and data_range > 0):
        raise ValueError(f"data_range must be positive and finite, got {data_range}; use 1.0 for frames in [0, 1]")
    x, y = _frames(x, y, data_range)
    mse = torch.stack([_mse(a, b, data_range) for a, b in zip(x, y, strict=True)])
    return torch.where(mse == 0, math.inf, -10 * torch.log10(mse + PSNR_FLOOR))


def _mse(x: torch.Tensor, y: torch.Tensor, data_range: float) -> torch.Tensor:
    """Of a frame (3, H, W), a colour at a time: float64 takes memory."""
    return torch.stack([(a.double() - b).div_(data_range).square_().mean() for a, b in zip(x, y, strict=True)]).mean()


def ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Structural similarity of every frame, the mean over RGB channels and window positions (Wang et al. 2004, Eq. 13).

    Gaussian window of 11x11 pixels, sigma 1.5, no padding, K = (0.01, 0.03), range 1; both inputs are average-pooled
    first by max(1, round(min(H, W) / 256)). The window is separable; float64, because the variance E[x^2] - E[x]^2 loses
    its digits in flat areas.

    Args:
        x, y: float (N, 3, H, W), values in [0, 1].

    Returns:
        float64 (N,) in [-1, 1]; 1 for identical frames.

    Raises:
        ValueError: shapes that differ or are not (N, 3, H, W), integer input, values outside [0, 1], or frames with a
            side below 11 pixels.
    """
    x, y = _frames(x, y, 1.0)
    factor = max(1, round(min(x.shape[-2:]) / SSIM_POOL))
    height, width = (side // factor for side in x.shape[-2:])
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs frames of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, got {height}x{width}")
    return torch.stack([_ssim(a, b, factor) for a, b in zip(x, y, strict=True)])


def _ssim(x: torch.Tensor, y: torch.Tensor, factor: int) -> torch.Tensor:
    """Mean SSIM of a frame (3, H, W), pooled by `factor`. On the CPU a colour after the other, in strips that stay in its cache."""
    if x.device.type != "cpu":
        x, y = (_pooled(frame, factor) for frame in (x, y))
        return _similarity(*_local_means(torch.stack([x, y, x * x + y * y, x * y]))).mean()
    total, positions = 0.0, 0
    for colours in zip(x.detach().split(1), y.detach().split(1), strict=True):
        a, b = (_pooled(colour, factor)[0].numpy() for colour in colours)
        for top in range(0, len(a) - SSIM_WINDOW + 1, STRIP):
            rows = slice(top, top + STRIP + SSIM_WINDOW - 1)
            similarity = _similarity(*_banded_means(a[rows], b[rows]))
            total, positions = total + similarity.sum(), positions + similarity.size
    return torch.tensor(total / positions, dtype=torch.float64)


def _pooled(frame: torch.Tensor, factor: int) -> torch.Tensor:
    return frame.double() if factor == 1 else F.avg_pool2d(frame.double(), factor)


def _similarity(mean_x: Array, mean_y: Array, squares: Array, product: Array) -> Array:
    """SSIM of each window position, from the windows' means of x, y, x^2 + y^2 and x y."""
    squared_means, mean_product = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    covariance, variances = product - mean_product, squares - squared_means  # that of x plus that of y
    c_1, c_2 = SSIM_K[0] ** 2, SSIM_K[1] ** 2
    return (2 * mean_product + c_1) * (2 * covariance + c_2) / ((squared_means + c_1) * (variances + c_2))


def unit_range(clip: torch.Tensor) -> torch.Tensor:
    """Clamp to [-1, 1] and map to [0, 1], without rounding to 8 bits."""
    return clip.clamp(-1, 1).mul_(0.5).add_(0.5)


def frame_psnr(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """PSNR in dB of each frame of two clips (3, F, h, w) in [-1, 1], values outside clamped: float64 (F,).

    Identical frames (black ones often are, after the clamp) count 80 dB, the most that the released formula gives: an
    infinite frame would make every mean infinite.
    """
    return _by_frame(psnr, x, y).clamp(max=PSNR_LIMIT)


def frame_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """SSIM of each frame of two clips (3, F, h, w) in [-1, 1], values outside clamped: float64 (F,)."""
    return _by_frame(ssim, x, y)


def clip_psnr(x: torch.Tensor, y: torch.Tensor) -> float:
    """Mean over frames of `frame_psnr`."""
    return frame_psnr(x, y).mean().item()


def clip_ssim(x: torch.Tensor, y: torch.Tensor) -> float:
    """Mean over frames of `frame_ssim`."""
    return frame_ssim(x, y).mean().item()


def _by_frame(metric: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A metric of frames in [0, 1], of two clips in [-1, 1]; one at a time, as float64 takes memory."""
    pairs = zip(x.split(1, dim=1), y.split(1, dim=1), strict=True)
    return torch.cat([metric(*(unit_range(frame.float()).transpose(0, 1) for frame in pair)) for pair in pairs])


def _local_means(images: torch.Tensor) -> torch.Tensor:
    """Gaussian-weighted means over 11x11 windows: (..., H, W) -> (..., H - 10, W - 10), one axis after the other."""
    for axis in (-1, -2):
        positions = images.shape[axis] - SSIM_WINDOW + 1
        means = images.new_zeros(())
        for start, weight in enumerate(WINDOW.tolist()):  # sums of shifted images: in float64 faster than a convolution
            means = torch.add(means, images.narrow(axis, start, positions), alpha=weight)
        images = means
    return images


def _banded_means(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`_local_means` of x, y, x^2 + y^2 and x y, each (H, W), as products with blocks of the window's band: (4, H - 10, W - 10).

    NumPy does products this small in the thread that asks for them, so that several frames can be scored at once.
    """
    H, W = x.shape
    images = np.empty((H, 4, W))
    images[:, 0], images[:, 1], images[:, 2], images[:, 3] = x, y, x * x + y * y, x * y
    rows, means = np.empty((H - SSIM_WINDOW + 1, 4 * W)), np.empty((4 * (H - SSIM_WINDOW + 1), W - SSIM_WINDOW + 1))
    _along_first(images.reshape(H, -1), rows)
    _along_first(rows.reshape(-1, W).T, means.T)
    return means.reshape(len(rows), 4, -1).transpose(1, 0, 2)


def _along_first(values: np.ndarray, means: np.ndarray) -> None:
    """Means over windows of the first axis: (n, width) -> (n - 10, width)."""
    places = 2
    while (places + 1) * (places + SSIM_WINDOW) * values.shape[1] <= SERIAL:
        places += 1
    band = np.zeros((places, places + SSIM_WINDOW - 1))
    for place in range(places):
        band[place, place : place + SSIM_WINDOW] = WINDOW
    blocks = -(-len(means) // places)
    for start, stop in pairwise(block * len(means) // blocks for block in range(blocks + 1)):  # of even sizes
        near = values[start : stop + SSIM_WINDOW - 1]
        np.matmul(band[: stop - start, : len(near)], near, out=means[start:stop])


def _frames(x: torch.Tensor, y: torch.Tensor, data_range: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Check a pair of frame batches and return them where there is float64."""
    for name, value in (("x", x), ("y", y)):
        if not value.is_floating_point():
            remedy = "convert integer frames first, uint8 by .float() / 255"
            raise ValueError(f"{name} must hold floats in [0, {data_range:g}], got {value.dtype}; {remedy}")
        if value.ndim != 4 or value.shape[1] != 3 or 0 in value.shape:
            raise ValueError(f"{name} must be a batch of RGB frames (N, 3, H, W), got shape {tuple(value.shape)}")
    if x.shape != y.shape:
        raise ValueError(f"x and y must have the same shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    for name, value in (("x", x), ("y", y)):
        low, high = value.aminmax()
        if not (low >= 0 and high <= data_range):  # also true for NaN
            found = f"values in [{low.item():g}, {high.item():g}]"
            raise ValueError(f"{name} must lie in [0, {data_range:g}], got {found}; rescale and clamp it first")
    if x.device.type == "mps":  # has no float64
        x, y = x.cpu(), y.cpu()
    return x, y
