"""MS-SSIM of every frame, differentiable (Wang, Simoncelli and Bovik 2003, "Multiscale structural similarity", Eq. 7).

N frames; H, W height and width in pixels; values in [0, 1].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # side and standard deviation of the Gaussian window in pixels
C_1, C_2 = 0.01**2, 0.03**2
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents of the scales, finest first
TOO_SMALL = (WINDOW - 1) * 2 ** (len(WEIGHTS) - 1)  # pixels; the coarsest scale must hold a window
EPSILON = 1e-6


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Multi-scale structural similarity, the mean over RGB channels: (N,) in [0, 1], 1 for identical frames.

    Gaussian window of 11x11 pixels, sigma 1.5, no padding, K = (0.01, 0.03), range 1; 2x2 average pooling between the scales (an
    odd side gets a border of zeros first), negative terms count 0: all as pytorch-msssim. The gradient stays finite (`_power`).

    Args:
        x, y: float (N, 3, H, W), values in [0, 1]. float64 stays; lower precisions are computed in float32, under autocast too,
            because the variance E[x^2] - E[x]^2 loses its digits.

    Raises:
        ValueError: shapes that differ or are not (N, 3, H, W), integer input, or frames with a side of 160 pixels or less.
    """
    for name, value in (("x", x), ("y", y)):
        if not value.is_floating_point() or value.ndim != 4 or value.shape[1] != 3:
            found = f"{value.dtype} of shape {tuple(value.shape)}"
            raise ValueError(f"{name} must be a float batch of RGB frames (N, 3, H, W) in [0, 1], got {found}")
    if x.shape != y.shape:
        raise ValueError(f"x and y must have the same shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    height, width = x.shape[-2:]
    if min(height, width) <= TOO_SMALL:
        raise ValueError(f"MS-SSIM needs frames with sides above {TOO_SMALL} pixels, got {height}x{width}; use larger frames")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.to(dtype), y.to(dtype)
        similarity = torch.ones((), dtype=dtype, device=x.device)
        for weight in WEIGHTS[:-1]:
            similarity = similarity * _power(_terms(x, y)[1], weight)
            padding = (x.shape[-2] % 2, x.shape[-1] % 2)
            x, y = F.avg_pool2d(x, 2, padding=padding), F.avg_pool2d(y, 2, padding=padding)
        return (similarity * _power(_terms(x, y)[0], WEIGHTS[-1])).mean(1)


def _terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure part, both (N, 3): means over the window positions of one scale."""
    rows = _band(x.shape[-2]).to(x)  # (H - 10, H)
    columns = _band(x.shape[-1]).to(x).T  # (W, W - 10)

    def local_mean(image: Tensor) -> Tensor:
        return rows @ (image @ columns)  # (N, 3, H - 10, W - 10)

    mean_x, mean_y = local_mean(x), local_mean(y)
    squares, product = mean_x**2 + mean_y**2, mean_x * mean_y
    variances = local_mean(x * x + y * y) - squares
    covariance = local_mean(x * y) - product
    contrast_structure = (2 * covariance + C_2) / (variances + C_2)
    luminance = (2 * product + C_1) / (squares + C_1)
    return (luminance * contrast_structure).mean((-2, -1)), contrast_structure.mean((-2, -1))


def _power(term: Tensor, weight: float) -> Tensor:
    """max(term, 0) ** weight, whose slope is infinite at 0: positive terms are clamped to 1e-6 first, below it the slope is 0."""
    return torch.where(term > 0, term.clamp(min=EPSILON) ** weight, 0.0)


def _band(size: int) -> Tensor:
    """The Gaussian window as a banded matrix, float64 (size - 10, size): row i holds the window at columns i..i+10."""
    offset = torch.arange(size) - torch.arange(size - WINDOW + 1)[:, None] - WINDOW // 2
    band = torch.exp(-offset.double().square() / (2 * SIGMA**2)) * (offset.abs() <= WINDOW // 2)
    return band / band.sum(1, keepdim=True)
