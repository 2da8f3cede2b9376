"""What principal components of patches achieve with as many numbers per clip as a latent has: control (c).

A patch is p x p pixels in all frames and colours: a row of D = 3 F p p numbers, of which K = values / patches of a clip are kept.
Unlike the controls of `evaluation.controls` these have learned from training clips; an autoencoder should beat them too.

Letters: F frames, H, W height and width in pixels. Clips are float tensors (3, F, H, W) with values in [0, 1], RGB.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

SIDE = 16  # pixels of a patch, where the clip's sides and the number of values allow it
OF_EACH = 64  # patches of each training clip, at most
POWER_STEPS = 4  # of the randomised decomposition


@dataclass(frozen=True, eq=False)
class PatchPCA:
    """The first K principal components of patches.

    Attributes:
        size: (F, H, W) of the clips. side: p.
        mean: float32 (D,). basis: float32 (K, D), orthonormal rows.
        clips, patches: how many were fitted to.
    """

    size: tuple[int, int, int]
    side: int
    mean: np.ndarray
    basis: np.ndarray
    clips: int
    patches: int

    @property
    def values(self) -> int:
        """How many numbers are kept per clip."""
        return len(self.basis) * self.size[1] * self.size[2] // self.side**2

    def to_dict(self) -> dict[str, Any]:
        """What it is, without the numbers."""
        digest = hashlib.sha256(self.basis.tobytes() + self.mean.tobytes()).hexdigest()
        facts = {"values": self.values, "patch": self.side, "components": len(self.basis)}
        return facts | {"clips": self.clips, "patches": self.patches, "sha256": digest}

    def control(self, clip: Tensor) -> Tensor:
        """What is left of a clip (3, F, H, W) in [0, 1]: the same, clamped. Raises ValueError for another size."""
        if clip.shape != (3, *self.size):
            raise ValueError(f"a clip of {tuple(clip.shape)}: these components are of {(3, *self.size)}")
        mean, basis = torch.from_numpy(self.mean), torch.from_numpy(self.basis)
        kept = (_patches(clip, self.side) - mean) @ basis.T @ basis + mean
        _, frames, height, _ = clip.shape
        clip = rearrange(kept, "(h w) (c f p q) -> c f (h p) (w q)", h=height // self.side, c=3, f=frames, p=self.side)
        return clip.clamp(0, 1)


def fit_patch_pca(clips: Iterable[Tensor], values: int, seed: int = 0) -> PatchPCA:
    """Principal components of patches of training clips, with at most `values` numbers a clip.

    Up to 64 patches of each clip are drawn; the components are of a randomised singular value decomposition (Halko et al. 2011).

    Args:
        clips: float (3, F, H, W), RGB in [0, 1], all of one size; read once, one at a time. 49 KiB are kept of each patch of 16
            frames and 16 x 16 pixels.
        seed: of the patches and of the decomposition.

    Raises:
        ValueError: no clips, clips of different sizes, fewer values than the coarsest patches of such clips need, or fewer patches
            than components.
    """
    generator = torch.Generator().manual_seed(seed)
    rows: list[Tensor] = []
    size, side = None, 0
    for clip in clips:
        if size is None:
            size = clip.shape[1:]
            side = _side(values, size[1], size[2])
        elif clip.shape[1:] != size:
            raise ValueError(f"the clips must have one size, got {tuple(clip.shape[1:])} after {tuple(size)}")
        patches = _patches(clip, side)
        rows.append(patches[torch.randperm(len(patches), generator=generator)[:OF_EACH]])
    if size is None:
        raise ValueError("fitting principal components needs at least one clip")
    data = torch.cat(rows)
    components = min(values * side**2 // (size[1] * size[2]), data.shape[1])
    if len(data) <= components:
        raise ValueError(f"{len(rows)} clips have {len(data)} patches for {components} components; give more to fit to")
    mean = data.mean(0)
    data -= mean
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = min(components + 8, *data.shape)
        _, _, basis = torch.svd_lowrank(data, drawn, POWER_STEPS)
    frames, height, width = size
    return PatchPCA((frames, height, width), side, mean.numpy(), basis[:, :components].T.contiguous().numpy(), len(rows), len(data))


def _patches(clip: Tensor, side: int) -> Tensor:
    """(3, F, H, W) -> float32 (patches, D)."""
    return rearrange(clip.detach().cpu().float(), "c f (h p) (w q) -> (h w) (c f p q)", p=side, q=side)


def _side(values: int, height: int, width: int) -> int:
    """Of patches that a clip can be cut into, the one nearest below `SIDE`; larger where there are more patches than values."""
    common = math.gcd(height, width)
    fitting = [side for side in range(1, common + 1) if common % side == 0 and height * width // side**2 <= values]
    if not fitting:
        raise ValueError(f"{values} values are fewer than the {height * width // common**2} patches of {common} x {common} pixels")
    return max((side for side in fitting if side <= SIDE), default=fitting[0])
