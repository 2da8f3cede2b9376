"""The Structure branch: F_S (z -> moments of z_S) and H_S (z_S -> u_S), paper Sec. 3.3.

Letters: (f, h, w) feature grid, c hidden width, n_q queries of width d_q, d_S channels on the grid (h_S, w_S).
"""

from einops import rearrange
from torch import Tensor, nn


class StructureEncoder(nn.Module):
    """F_S: z (B, c, f, h, w) -> mean and log-variance of z_S on the channel axis, (B, 2 d_S, n_q, h_S, w_S).

    The Q-Former reads each place's sequence over time (space is in the batch), so that queries learn trends that do not
    depend on the place; stride-2 convolutions then shrink the grid of each query. `qformer` is a `QFormer`, or what an ablation
    puts in its place.
    """

    def __init__(self, qformer: nn.Module, d_q: int, d_S: int, downsamples: int, width: int):
        super().__init__()
        self.qformer = qformer
        self.conv_in = nn.Conv2d(d_q, width, 3, padding=1)  # no activation between this and the next (as released)
        self.down = nn.ModuleList(nn.Conv2d(width * 2**i, width * 2 ** (i + 1), 3, stride=2, padding=1) for i in range(downsamples))
        self.moments = nn.Conv2d(width * 2**downsamples, 2 * d_S, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        b, _, _, h, w = z.shape
        q = self.qformer(rearrange(z, "b c f h w -> (b h w) f c"))
        y = self.conv_in(rearrange(q, "(b h w) n d -> (b n) d h w", b=b, h=h, w=w))
        for conv in self.down:
            y = conv(y).relu()
        return rearrange(self.moments(y), "(b n) d h w -> b d n h w", b=b)


class StructureDecoder(nn.Module):
    """H_S: z_S (B, d_S, n_q, h_S, w_S) -> u_S (B, c, f, h, w), never negative."""

    def __init__(self, f: int, h: int, w: int, c: int, n_q: int, d_q: int, d_S: int, downsamples: int, width: int):
        super().__init__()
        self.grid = (h, w)
        self.conv_in = nn.Conv2d(d_S, width * 2**downsamples, 3, padding=1)
        self.up = nn.ModuleList(nn.Conv2d(width * 2 ** (i + 1), width * 2**i, 3, padding=1) for i in reversed(range(downsamples)))
        self.conv_out = nn.Conv2d(width, d_q, 3, padding=1)
        self.to_hidden = nn.Linear(d_q, c)
        self.to_frames = nn.Conv1d(n_q, f, 1)  # queries as channels: a learned (f, n_q) matrix
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, z_S: Tensor) -> Tensor:
        b = len(z_S)
        y = self.conv_in(rearrange(z_S, "b d n h w -> (b n) d h w")).relu()
        for conv in self.up:
            y = self.upsample(conv(y).relu())
        y = center_crop(self.conv_out(y), *self.grid)
        h, w = self.grid
        y = self.to_hidden(rearrange(y, "(b n) d h w -> (b h w) n d", b=b)).relu()
        return rearrange(self.to_frames(y).relu(), "(b h w) f c -> b c f h w", b=b, h=h, w=w)


def center_crop(y: Tensor, h: int, w: int) -> Tensor:
    """Cut (..., H, W) to (..., h, w); of an odd excess, the last row or column goes: H = 8, h = 7 keeps rows 0..6.

    The sides of a halved and doubled odd grid exceed the grid: 7 -> 4 -> 8. (The released code takes both borders from the
    row count, which is the same for square grids.)
    """
    top, left = (y.shape[-2] - h) // 2, (y.shape[-1] - w) // 2
    return y[..., top : top + h, left : left + w]
