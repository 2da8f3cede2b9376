"""Latents <-> tokens: the only place that knows how the two latents are packed (paper Sec. 3.5, D.3).

Letters: B batch; z_S (d_S, n_q, h_S, w_S) is a volume as it is; z_D is the volume (d_D, 1, f, h_D + w_D), a video of one frame:
y (the height axis kept) first, then x. A volume (B, C, T, H, W) is cut into patches (p_t, p_h, p_w), L tokens of P values each;
sides that patches do not divide are filled up with zeros, which are cut away again.
"""

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as nnf
from einops import rearrange
from torch import Tensor

from vidtwin.model.latents import NormalizedLatents

Volumes = tuple[Tensor, Tensor]  # of Structure and of Dynamics
Sides = tuple[int, int, int]


def to_volumes(latents: NormalizedLatents) -> Volumes:
    """z_S (B, d_S, n_q, h_S, w_S) and z_D (B, d_D, 1, f, h_D + w_D)."""
    return latents.structure, torch.cat([latents.dynamics_y, latents.dynamics_x], dim=3)[:, :, None]


def to_latents(volumes: Volumes, h_D: int) -> NormalizedLatents:
    """The inverse of `to_volumes`."""
    structure, dynamics = volumes
    y, x = dynamics[:, :, 0].split([h_D, dynamics.shape[-1] - h_D], dim=3)
    return NormalizedLatents(structure, x, y)


@dataclass(frozen=True)
class Patches:
    """How volumes (B, C, T, H, W) of one shape are cut into tokens (B, L, P), in the order of their sides.

    Attributes:
        channels: C. sides: (T, H, W). patch: (p_t, p_h, p_w).
    """

    channels: int
    sides: Sides
    patch: Sides

    @property
    def grid(self) -> Sides:
        """Patches along each side."""
        t, h, w = (-(-side // p) for side, p in zip(self.sides, self.patch, strict=True))
        return t, h, w

    @property
    def count(self) -> int:
        """L."""
        return prod(self.grid)

    @property
    def values(self) -> int:
        """P."""
        return self.channels * prod(self.patch)

    def pack(self, volume: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, L, P). Raises ValueError for a volume of another shape."""
        if tuple(volume.shape[1:]) != (self.channels, *self.sides):
            raise ValueError(f"latents of shape {tuple(volume.shape)}: expected (B, {self.channels}, {str(self.sides)[1:]}")
        missing = [n * p - side for n, p, side in zip(self.grid, self.patch, self.sides, strict=True)]
        if any(missing):
            t, h, w = missing
            volume = nnf.pad(volume, (0, w, 0, h, 0, t))
        p_t, p_h, p_w = self.patch
        return rearrange(volume, "b c (t pt) (h ph) (w pw) -> b (t h w) (c pt ph pw)", pt=p_t, ph=p_h, pw=p_w)

    def unpack(self, tokens: Tensor) -> Tensor:
        """(B, L, P) -> (B, C, T, H, W); the exact inverse."""
        (t, h, w), (p_t, p_h, p_w) = self.grid, self.patch
        pattern = "b (t h w) (c pt ph pw) -> b c (t pt) (h ph) (w pw)"
        volume = rearrange(tokens, pattern, t=t, h=h, w=w, pt=p_t, ph=p_h, pw=p_w)
        return volume[:, :, : self.sides[0], : self.sides[1], : self.sides[2]]
