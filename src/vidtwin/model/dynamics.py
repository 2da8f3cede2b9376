"""The Dynamics branch: F_D (z -> moments of z_D) and H_D (z_D -> u_D), paper Sec. 3.4.

Letters: (f, h, w) feature grid, c hidden width, d_D channels; x keeps the width axis (mean over height, w_D long), y keeps the
height axis (mean over width, h_D long).
"""

from einops import rearrange, reduce, repeat
from torch import Tensor, nn


class DynamicsEncoder(nn.Module):
    """F_D: z (B, c, f, h, w) -> mean and log-variance of z_D on the channel axis: (B, 2 d_D, f, w_D), (B, 2 d_D, f, h_D)."""

    def __init__(self, c: int, d_D: int, downsamples: int):
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(c, c, 3, stride=2, padding=1) for _ in range(downsamples))
        self.moments = nn.Conv2d(c, 2 * d_D, 3, padding=1)  # over the (time, space) plane; one head for both axes

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        y = rearrange(z, "b c f h w -> (b f) c h w")
        for conv in self.down:
            y = conv(y).relu()
        y = rearrange(y, "(b f) c h w -> b c f h w", b=len(z))
        return self.moments(reduce(y, "b c f h w -> b c f w", "mean")), self.moments(reduce(y, "b c f h w -> b c f h", "mean"))


class DynamicsDecoder(nn.Module):
    """H_D: z_D = (B, d_D, f, w_D), (B, d_D, f, h_D) -> u_D = u_D^(w) + u_D^(h), (B, c, f, h, w), never negative.

    If the branch downsamples, a small MLP stretches each axis back. The released model has one for both axes, which needs a
    square grid; on other grids each axis has its own.
    """

    def __init__(self, h: int, w: int, h_D: int, w_D: int, c: int, d_D: int, downsamples: int):
        super().__init__()
        self.grid = (h, w)
        self.embed = nn.Sequential(nn.Linear(d_D, c), nn.ReLU(), nn.Linear(c, c), nn.ReLU())
        sides = [(w_D, w)] if h == w else [(w_D, w), (h_D, h)]
        self.stretch = nn.ModuleList(
            nn.Sequential(nn.Linear(short, side), nn.ReLU(), nn.Linear(side, side), nn.ReLU())
            for short, side in sides
            if downsamples
        )

    def axis_feature(self, z: Tensor, axis: int) -> Tensor:
        """(B, d_D, f, short) -> (B, c, f, side); axis 0 is x, -1 is y."""
        u = rearrange(self.embed(rearrange(z, "b d f r -> b f r d")), "b f r c -> b c f r")
        return self.stretch[axis](u) if self.stretch else u

    def forward(self, z_x: Tensor, z_y: Tensor) -> Tensor:
        h, w = self.grid
        u_x = repeat(self.axis_feature(z_x, 0), "b c f w -> b c f h w", h=h)
        u_y = repeat(self.axis_feature(z_y, -1), "b c f h -> b c f h w", w=w)
        return u_x + u_y
