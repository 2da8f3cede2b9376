"""What each latent holds, in five analyses, each beside an encoder that was never trained.

1 `spectra`: which temporal frequencies each branch carries; 2 `swaps`: what a swap keeps; 3 `dependence`: what the latents say of
each other, on the clips and on sprites; 4 `probes`: which known factors of sprites each tells; 5 `rates`: what each costs in bits.
"""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vidtwin.analysis.codes import BATCH, Clips, Codes, Progress, check_count, encode_clips, untrained
from vidtwin.analysis.dependence import VIDEOS_NEEDED, Dependence, dependence
from vidtwin.analysis.probes import SPRITES_NEEDED, Probes, pixel_products, probe
from vidtwin.analysis.rates import Rates, rates
from vidtwin.analysis.spectra import Spectra, branch_spectra
from vidtwin.analysis.swaps import Swaps, swap_consistency
from vidtwin.analysis.verdict import verdict
from vidtwin.data.sprites import SpriteClips, draw_factors
from vidtwin.model.checkpoint import weights_hash
from vidtwin.model.vidtwin import VidTwin
from vidtwin.version import __version__

SPRITES = 240
UNTRAINED = "untrained"


@dataclass(frozen=True)
class Findings:
    """All analyses of one model. `dependence_of_sprites` is `dependence` where nothing but the model can make it."""

    spectra: Spectra
    swaps: Swaps
    dependence: Dependence
    dependence_of_sprites: Dependence
    probes: Probes
    rates: Rates

    def to_dict(self) -> dict[str, Any]:
        """Plain values, safe for JSON."""
        return {name: getattr(self, name).to_dict() for name in _ANALYSES}

    def verdict(self) -> str:
        """Whether the two latents are apart, in plain sentences."""
        return verdict(self.spectra, self.swaps, self.dependence, self.rates)

    def sentences(self) -> dict[str, str]:
        """What each analysis found."""
        return {name: getattr(self, name).sentence() for name in _ANALYSES}


_ANALYSES = ("spectra", "swaps", "dependence", "dependence_of_sprites", "probes", "rates")


@dataclass(frozen=True)
class Figure:
    """A number that stands for an analysis, and the difference from an untrained model that counts as one.

    `words` say what it is, for people. What is below `floor` (0 where that is knowing nothing) counts as `floor` in the comparison.
    """

    analysis: str
    name: str
    margin: float
    words: str
    floor: float = 0.0
    unit: str = "%"

    def of(self, findings: Findings) -> float | None:
        """`name` is attributes, or keys, joined by dots."""
        value: Any = getattr(findings, self.analysis)
        for part in self.name.split("."):
            value = value[part] if isinstance(value, dict) else getattr(value, part)
        return None if value is None else float(value)

    def differ(self, model: float | None, control: float | None) -> bool | None:
        """Whether by more than the margin; None if one is missing."""
        if model is None or control is None:
            return None
        return abs(max(model, self.floor) - max(control, self.floor)) > self.margin


FIGURES = (
    Figure("spectra", "moving.both", 0.05, "motion reproduced"),
    Figure("spectra", "lost_without_structure", 0.5, "PSNR lost without Structure", floor=-math.inf, unit="dB"),
    Figure("spectra", "lost_without_dynamics", 0.5, "PSNR lost without Dynamics", floor=-math.inf, unit="dB"),
    Figure("swaps", "structure.own", 0.1, "R^2 of Structure after a swap", unit=""),
    Figure("swaps", "structure.retrieved", 0.1, "Structure found after a swap"),
    Figure("swaps", "dynamics.own", 0.1, "R^2 of Dynamics after a swap", unit=""),
    Figure("swaps", "dynamics.retrieved", 0.1, "Dynamics found after a swap"),
    *(
        figure
        for analysis in ("dependence", "dependence_of_sprites")
        for figure in (
            Figure(analysis, "r2_dynamics", 0.1, "Dynamics predicted from Structure"),
            Figure(analysis, "r2_structure", 0.1, "Structure predicted from Dynamics"),
            Figure(analysis, "cka", 0.1, "similarity of the two (CKA)", unit=""),
        )
    ),
    Figure("probes", "static_gap", 0.1, "lead of Structure on what stays", floor=-1, unit=""),
    Figure("probes", "dynamic_gap", 0.1, "lead of Dynamics on what changes", floor=-1, unit=""),
    Figure("probes", "both_mean", 0.1, "mean score of both latents", unit=""),
    Figure("probes", "sampled_mean", 0.1, "mean score of samples of both", unit=""),
    Figure("rates", "dynamics_rank", 0.2, "rank correlation of Dynamics' bits with motion", floor=-1, unit=""),
    Figure("rates", "saved", 0.1, "Dynamics' bits saved by freezing"),
    Figure("rates", "structure_per_value", 0.1, "bits per value of Structure", unit=""),
    Figure("rates", "dynamics_per_value", 0.1, "bits per value of Dynamics", unit=""),
)


