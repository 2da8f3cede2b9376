"""How good a reconstruction is: PSNR and SSIM of its frames, and the report."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import prod

import numpy as np
import torch
from torch import Tensor

from vidtwin.frames.clips import Geometry, content
from vidtwin.frames.tiles import Fit
from vidtwin.inference.decode import Decoded
from vidtwin.latents.stream import Window
from vidtwin.metrics import SSIM_WINDOW, frame_psnr, frame_ssim
from vidtwin.threads import cores, side_by_side

SSIM_EVERY, SSIM_PIXELS = 4, 500_000  # SSIM, slow for large pictures, is taken of every 4th frame of so many pixels or more


@dataclass(frozen=True)
class Report:
    """What a reconstruction was and how good it is.

    `psnr` (dB, per frame, mean; capped at 80) and `ssim` compare the model's output with its input, resized frames in [0, 1],
    without padding and before they are compressed; for tiles, whole pictures of 8 bits. `ssim` is the mean over frames 0,
    `ssim_every`, 2 `ssim_every`, ...; None for pictures under 11 pixels. Without scores, all three are None. `latent_values`
    are of the whole video; `compression_rate` is the model's (values per clip / 3 F H W). `cuts` are shot cuts. `plan` says how
    clips went through the model. `notes`: what of the source is not kept, and what was done otherwise than asked. `seconds` include
    reading and writing, of this run.
    """

    frames: int
    fps: Fraction
    source_size: tuple[int, int]
    output_size: tuple[int, int]
    geometry: str
    cuts: int
    latent_values: int
    compression_rate: float
    plan: str
    psnr: float | None
    ssim: float | None
    ssim_every: int | None
    seconds: float
    frames_done: int
    notes: tuple[str, ...]

    def table(self) -> str:
        """The report as aligned lines for people."""
        (H, W), (h, w) = self.source_size, self.output_size
        rows = {
            "frames": f"{self.frames} at {float(self.fps):g} per second, {self.cuts} shot cuts",
            "size": f"{W}x{H} in, {w}x{h} out",
            "geometry": self.geometry,
            "clips": self.plan,
            "latent values": f"{self.latent_values}",
            "rate": f"{self.compression_rate:.4%} of the model's input values",
            "PSNR": "not measured, as asked" if self.psnr is None else f"{self.psnr:.2f} dB",
            "SSIM": self._ssim(),
            "seconds": f"{self.seconds:.1f} ({self.frames_done / self.seconds:.1f} frames per second)",
        }
        lines = [f"{name:14}{value}" for name, value in rows.items()]
        return "\n".join([*lines, *(f"{'note':14}{note}" for note in self.notes)])

    def _ssim(self) -> str:
        if self.ssim_every is None:
            return "not measured, as asked"
        if self.ssim is None:
            return "not measured: the picture is smaller than 11 pixels"
        return f"{self.ssim:.4f}" + ("" if self.ssim_every == 1 else f" (every {ordinal(self.ssim_every)} frame)")


def ordinal(number: int) -> str:
    """ "2nd", "3rd", "4th", "11th"."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


@dataclass
class Tally:
    """Sums over the frames that are done; a checkpoint holds it."""

    frames: int = 0
    cuts: int = 0
    psnr: float = 0.0
    ssim: float = 0.0

    def add(self, window: Window, decoded: Decoded, geometry: Fit, ssim_every: int | None = 1) -> None:
        """Frames of a window, against the pixels that were encoded: SSIM of every so many, or, for None, no scores at all."""
        begin = window.ticks.index(decoded.ticks[0])
        end = begin + len(decoded.ticks)
        if ssim_every is not None:
            numbered = enumerate(_pairs(window, decoded, begin, end, geometry), self.frames)
            for psnr, ssim in side_by_side(partial(_scores, ssim_every), numbered, max(1, cores() // 2)):
                self.psnr += psnr
                self.ssim += ssim
        self.cuts += sum(window.cuts[begin:end])
        self.frames += end - begin


def _pairs(window: Window, decoded: Decoded, begin: int, end: int, geometry: Fit) -> Iterator[tuple[Tensor, Tensor]]:
    """Frames to compare, (3, 1, h, w) in [-1, 1], made when they are asked for: large ones take memory."""
    if isinstance(geometry, Geometry):
        assert isinstance(window.pixels, Tensor) and decoded.clip is not None
        clips = content(window.pixels[:, begin:end], geometry), content(decoded.clip, geometry)
        yield from zip(*(clip.split(1, dim=1) for clip in clips), strict=True)
        return
    assert isinstance(window.pixels, np.ndarray)
    for pair in zip(window.pixels[begin:end], decoded.frames, strict=True):
        x, y = (torch.from_numpy(frame).permute(2, 0, 1)[:, None] / 127.5 - 1 for frame in pair)
        yield x, y


def _scores(ssim_every: int, numbered: tuple[int, tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """PSNR and SSIM of a frame of this number; 0 for SSIM where it is not taken, or the picture is too small for it."""
    number, (x, y) = numbered
    taken = number % ssim_every == 0 and min(x.shape[-2:]) >= SSIM_WINDOW
    return frame_psnr(x, y).item(), frame_ssim(x, y).item() if taken else 0.0


def plan_ssim(score: bool, ssim_every: int | None, size: tuple[int, int]) -> int | None:
    """SSIM is taken of every so many frames of (height, width); None without scores. Raises ValueError for what cannot be."""
    if ssim_every is not None and not score:
        raise ValueError(f"ssim_every {ssim_every}: no scores are taken; leave it out, or give score=True")
    if ssim_every is not None and ssim_every < 1:
        raise ValueError(f"ssim_every {ssim_every}: give at least 1, which is every frame")
    return (ssim_every or (1 if prod(size) < SSIM_PIXELS else SSIM_EVERY)) if score else None


def content_size(geometry: Fit) -> tuple[int, int]:
    """(height, width) of the pixels that are compared."""
    if isinstance(geometry, Geometry):
        return geometry.resized if geometry.policy == "pad" else geometry.model
    return geometry.source
