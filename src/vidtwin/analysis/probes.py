"""What can be read off each latent by a linear map, on sprites whose factors are known.

Ridge regression (`analysis.ridge`), of ones and zeros for categories, of which the largest is the guess. Scores are of clips
held out: R^2, or (accuracy - chance) / (1 - chance) with chance the commonest category's share; 0 is knowing nothing, 1 all.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from vidtwin.analysis.codes import BATCH, Clips, Codes, stack
from vidtwin.analysis.ridge import FOLDS, Ridge
from vidtwin.data.sprites import CATEGORICAL, DYNAMIC, STATIC, Factors

SPRITES_NEEDED = 8 * FOLDS
PIXELS_SIDE = 64  # clips are averaged to about this many pixels a side before PCA
CLEARLY = 0.1  # difference between scores worth a word
Scores = dict[str, float]


@dataclass(frozen=True)
class Probes:
    """Scores of every factor from "structure", "dynamics", "both", "sampled" (both, drawn from the posterior) and "pixels" (their
    principal components).

    The first three are the posterior's means, which tell what random weights let through, however small; samples tell what the
    posterior's width leaves of it.

    Attributes:
        clips: how many sprites. components: of pixels; as many as the latents have values, or all that so many clips have.
        scores: source -> factor -> score.
    """

    clips: int
    components: int
    scores: dict[str, Scores]

    @property
    def static_gap(self) -> float:
        """Mean over shape, colour, size and background of the score from S less that from D."""
        return self._gap(STATIC, "structure", "dynamics")

    @property
    def dynamic_gap(self) -> float:
        """Mean over position, velocity, spin and flicker of the score from D less that from S."""
        return self._gap(DYNAMIC, "dynamics", "structure")

    @property
    def modularity_gap(self) -> float:
        """Mean of the two: 1 if each latent tells all of its own factors and none of the other's."""
        return (self.static_gap + self.dynamic_gap) / 2

    @property
    def both_mean(self) -> float:
        """The score from both latents, mean over all factors."""
        return float(np.mean(list(self.scores["both"].values())))

    @property
    def sampled_mean(self) -> float:
        """The score from samples of both latents, mean over all factors."""
        return float(np.mean(list(self.scores["sampled"].values())))

    @property
    def pixels_mean(self) -> float:
        """The score from pixels, mean over all factors."""
        return float(np.mean(list(self.scores["pixels"].values())))

    def _gap(self, factors: tuple[str, ...], one: str, other: str) -> float:
        """Scores below 0 know nothing, and count as 0."""
        return float(np.mean([max(self.scores[one][factor], 0.0) - max(self.scores[other][factor], 0.0) for factor in factors]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, safe for JSON."""
        means = ("static_gap", "dynamic_gap", "modularity_gap", "both_mean", "sampled_mean", "pixels_mean")
        return dict(vars(self)) | {name: getattr(self, name) for name in means}

    def sentence(self) -> str:
        """What was found."""
        best = {"structure": self._better("structure", "dynamics"), "dynamics": self._better("dynamics", "structure")}
        return (
            f"Of sprites' factors, Structure tells {best['structure']} clearly better than Dynamics, and Dynamics "
            f"{best['dynamics']}; modularity gap {self.modularity_gap:+.2f} (static {self.static_gap:+.2f}, dynamic "
            f"{self.dynamic_gap:+.2f}); mean score of both {self.both_mean:.2f}, of samples of them "
            f"{self.sampled_mean:.2f}, of pixels {self.pixels_mean:.2f}."
        )

    def _better(self, one: str, other: str) -> str:
        """Factors that one tells clearly better than the other, and than nothing, which scores 0; below that there is noise."""
        factors = [f for f in STATIC + DYNAMIC if self.scores[one][f] - max(self.scores[other][f], 0.0) > CLEARLY]
        return ", ".join(factors) or "nothing"


def probe(codes: Codes, factors: Factors, pixels: np.ndarray, seed: int = 0) -> Probes:
    """Read every factor of sprites off S, off D, off both (each of the same total variance), off samples of both, and off pixels.

    Args:
        codes, factors: of the same N sprites. pixels: `pixel_products` of them.

    Raises:
        ValueError: fewer than 40 sprites.
    """
    if len(codes) < SPRITES_NEEDED:
        raise ValueError(f"probes need at least {SPRITES_NEEDED} sprites, got {len(codes)}; draw more")
    products = _products(codes)
    components = min(codes.structure.shape[1] + codes.dynamics.shape[1], len(codes) - 1)
    products["sampled"] = _products(codes.sampled(seed))["both"]
    products["pixels"] = principal(pixels, components)
    return Probes(len(codes), components, {name: factor_scores(K, factors, seed) for name, K in products.items()})


def _products(codes: Codes) -> dict[str, np.ndarray]:
    """Products (N, N) of "structure", "dynamics" and "both", less their means."""
    S, D = (rows - rows.mean(0) for rows in (codes.structure, codes.dynamics))
    products = {"structure": S @ S.T, "dynamics": D @ D.T}
    products["both"] = sum((K / max(np.trace(K), 1e-300) for K in products.values()), np.zeros((len(S), len(S))))
    return products


def factor_scores(K: np.ndarray, factors: Factors, seed: int = 0) -> Scores:
    """The score of each factor from inputs with products K (N, N)."""
    scores, ridge = {}, Ridge(K, np.arange(len(K)), seed)
    for name, Y in factors.targets().items():
        found = ridge.predict(Y @ Y.T)
        if name in CATEGORICAL:
            truth, guess = Y.argmax(1), (found.weights @ Y).argmax(1)
            chance = Y.mean(0).max()
            scores[name] = float(((truth == guess).mean() - chance) / (1 - chance))
        else:
            r2 = found.r2(Y @ Y.T)
            assert r2 is not None, "factors vary"
            scores[name] = r2
    return scores


def pixel_products(clips: Clips, batch: int = BATCH) -> np.ndarray:
    """Products of clips less their mean with each other, (N, N), after averaging to at most about 64 pixels a side."""
    factor = max(1, round(min(clips[0].shape[2:]) / PIXELS_SIDE))
    parts = []
    for start in range(0, len(clips), batch):
        frames = stack(clips, start, start + batch).transpose(1, 2)  # (B, F, 3, H, W)
        parts.append(F.avg_pool2d(frames.flatten(0, 1), factor).reshape(len(frames), -1))
    rows = torch.cat(parts)
    products: np.ndarray = (rows := rows - rows.mean(0)).matmul(rows.T).double().numpy()
    return products


def principal(K: np.ndarray, components: int) -> np.ndarray:
    """The products (N, N) of the first principal components of centred inputs, from the products of the inputs."""
    values, vectors = np.linalg.eigh(K)
    kept = vectors[:, -components:] * np.sqrt(values[-components:].clip(0))
    products: np.ndarray = kept @ kept.T
    return products
