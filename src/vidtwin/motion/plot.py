"""Motion latents of an episode as a figure, under frames of its video."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vidtwin.motion.frames import Windows
from vidtwin.motion.inputs import as_episode, to_unit

try:
    from matplotlib.figure import Figure
except ImportError:
    raise ValueError("plots need the package matplotlib: pip install 'vidtwin[eval]'") from None

COLOURS = ("#0072B2", "#D55E00", "#009E73")  # told apart by all kinds of colour vision


class MotionPlot(Figure):
    """A figure that a notebook shows; `savefig` writes it."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png")
        return out.getvalue()


def components(motion: Tensor, count: int = 3) -> tuple[Tensor, Tensor]:
    """The first principal components of latents (N, ...) over their N steps, (N, count), and their shares of the variance."""
    centred = (motion.flatten(1) - motion.flatten(1).mean(0)).double()
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    power = s.square() / s.square().sum().clamp(min=1e-30)
    return (u * s)[:, :count], power[:count]


def plot_episode(
    extractor: Any,
    video: Any,
    motion: Any = None,
    frames: int = 8,
    order: str | None = None,
    value_range: str | None = None,
    **windows: Any,
) -> MotionPlot:
    """`MotionExtractor.plot`."""
    shown = as_episode(video, 1, order, value_range)
    steps = Windows(**{"window": extractor.config.frames} | windows).over(len(shown))
    if motion is None:
        motion = extractor.episode(video, order=order, value_range=value_range, **windows)
    flat = motion if isinstance(motion, Tensor) else torch.cat([half.flatten(1) for half in motion], dim=1)
    places = torch.linspace(0, len(shown) - 1, min(frames, len(shown))).round().long().tolist()
    return plot_motion(flat, list(steps), {place: to_unit(shown[place], value_range) for place in places})


def plot_motion(motion: Tensor, steps: Sequence[int], frames: Mapping[int, Tensor]) -> MotionPlot:
    """Latents (N, ...) of N steps, given by their frame numbers, under frames (3, H, W) in [0, 1] by theirs.

    Raises:
        ValueError: as many latents as steps are needed.
    """
    if len(motion) != len(steps):
        raise ValueError(f"motion of {len(motion)} steps: the episode has {len(steps)}; give the options that it was made with")
    motion = motion.detach().float().cpu()
    figure = MotionPlot(figsize=(10, 5), layout="constrained")
    rows = figure.add_gridspec(3, len(frames), height_ratios=(2, 2, 3))
    for column, (number, frame) in enumerate(frames.items()):
        axes = figure.add_subplot(rows[0, column])
        axes.imshow(frame.permute(1, 2, 0).cpu().clamp(0, 1).numpy())
        axes.set_title(f"{number}", fontsize=8)
        axes.set_axis_off()
    norms = figure.add_subplot(rows[1, :])
    norms.plot(steps, motion.flatten(1).norm(dim=1).numpy(), color="0.2")
    norms.set_ylabel("norm")
    below = figure.add_subplot(rows[2, :], sharex=norms)
    values, shares = components(motion)
    for number, (colour, share) in enumerate(zip(COLOURS, shares.tolist(), strict=False)):
        below.plot(steps, values[:, number].numpy(), color=colour, label=f"component {number + 1}: {share:.0%} of the variance")
    below.set(xlabel="frame", ylabel="principal components")
    below.legend(fontsize=8)
    return figure
