"""How the Dynamics latent of a clip, x (B, d, f, w) and y (B, d, f, h), is laid out for those who read it.

Letters: B batch, d channels (d_D), f frames, w and h the grid of x and y, n = w = h where both must be the same.
"""

from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from vidtwin.model.config import VidTwinConfig

LAYOUTS = ("cowvla", "per_frame", "xy", "raw")


class Dynamics(NamedTuple):
    """The two halves of z_D: x (B, d, f, w) keeps the width axis, y (B, d, f, h) the height axis."""

    x: Tensor
    y: Tensor

    def __repr__(self) -> str:
        return f"Dynamics(x={tuple(self.x.shape)}, y={tuple(self.y.shape)})"


def check_layout(layout: str, config: VidTwinConfig) -> None:
    """ValueError for an unknown layout, a model without Dynamics, or a layout that joins x and y of a model that is not square."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r}: choose one of {', '.join(LAYOUTS)}")
    (d, _, w), (_, _, h) = config.dynamics_x_shape, config.dynamics_y_shape
    if d == 0:
        raise ValueError(f"dynamics_branch={config.dynamics_branch!r}: this model has no Dynamics latent; use another model")
    if layout in ("cowvla", "per_frame") and w != h:
        raise ValueError(f"layout={layout!r}: needs a square model, this one has w={w} and h={h}; use 'xy' or 'raw'")


def motion_shape(layout: str, config: VidTwinConfig) -> tuple[Any, ...]:
    """A clip's shape without the batch axis: (2 d f n,), (f, 2 d n), (d f (w + h),), or of "raw" the shapes of x and of y."""
    (d, f, w), (_, _, h) = x, y = config.dynamics_x_shape, config.dynamics_y_shape
    return {"cowvla": (2 * d * f * w,), "per_frame": (f, 2 * d * w), "xy": (d * f * (w + h),), "raw": (x, y)}[layout]


def pack(x: Tensor, y: Tensor, layout: str) -> Tensor | Dynamics:
    """x (B, d, f, w), y (B, d, f, h) in a layout: (B, 2 d f n), (B, f, 2 d n), (B, d f (w + h)), or the pair itself.

    "cowvla": value (t n + i) 2 d + c is x[c, t, i] for c < d and y[c - d, t, i] for c >= d. "per_frame": the same, at
    [t, 2 d i + c]. "xy": x[c, t, i] is value (c f + t) w + i, y[c, t, i] is value d f w + (c f + t) h + i.
    """
    if layout == "raw":
        return Dynamics(x, y)
    if layout == "xy":
        return torch.cat([x.flatten(1), y.flatten(1)], dim=1)
    per_frame = rearrange(torch.cat([x, y], dim=1), "b d f n -> b f (n d)")
    return per_frame if layout == "per_frame" else per_frame.flatten(1)


def unpack(motion: Tensor | Dynamics, layout: str, config: VidTwinConfig) -> Dynamics:
    """The inverse of `pack` for a model of `config`: what `VidTwin.decode` takes as dynamics_x and dynamics_y.

    Raises:
        ValueError: as `check_layout`; or shapes that are not of this layout and config.
    """
    check_layout(layout, config)
    (d, f, w), (_, _, h) = config.dynamics_x_shape, config.dynamics_y_shape
    shape = motion_shape(layout, config)
    found = tuple(motion.shape[1:]) if isinstance(motion, Tensor) else tuple(tuple(half.shape[1:]) for half in motion)
    if found != shape:
        raise ValueError(
            f"motion of shape {found} after the batch axis: layout={layout!r} of this model is {shape}; name its layout"
        )
    if not isinstance(motion, Tensor):
        return Dynamics(*motion)
    if layout == "xy":
        x, y = motion.split([d * f * w, d * f * h], dim=1)
        return Dynamics(x.unflatten(1, (d, f, w)), y.unflatten(1, (d, f, h)))
    both = rearrange(motion.flatten(1), "b (f n d) -> b d f n", f=f, d=2 * d)
    return Dynamics(both[:, :d], both[:, d:])
