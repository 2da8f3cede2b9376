import numpy as np
import pytest

from vidtwin.evaluation.bootstrap import bootstrap_mean


def test_the_interval_of_independent_values_is_the_textbooks():
    values = np.random.default_rng(0).normal(30, 2, size=400)
    mean, low, high = bootstrap_mean(values.tolist(), [str(i) for i in range(400)])
    assert mean == pytest.approx(values.mean())
    half = 1.96 * values.std(ddof=1) / 20
    assert (high - low) / 2 == pytest.approx(half, rel=0.1) and low < mean < high


def test_clips_of_a_video_are_drawn_together():
    values, videos = [1.0] * 50 + [3.0] * 50, ["a"] * 50 + ["b"] * 50
    assert bootstrap_mean(values, videos)[1:] == (1.0, 3.0)
    _, low, high = bootstrap_mean(values, [str(i) for i in range(100)])
    assert 1.7 < low < high < 2.3


def test_a_long_video_counts_more():
    assert bootstrap_mean([1.0, 1.0, 1.0, 5.0], ["a", "a", "a", "b"]).mean == 2.0


def test_one_video_says_nothing_of_others_and_seeds_are_kept():
    assert bootstrap_mean([1.0, 2.0], ["a", "a"]) == (1.5, 1.5, 1.5)
    values, videos = [1.37**i for i in range(20)], [str(i) for i in range(20)]
    assert bootstrap_mean(values, videos) == bootstrap_mean(values, videos) != bootstrap_mean(values, videos, seed=1)
    with pytest.raises(ValueError, match="0 values of 0 clips"):
        bootstrap_mean([], [])
