"""Probes: latents that hold factors by construction, and products against direct computation."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.analysis.twins import codes_rows
from vidtwin import Posterior
from vidtwin.analysis.codes import Codes
from vidtwin.analysis.probes import Probes, factor_scores, pixel_products, principal, probe
from vidtwin.data.sprites import DYNAMIC, STATIC, SpriteClips, draw_factors

N = 80
FACTORS = draw_factors(N, seed=1)


def _rows(names: tuple[str, ...]) -> np.ndarray:
    """Their targets, mixed by a seeded linear map into 50 values."""
    values = np.concatenate([FACTORS.targets()[name] for name in names], axis=1)
    return (values - values.mean(0)) / values.std(0) @ np.random.default_rng(0).normal(size=(values.shape[1], 50))


def _codes(S: np.ndarray, D: np.ndarray) -> Codes:
    return Codes(codes_rows(S, D), tuple(map(str, range(len(S)))))


def test_separated_factors_have_a_gap_of_about_one():
    found = probe(_codes(_rows(STATIC), _rows(DYNAMIC)), FACTORS, np.eye(N))
    for one, other, names in (("structure", "dynamics", STATIC), ("dynamics", "structure", DYNAMIC)):
        for name in names:
            assert found.scores[one][name] > 0.9 and found.scores["both"][name] > 0.8
            assert -0.5 < found.scores[other][name] < 0.25
    assert found.modularity_gap == pytest.approx((found.static_gap + found.dynamic_gap) / 2) and found.modularity_gap > 0.8
    assert "Structure tells shape, colour, size, background clearly better" in found.sentence()
    swapped = probe(_codes(_rows(DYNAMIC), _rows(STATIC)), FACTORS, np.eye(N))
    assert swapped.modularity_gap == pytest.approx(-found.modularity_gap, abs=1e-3)
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_score_of_nothing_is_no_word_worth():
    scores = {source: dict.fromkeys(STATIC + DYNAMIC, 0.0) for source in ("structure", "dynamics", "both", "sampled", "pixels")}
    scores["structure"] |= {"size": 0.02, "shape": 0.5}
    scores["dynamics"] |= {"size": -0.3, "shape": -0.1}
    assert "Structure tells shape clearly better than Dynamics, and Dynamics nothing" in Probes(40, 8, scores).sentence()


def test_samples_know_what_the_posteriors_width_leaves():
    codes = _codes(_rows(STATIC), _rows(DYNAMIC))
    means = codes.posterior.mean
    found = {}
    for name, logvar in (("narrow", -20.0), ("wide", 10.0)):
        wider = Posterior(means, means.map(lambda tensor, value=logvar: torch.full_like(tensor, value)))
        found[name] = probe(Codes(wider, codes.names), FACTORS, np.eye(N))
    assert found["narrow"].sampled_mean == pytest.approx(found["narrow"].both_mean, abs=0.02)
    assert found["wide"].both_mean == found["narrow"].both_mean and found["wide"].sampled_mean < 0.2
    assert "of samples of them" in found["wide"].sentence()


def test_noise_knows_nothing():
    noise = np.random.default_rng(0).normal(size=(N, 500))
    scores = factor_scores(noise @ noise.T, FACTORS)
    assert set(scores) == {*STATIC, *DYNAMIC} and all(-0.4 < score < 0.25 for score in scores.values())


def test_an_empty_latent_knows_nothing():
    found = probe(_codes(_rows(STATIC), np.zeros((N, 0))), FACTORS, np.eye(N))
    assert all(found.scores["dynamics"][name] == pytest.approx(0) for name in ("colour", *DYNAMIC))
    assert found.scores["both"] == pytest.approx(found.scores["structure"])


def test_principal_components_are_those_of_the_singular_value_decomposition():
    rows = np.random.default_rng(0).normal(size=(20, 60))
    rows -= rows.mean(0)
    u, s, _ = np.linalg.svd(rows, full_matrices=False)
    kept = u[:, :5] * s[:5]
    np.testing.assert_allclose(principal(rows @ rows.T, 5), kept @ kept.T, atol=1e-9)
    np.testing.assert_allclose(principal(rows @ rows.T, 19), rows @ rows.T, atol=1e-9)


@pytest.mark.parametrize(("side", "factor"), [(32, 1), (128, 2)])
def test_pixel_products_are_those_of_averaged_clips(side, factor):
    clips = SpriteClips(draw_factors(5), 3, side, side)
    rows = torch.stack([F.avg_pool2d(clips[i], factor) for i in range(5)]).flatten(1).double().numpy()
    rows -= rows.mean(0)
    np.testing.assert_allclose(pixel_products(clips, batch=2), rows @ rows.T, rtol=1e-3, atol=1e-2)


def test_few_sprites_are_refused():
    with pytest.raises(ValueError, match=r"^probes need at least 40 sprites, got 39; draw more$"):
        probe(_codes(np.zeros((39, 2)), np.zeros((39, 2))), draw_factors(39), np.eye(39))