@dataclass(frozen=True)
class Analysis:
    """What was found of a model ("model"), of an untrained one ("untrained") and of others that were given.

    Attributes:
        protocol: what the figures were taken on, and of which weights.
        findings: by the models' names.
    """

    protocol: dict[str, Any]
    findings: dict[str, Findings]

    def table(self) -> list[dict[str, Any]]:
        """A row per figure: analysis, figure, in words, unit, value of each model, margin, and whether it differs from untrained.

        `apart` is None where the figure was not to be had of both.
        """
        rows = []
        for figure in FIGURES:
            values = {name: figure.of(findings) for name, findings in self.findings.items()}
            apart = figure.differ(values["model"], values[UNTRAINED])
            named = {"analysis": figure.analysis, "figure": figure.name, "words": figure.words, "unit": figure.unit}
            rows.append(named | values | {"margin": figure.margin, "apart": apart})
        return rows

    def verdict(self) -> str:
        """Whether the two latents of the model are apart."""
        return self.findings["model"].verdict()

    def sentences(self) -> dict[str, str]:
        """Of each analysis, what it found of the model, and in which figures an untrained one differs."""
        rows, found = self.table(), self.findings["model"].sentences()
        return {name: f"{text} {_beside([row for row in rows if row['analysis'] == name])}" for name, text in found.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, safe for JSON."""
        return {
            "protocol": self.protocol,
            "verdict": self.verdict(),
            "sentences": self.sentences(),
            "table": self.table(),
            "findings": {name: findings.to_dict() for name, findings in self.findings.items()},
        }


def _beside(rows: list[dict[str, Any]]) -> str:
    """A sentence on the untrained model, of an analysis' rows of the table."""

    def list_of(apart: bool) -> str:
        chosen = (row for row in rows if row["apart"] is apart)
        return ", ".join(f"{row['words']}: {quantity(row, 'model')} (untrained: {quantity(row, UNTRAINED)})" for row in chosen)

    if not list_of(True):
        alike = list_of(False) or "nothing to compare"
        return f"An untrained model is within the margins ({alike}): this says nothing of training."
    also = f"; not in {list_of(False)}" if list_of(False) else ""
    return f"It differs from an untrained model in {list_of(True)}{also}."


def quantity(row: dict[str, Any], name: str) -> str:
    """A model's value of a row of `Analysis.table`, with its unit: "18 %", "6.32 dB", "0.81"; a dash where there is none."""
    if row[name] is None:
        return "-"
    return f"{100 * row[name]:.0f} %" if row["unit"] == "%" else f"{row[name]:.2f} {row['unit']}".rstrip()


def analyze(
    model: VidTwin,
    clips: Clips,
    names: Sequence[str] | None = None,
    *,
    seed: int = 0,
    sprites: int = SPRITES,
    others: Mapping[str, VidTwin] | None = None,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> Analysis:
    """All five analyses of a model, of the same model untrained, and of `others`.

    Args:
        model: left in evaluation mode or not, as it was, on its device.
        clips: (3, F, H, W) in [-1, 1], of the config's size, from at least 10 videos. They are read several times.
        names: the video that each clip is of; None takes each for a video of its own.
        seed: of the untrained weights, the sprites, the folds, the permutations and the choice of pairs.
        sprites: how many, at least 40.
        others: further controls by name, of clips of the same size (a single latent of the same rate, `model.ablations`).
        batch: clips at a time.
        progress: called with what is done, how much of it, and of how much.

    Raises:
        ValueError: too few videos or sprites, names that do not fit, clips that the model refuses, or another model's name or
            clip size that does not fit.
    """
    names = tuple(names) if names is not None else tuple(map(str, range(len(clips))))
    check_count("analyze", names, VIDEOS_NEEDED)
    if sprites < SPRITES_NEEDED:
        raise ValueError(f"analyze needs at least {SPRITES_NEEDED} sprites, got {sprites}; draw more")
    models = {"model": model, UNTRAINED: untrained(model.config, seed).to(model.device)}
    for name, other in (others or {}).items():
        if name in models or other.config.clip_shape != model.config.clip_shape:
            raise ValueError(
                f"other model {name!r}: give it another name than {list(models)}, and clips of {model.config.clip_shape}"
            )
        models[name] = other
    size = model.config.clip_shape[1:]
    drawn = SpriteClips(draw_factors(sprites, seed), *size)
    pixels = pixel_products(drawn, batch)
    findings = {}
    for name, one in models.items():
        said = _said(progress, name)
        codes, of_sprites = encode_clips(one, clips, names, batch, said), encode_clips(one, drawn, None, batch, said)
        findings[name] = _findings(one, clips, codes, of_sprites, drawn, pixels, seed, batch, said)
    protocol = {
        "clips": len(clips),
        "videos": len(set(names)),
        "size": list(size),
        "sprites": sprites,
        "seed": seed,
        "latents": "mean",
        "weights_hash": {name: weights_hash(one) for name, one in models.items()},
        "model": {name: one.config.to_dict() for name, one in models.items()},
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "vidtwin": __version__},
    }
    return Analysis(protocol, findings)


def _findings(
    model: VidTwin,
    clips: Clips,
    codes: Codes,
    of_sprites: Codes,
    drawn: SpriteClips,
    pixels: np.ndarray,
    seed: int,
    batch: int,
    progress: Progress | None,
) -> Findings:
    return Findings(
        spectra=branch_spectra(model, clips, codes, batch, progress),
        swaps=swap_consistency(model, codes, seed, batch=batch, progress=progress),
        dependence=dependence(codes, seed),
        dependence_of_sprites=dependence(of_sprites, seed),
        probes=probe(of_sprites, drawn.factors, pixels, seed),
        rates=rates(model, clips, codes, batch, progress),
    )


def _said(progress: Progress | None, name: str) -> Progress | None:
    """Progress that says of which model."""
    return None if progress is None else lambda what, done, total: progress(f"{name}: {what}", done, total)
