"""Swaps: of a model that keeps everything, and of latents with known leaks."""

import json

import numpy as np
import pytest
import torch

from tests.analysis.twins import Twin, twin_clips
from vidtwin.analysis.codes import encode_clips
from vidtwin.analysis.swaps import _figures, choose_pairs, swap_consistency


def test_a_twin_keeps_everything():
    """Unrelated latents of N clips are 2 N / (N - 1) variances apart, over all pairs."""
    clips, model = twin_clips(6), Twin()
    found = swap_consistency(model, encode_clips(model, clips), batch=7)
    assert (found.clips, found.pairs) == (6, 30)
    for kept in (found.structure, found.dynamics):
        assert kept.own == pytest.approx(1, abs=1e-5) and kept.ceiling == pytest.approx(1, abs=1e-5)
        assert kept.leak == pytest.approx(0, abs=1e-5)
        assert kept.retrieved == kept.retrieved_ceiling == 1 and kept.chance == pytest.approx(1 / 6)
    assert found.structure.other == pytest.approx(1 - 12 / 5, abs=1e-4)
    assert found.structure.floor == pytest.approx(1 - 12 / 5, abs=1e-4)
    json.dumps(found.to_dict(), allow_nan=False)
    assert "100 % of the time (chance 17 %)" in found.sentence()


@pytest.mark.parametrize("leak", [0.0, 0.3, 1.0])
def test_a_known_leak_is_found(leak):
    known = np.random.default_rng(0).normal(size=(7, 40))
    known -= known.mean(0)
    groups = np.arange(7)
    pairs = np.concatenate([choose_pairs(groups, 100, 0), np.repeat(groups[:, None], 2, axis=1)])
    a, b = known[pairs[:, 0]], known[pairs[:, 1]]
    after = a + leak * (b - a)
    kept = _figures(after @ known.T, np.square(after).sum(1), known @ known.T, pairs, groups)
    swapped = slice(0, 42)
    assert kept.leak == pytest.approx(leak, abs=1e-9)
    assert kept.own == pytest.approx(1 - np.square(after - a)[swapped].sum() / np.square(a[swapped]).sum())
    assert kept.other == pytest.approx(1 - np.square(after - b)[swapped].sum() / np.square(b[swapped]).sum())
    third = [
        (np.square(after[p] - known[k]).sum(), np.square(known[k]).sum()) for p in range(42) for k in range(7) if k not in pairs[p]
    ]
    assert kept.floor == pytest.approx(1 - np.sum(third, axis=0)[0] / np.sum(third, axis=0)[1])
    assert kept.ceiling == pytest.approx(1) and kept.retrieved == (leak < 0.5)


def test_clips_of_one_video_are_not_swapped_and_count_as_right():
    clips, model = twin_clips(6), Twin()
    clips[1] = clips[0]  # the nearest of 0 and of 1 are both
    found = swap_consistency(model, encode_clips(model, clips, ["a", "a", "b", "c", "d", "e"]))
    assert found.pairs == 28 and found.structure.retrieved == 1 and found.structure.chance == pytest.approx(8 / 36)


def test_pairs_are_all_or_a_seeded_sample():
    groups = np.array([0, 0, 1, 2])
    assert {tuple(pair) for pair in choose_pairs(groups, 100, 0)} == {
        (i, j) for i in range(4) for j in range(4) if groups[i] != groups[j]
    }
    few, again, others = (choose_pairs(groups, 4, seed).tolist() for seed in (0, 0, 1))
    assert len({tuple(pair) for pair in few}) == 4 and few == again != others


def test_a_latent_that_does_not_vary_has_no_figures():
    clips = twin_clips(4)[:, :, :1].expand(-1, -1, 8, -1, -1)
    clips = torch.round(clips * 64) / 64  # so that the mean of equal frames is exact
    found = swap_consistency(Twin(), encode_clips(Twin(), clips))
    assert found.dynamics.own is None and found.structure.own == pytest.approx(1)
    assert "Dynamics is the same for all clips" in found.sentence()


def test_two_videos_are_refused():
    clips = twin_clips(2)
    with pytest.raises(ValueError, match=r"^swap consistency needs clips of at least 3 videos, got 2; give more$"):
        swap_consistency(Twin(), encode_clips(Twin(), clips))
