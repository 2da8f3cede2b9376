"""Distances between two sets of clips, in features of a network that recognises actions: FVD and KVD.

N, M clips of a set, d features of a clip (400 of the I3D), B clips at a time.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidtwin.files import file_hash

I3D_FILE = "i3d_torchscript.pt"
I3D_SHA256 = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
I3D_REMEDY = f"give {I3D_FILE} of StyleGAN-V (51,235,320 bytes, sha256 {I3D_SHA256[:12]}...)"
LEAST_FRAMES = 10  # that its strides leave something of


class I3D:
    """The features that FVD is commonly taken in: those of StyleGAN-V's copy of the I3D trained on Kinetics-400.

    Args:
        path: of the file, a TorchScript program. It is run only if it is the known one, byte for byte.
        sha256: of another file of the same interface, for those who know what they do.

    Raises:
        FileNotFoundError: no such file. ValueError: another file.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "cpu", sha256: str = I3D_SHA256):
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; {I3D_REMEDY}")
        found = file_hash(path)
        if found != sha256:
            raise ValueError(f"{path}: its sha256 is {found[:12]}..., so it was not run; {I3D_REMEDY}")
        self.device, self.sha256 = torch.device(device), sha256
        self._network = torch.jit.load(path, map_location=self.device).eval()

    @torch.inference_mode()
    def __call__(self, clips: Tensor) -> np.ndarray:
        """Features (B, 400), float64, of clips (B, 3, F, H, W) in [-1, 1], clamped, not rounded; resized to 224x224 by the network.

        Raises:
            ValueError: clips of fewer than `LEAST_FRAMES` frames.
        """
        if clips.shape[2] < LEAST_FRAMES:
            raise ValueError(f"FVD needs clips of at least {LEAST_FRAMES} frames, got {clips.shape[2]}; the common number is 16")
        levels = (clips.to(self.device, torch.float32).clamp(-1, 1) + 1) * 127.5
        features: np.ndarray = self._network(levels, rescale=True, resize=True, return_features=True).double().cpu().numpy()
        return features


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """FVD of features x (N, d) and y (M, d): that of Gaussians of their means m and covariances C (arXiv 1812.01717, Eq. 1).

        |m_x - m_y|^2 + tr C_x + tr C_y - 2 tr (C_x C_y)^(1/2)

    Few clips bias it upward, most of all fewer than d: compare only at equal numbers, and with `real_floor`.

    Raises:
        ValueError: fewer than 2 clips, or features of different lengths.
    """
    x, y = _checked(x, y)
    root = _root(np.cov(x, rowvar=False))
    cross = np.linalg.eigvalsh(root @ np.cov(y, rowvar=False) @ root).clip(0)  # those of C_x C_y
    spread = x.var(axis=0, ddof=1).sum() + y.var(axis=0, ddof=1).sum()
    return max(0.0, float(np.square(x.mean(axis=0) - y.mean(axis=0)).sum() + spread - 2 * np.sqrt(cross).sum()))


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """KVD of features x (N, d) and y (M, d): unbiased squared MMD with k(a, b) = (a.b / d + 1)^3 (arXiv 1801.01401, Sec. 3.3).

    Unbiased at any number of clips, so it can be below 0.

    Raises:
        ValueError: as `frechet_distance`.
    """
    x, y = _checked(x, y)
    (n, d), m = x.shape, len(y)
    k_xx, k_yy, k_xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (k_xx.sum() - np.trace(k_xx)) / (n * (n - 1)) + (k_yy.sum() - np.trace(k_yy)) / (m * (m - 1))
    return float(within - 2 * k_xy.mean())


def real_floor(features: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """FVD and KVD between two random halves of one set: what sets of that size differ by although nothing does.

    Raises:
        ValueError: fewer than 4 clips.
    """
    if len(features) < 4:
        raise ValueError(f"the floor of FVD needs at least 4 clips, got {len(features)}")
    order = np.random.default_rng(seed).permutation(len(features))
    a, b = features[order[: len(order) // 2]], features[order[len(order) // 2 :]]
    return frechet_distance(a, b), kernel_distance(a, b)


def _checked(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"features of shapes {x.shape} and {y.shape}: need (N, d) and (M, d) of at least 2 clips each")
    return x.astype(np.float64), y.astype(np.float64)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance matrix."""
    values, vectors = np.linalg.eigh(np.atleast_2d(covariance))
    root: np.ndarray = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root
