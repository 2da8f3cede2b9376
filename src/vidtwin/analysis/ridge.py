"""Ridge regression with more values than clips: through the products of clips with each other alone, cross-validated.

With K = X X^T of N inputs (rows) and centred training rows, the prediction of a new row is a weighted mean of training targets,
y = mean(Y) + k (K + a I)^-1 (Y - mean(Y)) (Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, 2nd ed., Eq.
12.49-50). So N x N matrices are all that is needed of inputs and, for errors, of targets: L = Y Y^T.
"""

from dataclasses import dataclass

import numpy as np

PENALTIES = np.logspace(-4, 4, 17)  # times the mean eigenvalue of the centred K
FOLDS = 5  # outside, for the score, and inside, to choose the penalty


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Predictions from other folds: of targets Y (N, q) they are `weights` @ Y.

    Attributes:
        weights: (N, N); rows sum to 1.
        means: (N, N); the same for the mean of the other folds' targets, which is what knowing nothing predicts.
    """

    weights: np.ndarray
    means: np.ndarray

    def r2(self, L: np.ndarray) -> float | None:
        """1 - squared error / squared error of the mean, over clips and values, from L = Y Y^T; None if Y does not vary."""
        nothing = _error(self.means, L)
        return 1 - _error(self.weights, L) / nothing if nothing > 1e-12 * max(np.trace(L), 1e-300) else None


def _error(weights: np.ndarray, L: np.ndarray) -> float:
    """sum |Y - weights Y|^2."""
    residual = np.eye(len(L)) - weights
    return float(((residual @ L) * residual).sum())


class Ridge:
    """Ridge regression from inputs with products `K`, to be asked for any number of targets.

    Args:
        K: products of inputs, float64 (N, N).
        groups: (N,); what is of one group stays in one fold, outside and inside.
        seed: of the folds.
    """

    def __init__(self, K: np.ndarray, groups: np.ndarray, seed: int = 0):
        K = _centred(K)  # what is left of the origin costs digits
        folds = make_folds(groups, FOLDS, seed)
        self.outer: list[_Split] = []
        self.inner: list[list[_Split]] = []
        for fold in range(FOLDS):
            train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            parts = make_folds(groups[train], FOLDS, seed + 1)
            self.outer.append(_Split(K, train, test))
            self.inner.append([_Split(K, train[parts != part], train[parts == part]) for part in range(FOLDS)])

    def predict(self, L: np.ndarray) -> OutOfFold:
        """Each clip's targets from the other folds, with the penalty that is best among those; from L = Y Y^T, float64 (N, N)."""
        L = _centred(L)
        weights, means = np.zeros_like(L), np.zeros_like(L)
        for split, parts in zip(self.outer, self.inner, strict=True):
            errors = np.sum([part.errors(L) for part in parts], axis=0)
            block = np.ix_(split.new, split.fit)
            weights[block] = split.weights(PENALTIES[errors.argmin()])
            means[block] = 1 / len(split.fit)
        return OutOfFold(weights, means)


class _Split:
    """Clips to fit on and new ones to predict, in the eigenvectors V of the centred products of the first."""

    def __init__(self, K: np.ndarray, fit: np.ndarray, new: np.ndarray):
        self.fit, self.new = fit, new
        values, self.vectors = np.linalg.eigh(_centred(K[np.ix_(fit, fit)]))
        self.values = values.clip(0)
        self.across = _centred_across(K, fit, new) @ self.vectors  # k V, (new, fit)

    def errors(self, L: np.ndarray) -> np.ndarray:
        """sum over the new of |y - prediction|^2 for each of PENALTIES.

        With y and the fitted targets Y less these' mean, and s = 1 / (values + a), it is |y - (k V) s V^T Y|^2.
        """
        inside = self.vectors.T @ _centred(L[np.ix_(self.fit, self.fit)]) @ self.vectors
        across = _centred_across(L, self.fit, self.new)
        mean = L[np.ix_(self.fit, self.fit)].mean()
        own = np.diag(L)[self.new].sum() - 2 * L[np.ix_(self.new, self.fit)].mean(1).sum() + len(self.new) * mean
        s = np.stack([self._shrink(penalty) for penalty in PENALTIES])  # (penalties, fit)
        linear = s @ (self.across * (across @ self.vectors)).sum(0)
        errors: np.ndarray = own - 2 * linear + (s @ (inside * (self.across.T @ self.across)) * s).sum(1)
        return errors

    def weights(self, penalty: float) -> np.ndarray:
        """(new, fit) of fitted targets in predictions; rows sum to 1."""
        w = self.across * self._shrink(penalty) @ self.vectors.T
        weights: np.ndarray = w - w.mean(1, keepdims=True) + 1 / len(self.fit)
        return weights

    def _shrink(self, penalty: float) -> np.ndarray:
        scale = self.values.mean()
        return 1 / (self.values + penalty * scale) if scale > 1e-300 else np.zeros_like(self.values)


def _centred_across(K: np.ndarray, fit: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Products of `new` with `fit`, both less the mean of `fit`: (new, fit)."""
    across, inside = K[np.ix_(new, fit)], K[np.ix_(fit, fit)]
    centred: np.ndarray = across - across.mean(1, keepdims=True) - inside.mean(0) + inside.mean()
    return centred


def _centred(K: np.ndarray) -> np.ndarray:
    """H K H, H = I - 1 1^T / N: the products of rows less their mean."""
    centred: np.ndarray = K - K.mean(0) - K.mean(1, keepdims=True) + K.mean()
    return centred


def make_folds(groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The fold, 0..count-1, of each of (N,): groups in a seeded order, dealt out in turn. At least `count` groups."""
    present, index = np.unique(groups, return_inverse=True)
    dealt = np.empty(len(present), dtype=int)
    dealt[np.random.default_rng(seed).permutation(len(present))] = np.arange(len(present)) % count
    folds: np.ndarray = dealt[index]
    return folds
