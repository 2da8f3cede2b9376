"""Rates: KL against torch's, ranks and frozen clips of a model of which they are known."""

import json
import math

import pytest
import scipy.stats
import torch

from tests.analysis.twins import Twin, twin_clips
from vidtwin.analysis.codes import encode_clips
from vidtwin.analysis.rates import bits, frame_difference, rates


def test_bits_are_torchs_divergence(model):
    codes = encode_clips(model, torch.rand(3, *model.config.clip_shape) * 2 - 1)
    found = bits(codes)
    mean, logvar = codes.posterior.mean, codes.posterior.logvar
    for name, parts in (("structure", [0]), ("dynamics", [1, 2])):
        expected = sum(
            torch.distributions.kl_divergence(
                torch.distributions.Normal(mean.tensors[i].double(), (logvar.tensors[i].double() / 2).exp()),
                torch.distributions.Normal(0.0, 1.0),
            )
            .flatten(1)
            .sum(1)
            for i in parts
        ) / math.log(2)
        torch.testing.assert_close(torch.from_numpy(found[name]), expected, rtol=1e-4, atol=1e-6)


def test_a_twins_dynamics_costs_what_moves_and_nothing_when_frozen():
    clips, model = twin_clips(8), Twin()
    clips = torch.stack(
        [clip.mean(1, keepdim=True) + (clip - clip.mean(1, keepdim=True)) * i / 8 for i, clip in enumerate(clips, 1)]
    )
    found = rates(model, clips, encode_clips(model, clips))
    assert found.dynamics_frozen == pytest.approx(0, abs=1e-4) and found.dynamics_floor == 0 and found.fell == 1
    assert found.saved == pytest.approx(1, abs=1e-4) and found.dynamics_rank == pytest.approx(1)
    assert found.motion == pytest.approx((clips[:, :, 1:] - clips[:, :, :-1]).abs().mean().item() / 2, rel=1e-5)
    y = clips - clips.mean(2, keepdim=True)
    assert found.dynamics == pytest.approx(y.mean(-1).square().sum().item() / 2 / math.log(2) / 8, rel=1e-4)
    json.dumps(found.to_dict(), allow_nan=False)
    assert found.dynamics_per_value == pytest.approx(found.dynamics / (3 * 8 * (6 + 1))) and found.structure_values == 3 * 36
    assert f"bits a clip ({found.structure_per_value:.1f} a value)" in found.sentence()
    assert "ranks with motion at 1.00" in found.sentence() and "100 % of the way down" in found.sentence()


def test_ranks_are_over_videos():
    clips, model = twin_clips(12, seed=3), Twin()
    names = [str(i // 2) for i in range(12)]
    codes = encode_clips(model, clips, names)
    found = rates(model, clips, codes)
    cost = bits(codes)["structure"].reshape(6, 2).mean(1)
    motion = torch.tensor([frame_difference(clip) for clip in clips]).reshape(6, 2).mean(1)
    expected = scipy.stats.spearmanr(cost, motion.numpy())
    assert (found.clips, found.videos) == (12, 6) and found.structure_rank == pytest.approx(expected.statistic)


def test_clips_that_all_stand_still_have_no_rank():
    clips = twin_clips(5)[:, :, :1].expand(-1, -1, 8, -1, -1)
    clips = torch.round(clips * 64) / 64
    found = rates(Twin(), clips, encode_clips(Twin(), clips))
    assert found.dynamics_rank is None and found.saved is None and "cannot be ranked" in found.sentence()


def test_four_videos_are_refused():
    clips = twin_clips(4)
    with pytest.raises(ValueError, match=r"^the rate of each latent needs clips of at least 5 videos, got 4; give more$"):
        rates(Twin(), clips, encode_clips(Twin(), clips))
