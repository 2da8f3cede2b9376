import json

import numpy as np
import pytest

from vidtwin.latent_sets.statistics import Moments, Statistics


def test_merged_moments_are_those_of_all_values():
    rng = np.random.default_rng(0)
    values = rng.normal(1e3, 1e-2, size=(50, 3, 4, 5)).astype(np.float32)  # means far from 0, where sums of squares fail
    merged = Moments.none(3)
    for start, stop in ((0, 1), (1, 20), (20, 20), (20, 50)):
        if stop > start:
            merged = merged.merged(Moments.of(values[start:stop]))
    flat = np.moveaxis(values, 1, 0).reshape(3, -1).astype(np.float64)
    np.testing.assert_allclose(merged.mean, flat.mean(1), rtol=1e-12)
    np.testing.assert_allclose(merged.std, flat.std(1), rtol=1e-9)
    assert merged.count == 50 * 20


def test_they_are_kept_to_the_bit():
    rng = np.random.default_rng(1)
    statistics = Statistics.of([rng.normal(size=(4, c, 2)) for c in (3, 2, 2)])
    again = Statistics.from_dict(json.loads(json.dumps(statistics.to_dict())))
    for a, b in zip(statistics.moments, again.moments, strict=True):
        assert a.count == b.count and np.array_equal(a.mean, b.mean) and np.array_equal(a.m2, b.m2)
    with pytest.raises(ValueError, match="not the moments of channels"):
        Moments.from_dict({"count": 1, "mean": [0.0], "m2": [-1.0]})


def test_nothing_has_no_spread():
    none = Statistics.none((3, 2, 2))
    assert [moments.std.tolist() for moments in none.merged(none).moments] == [[0.0] * 3, [0.0] * 2, [0.0] * 2]
