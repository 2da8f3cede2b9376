"""Ridge, CKA and HSIC, against direct formulas and data whose dependence is known."""

import itertools
import json

import numpy as np
import pytest
import scipy.spatial.distance

from tests.analysis.twins import codes_rows
from vidtwin.analysis.codes import Codes
from vidtwin.analysis.dependence import debiased_cka, dependence, hsic_test, unbiased_hsic
from vidtwin.analysis.ridge import PENALTIES, Ridge, _Split, make_folds

N = 60


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def _codes(S: np.ndarray, D: np.ndarray) -> Codes:
    return Codes(codes_rows(S, D), tuple(map(str, range(len(S)))))


@pytest.mark.parametrize("values", [5, 100])
def test_dual_ridge_is_primal_ridge(values):
    X, Y = _normal(20, values) + 3, _normal(20, 2, seed=1) - 5
    fit, new = np.arange(14), np.arange(14, 20)
    K, L = X @ X.T, Y @ Y.T
    split = _Split(K, fit, new)
    x, y = X[fit] - X[fit].mean(0), Y[fit] - Y[fit].mean(0)
    scale = np.linalg.eigvalsh(x @ x.T).mean()
    for penalty, error in zip(PENALTIES, split.errors(L), strict=True):
        beta = np.linalg.solve(x.T @ x + penalty * scale * np.eye(values), x.T @ y)
        expected = Y[fit].mean(0) + (X[new] - X[fit].mean(0)) @ beta
        np.testing.assert_allclose(split.weights(penalty) @ Y[fit], expected, atol=1e-8)
        assert error == pytest.approx(np.square(Y[new] - expected).sum(), rel=1e-6)


def test_out_of_fold_r2_is_that_of_the_predictions():
    X = _normal(N, 8)
    Y = X @ _normal(8, 3, seed=1) + _normal(N, 3, seed=2)
    found = Ridge(X @ X.T, np.arange(N)).predict(Y @ Y.T)
    np.testing.assert_allclose(found.weights.sum(1), 1)
    folds = make_folds(np.arange(N), 5, 0)
    assert not found.weights[folds[:, None] == folds].any()  # none of its own fold
    means = np.stack([Y[folds != fold].mean(0) for fold in folds])
    expected = 1 - np.square(Y - found.weights @ Y).sum() / np.square(Y - means).sum()
    assert found.r2(Y @ Y.T) == pytest.approx(expected) and 0.6 < expected < 0.95


def test_folds_keep_groups_together():
    groups = np.repeat(np.arange(13), 3)
    folds = make_folds(groups, 5, 0)
    assert all(len(set(folds[groups == group])) == 1 for group in range(13))
    assert sorted(np.bincount(folds)) == [6, 6, 9, 9, 9]
    assert folds.tolist() == make_folds(groups, 5, 0).tolist() != make_folds(groups, 5, 1).tolist()


def test_inputs_that_do_not_vary_predict_the_mean():
    Y = _normal(N, 3)
    found = Ridge(np.ones((N, N)), np.arange(N)).predict(Y @ Y.T)
    assert found.r2(Y @ Y.T) == pytest.approx(0)
    assert Ridge(Y @ Y.T, np.arange(N)).predict(np.ones((N, N))).r2(np.ones((N, N))) is None


def test_unbiased_hsic_is_the_mean_over_quadruples():
    X, Y = _normal(7, 3), _normal(7, 2, seed=1)
    K, L = X @ X.T, Y @ Y.T
    terms = [K[i, j] * L[i, j] + K[i, j] * L[q, r] - 2 * K[i, j] * L[i, q] for i, j, q, r in itertools.permutations(range(7), 4)]
    assert unbiased_hsic(K, L) == pytest.approx(np.mean(terms))


def test_cka_is_one_for_equal_up_to_rotation_and_near_zero_for_independent():
    X, Y = _normal(30, 600), _normal(30, 1000, seed=1)
    rotation = np.linalg.qr(_normal(600, 600, seed=2))[0]
    K, L = X @ X.T, Y @ Y.T
    assert debiased_cka(K, 9 * (X @ rotation) @ (X @ rotation).T) == pytest.approx(1)
    H = np.eye(30) - 1 / 30
    plain = np.trace(K @ H @ L @ H) / np.sqrt(np.trace(K @ H @ K @ H) * np.trace(L @ H @ L @ H))
    assert plain > 0.9  # why it is debiased
    X, Y = _normal(200, 30), _normal(200, 10, seed=1)
    assert abs(debiased_cka(X @ X.T, Y @ Y.T)) < 0.1


def test_hsic_is_the_trace_and_sees_what_correlation_does_not():
    X = _normal(80, 1)
    Y = np.square(X) + 0.1 * _normal(80, 1, seed=1)
    kernels = []
    for Z in (X, Y):
        distances = scipy.spatial.distance.pdist(Z)
        full = scipy.spatial.distance.squareform(distances)
        kernels.append(np.exp(-np.square(full) / (2 * np.median(distances) ** 2)))
    H = np.eye(80) - 1 / 80
    found, p = hsic_test(X, Y, permutations=199)
    assert found == pytest.approx(np.trace(kernels[0] @ H @ kernels[1] @ H) / 80**2)
    assert p == 1 / 200


def test_p_is_about_uniform_for_independent_latents():
    ps = [hsic_test(_normal(20, 5, seed=i), _normal(20, 5, seed=1000 + i), permutations=99)[1] for i in range(60)]
    assert 0.35 < np.mean(ps) < 0.65 and np.mean(np.array(ps) <= 0.05) <= 0.15


def test_independent_linear_and_equal_latents_are_told_apart():
    X = _normal(N, 12)
    noise = dependence(_codes(X, _normal(N, 9, seed=1)), permutations=199)
    linear = dependence(_codes(X, X @ _normal(12, 200, seed=2)), permutations=199)
    equal = dependence(_codes(X, X), permutations=199)
    assert -0.2 < noise.r2_dynamics < 0.1 and -0.2 < noise.r2_structure < 0.1 and abs(noise.cka) < 0.2 and noise.p > 0.01
    assert linear.r2_dynamics > 0.99 and linear.r2_structure > 0.99 and 0.5 < linear.cka < 1 and linear.p == 1 / 200
    assert equal.r2_dynamics > 0.99 and equal.cka == pytest.approx(1) and equal.p == 1 / 200
    assert "not independent" in equal.sentence() and "no proof" in noise.sentence()
    json.dumps(equal.to_dict(), allow_nan=False)
    assert equal == dependence(_codes(X, X), permutations=199)


def test_clips_of_one_video_count_once_in_the_test():
    S = np.repeat(_normal(12, 4), 5, axis=0)
    D = np.repeat(_normal(12, 4, seed=1), 5, axis=0)
    codes = Codes(codes_rows(S, D), tuple(str(i // 5) for i in range(60)))
    found = dependence(codes, permutations=199)
    assert (found.clips, found.videos) == (60, 12) and found.p > 0.01 and found.r2_dynamics < 0.3
    assert dependence(_codes(S, D), permutations=199).p == 1 / 200  # as if they were 60 videos


def test_a_latent_that_is_empty_or_constant_depends_on_nothing():
    found = dependence(_codes(_normal(12, 4), np.zeros((12, 0))))
    assert found.p is None and found.r2_dynamics is None and "depends on nothing" in found.sentence()


def test_nine_videos_are_refused():
    with pytest.raises(ValueError, match=r"^dependence needs clips of at least 10 videos, got 9; give more$"):
        dependence(_codes(_normal(9, 2), _normal(9, 2)))
