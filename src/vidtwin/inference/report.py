"""How good a reconstruction is: PSNR and SSIM of its frames, and the report."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidtwin.files import html_table, plural
from vidtwin.frames.clips import Geometry, content
from vidtwin.frames.tiles import Fit
from vidtwin.inference.decode import Decoded
from vidtwin.inference.shown import file_preview, html_notes
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
    are of the whole video, overlapping tiles and padding of the last window included, and `rate` is their share of the pixel values
    of the output; `compression_rate` is the model's (values per clip / 3 F H W). `source_bytes` and `written_bytes` are of the two
    files, 0 for what is none; a notebook plays the one that was written, `out`. `cuts` are shot cuts. `plan` says how
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
    weights: str
    source_bytes: int
    out: Path
    plan: str
    psnr: float | None
    ssim: float | None
    ssim_every: int | None
    seconds: float
    frames_done: int
    notes: tuple[str, ...]

    @property
    def rate(self) -> float:
        """Latent values over the pixel values of the output: 0.02 is 2 %."""
        return self.latent_values / (3 * self.frames * prod(self.output_size))

    @property
    def written_bytes(self) -> int:
        return self.out.stat().st_size if self.out.is_file() else 0

    def facts(self) -> dict[str, str]:
        """What the report says, by name, but for the notes."""
        (H, W), (h, w) = self.source_size, self.output_size
        sizes = [f"{size:,} {what}" for what, size in (("in", self.source_bytes), ("out", self.written_bytes)) if size]
        return {
            "weights": self.weights,
            "frames": f"{self.frames} at {float(self.fps):g} per second, {plural(self.cuts, 'shot cut')}",
            "size": f"{W}x{H} in, {w}x{h} out",
            "geometry": self.geometry,
            "clips": self.plan,
            "latents": f"{self.latent_values:,} values, {self.rate:.2%} of the pixel values out; "
            f"{2 * self.latent_values:,} bytes (float16)",
            **({"bytes": ", ".join(sizes)} if sizes else {}),
            "PSNR": "not measured, as asked" if self.psnr is None else f"{self.psnr:.2f} dB",
            "SSIM": self._ssim(),
            "seconds": f"{self.seconds:.1f} ({self.frames_done / self.seconds:.1f} frames per second)",
        }

    def table(self) -> str:
        """The report as aligned lines for people."""
        rows = [*self.facts().items(), *(("note", note) for note in self.notes)]
        return "\n".join(f"{name:14}{value}" for name, value in rows)

    def _repr_html_(self) -> str:
        return f"{file_preview(self.out)}{html_table(self.facts())}{html_notes(self.notes)}"

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
