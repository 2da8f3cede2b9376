"""How much Structure and Dynamics say about each other; "orthogonal" is a number here.

X, Y: the two latents of N clips as rows; K = X X^T, L = Y Y^T.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from vidtwin.analysis.codes import Codes, check_count
from vidtwin.analysis.ridge import FOLDS, Ridge

VIDEOS_NEEDED = 2 * FOLDS
PERMUTATIONS = 999
SMALL_P = 0.01


@dataclass(frozen=True)
class Dependence:
    """Between Structure and Dynamics. None where one of them does not vary.

    Attributes:
        clips, videos: how many. CKA and HSIC take one clip of each video, ridge all, with a video in one fold.
        r2_dynamics, r2_structure: of the one by ridge regression from the other, of clips held out; 0 is what the mean gives.
        cka: debiased linear; 0 for independent, 1 for equal up to rotation and scale.
        hsic: of RBF kernels. p: share of permutations that have as much.
    """

    clips: int
    videos: int
    r2_dynamics: float | None
    r2_structure: float | None
    cka: float | None
    hsic: float | None
    p: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, safe for JSON."""
        return dict(vars(self))

    def sentence(self) -> str:
        """What was found."""
        if self.p is None or self.cka is None or self.r2_dynamics is None or self.r2_structure is None:
            return "One of the latents is the same for all clips, so it depends on nothing."
        verdict = "not independent" if self.p < SMALL_P else "no dependence was detected, which is no proof that there is none"
        return (
            f"Over {self.clips} clips a linear map predicts {100 * self.r2_dynamics:.0f} % of Dynamics' variance from Structure, "
            f"and {100 * self.r2_structure:.0f} % of Structure's from Dynamics; over {self.videos} independent ones, CKA is "
            f"{self.cka:.2f} and HSIC has p = {self.p:.3f}: {verdict}."
        )


def dependence(codes: Codes, seed: int = 0, permutations: int = PERMUTATIONS) -> Dependence:
    """All three measures between the Structure and the Dynamics of clips.

    Raises:
        ValueError: clips of fewer than 10 videos.
    """
    check_count("dependence", codes.names, VIDEOS_NEEDED)
    groups, S, D = codes.groups, codes.structure, codes.dynamics
    S, D = S - S.mean(0), D - D.mean(0)
    first = np.unique(groups, return_index=True)[1]
    count = len(first)
    if not (np.square(S).sum() > 1e-12 and np.square(D).sum() > 1e-12):
        return Dependence(len(groups), count, None, None, None, None, None)
    K, L = S @ S.T, D @ D.T
    hsic, p = hsic_test(S[first], D[first], seed, permutations)
    return Dependence(
        clips=len(groups),
        videos=count,
        r2_dynamics=Ridge(K, groups, seed).predict(L).r2(L),
        r2_structure=Ridge(L, groups, seed).predict(K).r2(K),
        cka=debiased_cka(K[np.ix_(first, first)], L[np.ix_(first, first)]),
        hsic=hsic,
        p=p,
    )


def unbiased_hsic(K: np.ndarray, L: np.ndarray) -> float:
    """HSIC_1 (Song et al. 2012, Feature Selection via Dependence Maximization, Eq. 5), of (N, N), N at least 4.

    [tr(K' L') + 1'K'1 1'L'1 / ((N-1)(N-2)) - 2 / (N-2) 1'K'L'1] / (N (N-3)), K', L' with zero diagonals.
    """
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    n = len(K)
    trace, ends = (K * L).sum(), K.sum() * L.sum() / ((n - 1) * (n - 2))
    return float((trace + ends - 2 / (n - 2) * K.sum(0) @ L.sum(1)) / (n * (n - 3)))


def debiased_cka(K: np.ndarray, L: np.ndarray) -> float | None:
    """Linear CKA (Kornblith et al. 2019, Eq. 1) of unbiased HSICs (Nguyen et al. 2021, Eq. 3): about 0 for independent X, Y.

    Plain CKA tends to 1 with many more values than clips. None if a self-similarity is not positive.
    """
    own = unbiased_hsic(K, K), unbiased_hsic(L, L)
    return unbiased_hsic(K, L) / (own[0] * own[1]) ** 0.5 if min(own) > 0 else None


def hsic_test(X: np.ndarray, Y: np.ndarray, seed: int = 0, permutations: int = PERMUTATIONS) -> tuple[float, float]:
    """tr(K H L H) / N^2 of RBF kernels (Gretton et al. 2008, A Kernel Statistical Test of Independence, Eq. 4), and its p.

    exp(-|x - x'|^2 / (2 s^2)), s the median distance. p = (1 + permutations of Y with at least as much) / (1 + permutations).
    """
    K, L = rbf(X), rbf(Y)
    K = K - K.mean(0) - K.mean(1, keepdims=True) + K.mean()
    rng = np.random.default_rng(seed)
    orders = (rng.permutation(len(L)) for _ in range(permutations))
    found = (K * L).sum()
    as_much = sum((K * L[np.ix_(order, order)]).sum() >= found * (1 - 1e-12) for order in orders)
    return float(found / len(K) ** 2), float((1 + as_much) / (1 + permutations))


def rbf(X: np.ndarray) -> np.ndarray:
    """The kernel of `hsic_test` between rows (N, values): (N, N)."""
    X = X - X.mean(0)
    squares = np.square(X).sum(1)
    distances = (squares[:, None] + squares - 2 * X @ X.T).clip(0)
    median = np.median(distances[np.triu_indices(len(X), 1)])
    kernel: np.ndarray = np.exp(-distances / (2 * max(median, 1e-300)))
    return kernel
