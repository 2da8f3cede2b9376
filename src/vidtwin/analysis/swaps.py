"""Whether a swapped clip keeps what it was given: y = decode(S of A, D of B), encoded again to S', D'.

S' should be S_A, and D' should be D_B. All figures pool squared distances over pairs and values, so that values weigh by their
variance: R^2 of S' against targets T is 1 - sum |S' - T|^2 / sum |T - mean|^2, the mean over all clips.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vidtwin.analysis.codes import BATCH, Codes, Progress, check_count, decode, posterior, working
from vidtwin.model.latents import Latents
from vidtwin.model.vidtwin import VidTwin

VIDEOS_NEEDED = 3  # a third for the floor
MOST_PAIRS = 600


@dataclass(frozen=True)
class Kept:
    """What one latent keeps through a swap; None for a latent that does not vary.

    Attributes:
        own: R^2 against the latent that was given. ceiling: the same where A = B.
        other: R^2 against the other video's. floor: against all third videos'. No leakage is other = floor (near -1 where
            own is near 1, as two unrelated latents are twice their variance apart).
        leak: the weight a of the least squares fit S' = S_A + a (S_B - S_A); 0 nothing, 1 everything from the other video.
        retrieved: share of swaps whose latent is nearest, by correlation, to one of the right video, among all clips.
        retrieved_ceiling: the same where A = B. chance: of a guess.
    """

    own: float | None
    ceiling: float | None
    other: float | None
    floor: float | None
    leak: float | None
    retrieved: float | None
    retrieved_ceiling: float | None
    chance: float


@dataclass(frozen=True)
class Swaps:
    """What both latents keep: `structure` of S' and S_A, `dynamics` of D' and D_B; over `pairs` of `clips`."""

    clips: int
    pairs: int
    structure: Kept
    dynamics: Kept

    def to_dict(self) -> dict[str, Any]:
        """Plain values, safe for JSON."""
        return dict(vars(self)) | {"structure": dict(vars(self.structure)), "dynamics": dict(vars(self.dynamics))}

    def sentence(self) -> str:
        """What was found."""
        parts = [_kept(name, kept) for name, kept in (("Structure", self.structure), ("Dynamics", self.dynamics))]
        return f"After a swap, {parts[0]}; {parts[1]}."


def _kept(name: str, kept: Kept) -> str:
    if kept.own is None or kept.retrieved is None or kept.ceiling is None or kept.leak is None:
        return f"{name} is the same for all clips, so there is nothing to keep"
    return (
        f"{name} comes back with R^2 {kept.own:.2f} ({kept.ceiling:.2f} without a swap), {100 * kept.leak:.0f} % of the way to the "
        f"other video's, and is found among the clips {100 * kept.retrieved:.0f} % of the time (chance {100 * kept.chance:.0f} %)"
    )


def swap_consistency(
    model: VidTwin,
    codes: Codes,
    seed: int = 0,
    most_pairs: int = MOST_PAIRS,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> Swaps:
    """Swap, encode again and compare, for all ordered pairs of clips of different videos, or a seeded sample of `most_pairs`.

    Raises:
        ValueError: clips of fewer than 3 videos.
    """
    check_count("swap consistency", codes.names, VIDEOS_NEEDED)
    pairs = choose_pairs(codes.groups, most_pairs, seed)
    count = len(codes)
    both = np.concatenate([pairs, np.repeat(np.arange(count)[:, None], 2, axis=1)])  # then A = B
    centred = {name: _centred(rows) for name, rows in (("structure", codes.structure), ("dynamics", codes.dynamics))}
    products: dict[str, list[np.ndarray]] = {name: [] for name in centred}
    squares: dict[str, list[np.ndarray]] = {name: [] for name in centred}
    with working(model):
        for start in range(0, len(both), batch):
            a, b = both[start : start + batch].T
            z = replace(_take(codes.latents, b), structure=codes.latents.structure[a])
            again = Codes(posterior(model, decode(model, z)), ("",) * len(a))
            for name, rows in (("structure", again.structure), ("dynamics", again.dynamics)):
                mean, known = centred[name]
                products[name].append((rows - mean) @ known.T)
                squares[name].append(np.square(rows - mean).sum(1))
            if progress is not None:
                progress("swaps", min(start + batch, len(both)), len(both))
    kept = {
        name: _figures(np.concatenate(products[name]), np.concatenate(squares[name]), known @ known.T, own, codes.groups)
        for (name, (_, known)), own in zip(centred.items(), (both, both[:, ::-1]), strict=True)
    }
    return Swaps(count, len(pairs), kept["structure"], kept["dynamics"])


def choose_pairs(groups: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Ordered pairs (A, B) of clips of different groups: all, or `most` of them drawn with the seed. int (P, 2)."""
    pairs = np.argwhere(groups[:, None] != groups[None])
    if len(pairs) > most:
        pairs = pairs[np.sort(np.random.default_rng(seed).choice(len(pairs), most, replace=False))]
    return pairs


def _centred(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = rows.mean(0)
    return mean, rows - mean


def _take(latents: Latents, index: np.ndarray) -> Latents:
    return latents.map(lambda tensor: tensor[index])


def _figures(products: np.ndarray, squares: np.ndarray, gram: np.ndarray, pairs: np.ndarray, groups: np.ndarray) -> Kept:
    """Of one latent, from products with the N known ones, all centred.

    Args:
        products: (P + N, N) of each latent after the swap with each known one. squares: (P + N,) of it with itself.
        gram: (N, N) of the known ones.
        pairs: (P + N, 2) of what it should be and of the other clip; the last N have both the same.
        groups: (N,).
    """
    count, norms = len(gram), np.diag(gram)
    chance = float(np.mean([(groups == group).mean() for group in groups]))
    if not norms.sum() > 1e-12:
        return Kept(None, None, None, None, None, None, None, chance)
    distances = squares[:, None] - 2 * products + norms
    index, (own, other) = np.arange(len(pairs)), pairs.T
    nearest = np.where(norms > 0, products / np.sqrt(np.maximum(norms, 1e-300)), -np.inf).argmax(1)
    right = groups[nearest] == groups[own]

    swapped = slice(0, len(pairs) - count)
    same = slice(len(pairs) - count, None)
    third = (groups != groups[own][swapped, None]) & (groups != groups[other][swapped, None])  # (P, N)
    a, b = own[swapped], other[swapped]
    towards = products[swapped][index[swapped], b] - products[swapped][index[swapped], a] - gram[a, b] + norms[a]
    apart = norms[a] + norms[b] - 2 * gram[a, b]

    def r2(mask: slice, target: np.ndarray) -> float:
        return float(1 - distances[index[mask], target[mask]].sum() / norms[target[mask]].sum())

    return Kept(
        own=r2(swapped, own),
        ceiling=r2(same, own),
        other=r2(swapped, other),
        floor=float(1 - (distances[swapped] * third).sum() / (norms * third).sum()),
        leak=float(towards.sum() / apart.sum()),
        retrieved=float(right[swapped].mean()),
        retrieved_ceiling=float(right[same].mean()),
        chance=chance,
    )
