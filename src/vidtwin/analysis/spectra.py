"""Which temporal frequencies each branch carries: clips decoded from one latent, the other held at its mean over all clips.

With X_k, Y_k the temporal DFT of each pixel of a clip and of its decoding, k = 0..F/2 (k / F cycles per frame), the share of the
input's power at k that Y reproduces is 1 - sum |X_k - Y_k|^2 / sum |X_k|^2, over pixels, colours and clips: 1 is all of it, 0 is
what silence would give, and less is wrong movement. For k = 0 the power is that around the mean colour of all clips.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidtwin.analysis.codes import BATCH, Clips, Codes, Progress, check_count, decode, stack, working
from vidtwin.metrics import clip_psnr
from vidtwin.model.latents import Latents
from vidtwin.model.vidtwin import VidTwin

DECODINGS = ("both", "structure", "dynamics")
CLIPS_NEEDED = 2


@dataclass(frozen=True)
class Spectra:
    """Shares of power per temporal frequency, and PSNR, of three decodings: "both", "structure" and "dynamics" (alone).

    Attributes:
        clips: how many.
        frequencies: in cycles per frame, 0 to 0.5.
        power: the input's share of its power at each frequency; sums to 1.
        shares: of each decoding, by frequency; None where the input has no power.
        moving: of each decoding, over all frequencies above 0 together.
        crossover: the lowest frequency, in cycles per frame, from which Dynamics alone reproduces more than Structure alone, and
            more than nothing, interpolated; 0 if at all, None if nowhere.
        psnr: in dB, mean over frames, then clips.
        lost_without_structure, lost_without_dynamics: PSNR in dB, of "both" less that of the other one alone.
    """

    clips: int
    frequencies: list[float]
    power: list[float]
    shares: dict[str, list[float | None]]
    moving: dict[str, float | None]
    crossover: float | None
    psnr: dict[str, float]
    lost_without_structure: float
    lost_without_dynamics: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, safe for JSON."""
        return dict(vars(self))

    def sentence(self) -> str:
        """What was found."""
        still, moving = {name: shares[0] for name, shares in self.shares.items()}, self.moving
        where = (
            "Dynamics alone overtakes Structure alone at no frequency"
            if self.crossover is None
            else f"Dynamics alone overtakes Structure alone at {self.crossover:.3f} cycles per frame, where it reproduces "
            f"{_percent(self.shares['dynamics'][np.searchsorted(self.frequencies, self.crossover)])}"
        )
        lost = self.lost_without_structure, self.lost_without_dynamics
        return (
            f"Structure alone reproduces {_percent(still['structure'])} of the power of the mean picture and "
            f"{_percent(moving['structure'])} of what changes, Dynamics alone {_percent(still['dynamics'])} and "
            f"{_percent(moving['dynamics'])}, both {_percent(still['both'])} and {_percent(moving['both'])}; {where}; "
            f"without Structure {lost[0]:.2f} dB are lost, without Dynamics {lost[1]:.2f} dB."
        )


def _percent(share: float | None) -> str:
    return "nothing measurable" if share is None else f"{100 * share:.1f} %"


def branch_spectra(model: VidTwin, clips: Clips, codes: Codes, batch: int = BATCH, progress: Progress | None = None) -> Spectra:
    """Decode every clip from both latents and from each alone, and compare with the clip, frequency by frequency.

    Args:
        model, clips, codes: the clips that `codes` are of, and the model that made them.

    Raises:
        ValueError: clips of fewer than 2 videos: the mean latent would be the clip's own.
    """
    check_count("the spectrum of each branch", codes.names, CLIPS_NEEDED)
    colour = torch.stack([clips[i].double().mean(dim=(1, 2, 3)) for i in range(len(clips))]).mean(0)
    power = np.zeros(clips[0].shape[1] // 2 + 1)
    errors = {name: np.zeros_like(power) for name in DECODINGS}
    psnrs: dict[str, list[float]] = {name: [] for name in DECODINGS}
    latents, mean = codes.latents, codes.mean
    with working(model):
        for start in range(0, len(clips), batch):
            x = stack(clips, start, start + batch)
            power += temporal_power(x - colour.float()[:, None, None, None])
            for name in DECODINGS:
                y = decode(model, alone(latents[start : start + batch], mean, name))
                errors[name] += temporal_power(x - y)
                psnrs[name] += [clip_psnr(a, b) for a, b in zip(y, x, strict=True)]
            if progress is not None:
                progress("spectra", min(start + batch, len(clips)), len(clips))
    psnr = {name: float(np.mean(values)) for name, values in psnrs.items()}
    shares = {name: [_share(e, p) for e, p in zip(error, power, strict=True)] for name, error in errors.items()}
    frequencies = [k / clips[0].shape[1] for k in range(len(power))]
    return Spectra(
        clips=len(clips),
        frequencies=frequencies,
        power=(power / max(power.sum(), 1e-300)).tolist(),
        shares=shares,
        moving={name: _share(error[1:].sum(), power[1:].sum()) for name, error in errors.items()},
        crossover=crossover(frequencies, shares["structure"], shares["dynamics"]),
        psnr=psnr,
        lost_without_structure=psnr["both"] - psnr["dynamics"],
        lost_without_dynamics=psnr["both"] - psnr["structure"],
    )


def alone(latents: Latents, mean: Latents, name: str) -> Latents:
    """The latents of a batch with those of the other branch at their mean (1, ...); "both" as they are."""
    if name == "both":
        return latents
    means = mean.map(lambda tensor: tensor.expand(len(latents), *tensor.shape[1:]))
    return replace(means, structure=latents.structure) if name == "structure" else replace(latents, structure=means.structure)


def temporal_power(x: Tensor) -> np.ndarray:
    """Clips (B, 3, F, H, W) -> their power at k = 0..F/2: sum |DFT over F|^2 of pixels and colours, k and F - k together.

    By Parseval it sums to F times the sum of squares.
    """
    transformed = torch.view_as_real(torch.fft.rfft(x, dim=2))  # (B, 3, K, H, W, 2)
    power: np.ndarray = transformed.square().sum(dim=(3, 4, 5)).double().sum(dim=(0, 1)).numpy()
    power[1 : (x.shape[2] + 1) // 2] *= 2
    return power


def _share(error: float, power: float) -> float | None:
    return float(1 - error / power) if power > 0 else None


def crossover(frequencies: list[float], structure: list[float | None], dynamics: list[float | None]) -> float | None:
    """Where Dynamics' share first rises above Structure's and above 0; linear between two frequencies.

    Example: frequencies 0, .25, .5; S .9, .4, 0; D .1, .2, .2 -> the difference S - D is .8, .2, -.2 -> .375.
    """
    before: tuple[float, float] | None = None
    for frequency, s, d in zip(frequencies, structure, dynamics, strict=True):
        if s is None or d is None:
            continue
        gap = s - d
        if gap < 0 and d > 0:
            if before is None or before[1] <= 0:
                return frequency
            return before[0] + (frequency - before[0]) * before[1] / (before[1] - gap)
        before = frequency, gap
    return None
