"""Spectra of each branch, against NumPy's FFT and a model of which they are known."""

import json

import numpy as np
import pytest
import torch

from tests.analysis.twins import Twin, twin_clips
from vidtwin.analysis.codes import encode_clips
from vidtwin.analysis.spectra import branch_spectra, crossover, temporal_power
from vidtwin.metrics import clip_psnr


@pytest.mark.parametrize("frames", [1, 5, 8])
def test_power_is_that_of_numpys_whole_transform(frames):
    x = torch.randn(2, 3, frames, 4, 5, generator=torch.Generator().manual_seed(0))
    whole = np.square(np.abs(np.fft.fft(x.double().numpy(), axis=2))).sum(axis=(0, 1, 3, 4))
    expected = [whole[k] + (whole[-k] if 0 < k < frames - k else 0) for k in range(frames // 2 + 1)]
    np.testing.assert_allclose(temporal_power(x), expected, rtol=1e-5)
    assert temporal_power(x).sum() == pytest.approx(frames * x.square().sum().item(), rel=1e-5)


def test_a_single_frequency_is_where_it_is():
    t = torch.arange(8).view(1, 1, 8, 1, 1)
    power = temporal_power(torch.cos(2 * torch.pi * 3 * t / 8).expand(1, 3, 8, 2, 2))
    assert power.argmax() == 3 and power[3] == pytest.approx(power.sum(), rel=1e-6)


def test_shares_of_a_twin_are_those_computed_by_hand():
    clips, model = twin_clips(), Twin()
    codes = encode_clips(model, clips)
    found = branch_spectra(model, clips, codes, batch=4)

    x = clips.double().numpy()
    S = x.mean(2, keepdims=True)
    decodings = {"structure": S + (x - S).mean(0), "dynamics": S.mean(0) + x - S}
    centred = x - x.mean(axis=(0, 2, 3, 4), keepdims=True)
    for name, y in decodings.items():
        for k in range(5):
            power, error = (np.square(np.abs(np.fft.fft(v, axis=2)[:, :, k])).sum() for v in (centred, x - y))
            assert found.shares[name][k] == pytest.approx(1 - error / power, abs=1e-4)
    np.testing.assert_allclose(found.shares["both"], 1, atol=1e-6)
    assert found.shares["structure"][0] == pytest.approx(1) and found.moving["dynamics"] == pytest.approx(1)
    assert 0 < found.crossover < 1 / 8
    y = torch.from_numpy(decodings["structure"]).float()
    assert found.psnr["structure"] == pytest.approx(np.mean([clip_psnr(a, b) for a, b in zip(y, clips, strict=True)]), abs=1e-3)
    assert found.lost_without_dynamics == pytest.approx(found.psnr["both"] - found.psnr["structure"])
    assert sum(found.power) == pytest.approx(1)
    json.dumps(found.to_dict(), allow_nan=False)
    assert "both 100.0 % and 100.0 %" in found.sentence()


def test_crossover():
    frequencies = [0.0, 0.25, 0.5]
    assert crossover(frequencies, [0.9, 0.4, 0.0], [0.1, 0.2, 0.2]) == pytest.approx(0.375)
    assert crossover(frequencies, [0.1, 0.4, 0.0], [0.2, 0.2, 0.2]) == 0
    assert crossover(frequencies, [0.9, -0.2, -0.3], [0.1, -0.1, -0.1]) is None  # less wrong is not more
    assert crossover(frequencies, [0.9, None, 0.0], [0.1, None, 0.9]) == pytest.approx(0.5 * 0.8 / 1.7)


def test_clips_that_do_not_move_have_no_share_of_movement():
    clips = twin_clips()[:, :, :1].expand(-1, -1, 8, -1, -1)
    found = branch_spectra(Twin(), clips, encode_clips(Twin(), clips))
    assert found.shares["both"][0] == pytest.approx(1)
    assert found.crossover is None and found.lost_without_dynamics == pytest.approx(0, abs=1e-3)


def test_one_video_is_refused():
    clips = twin_clips(2)
    with pytest.raises(ValueError, match=r"^the spectrum of each branch needs clips of at least 2 videos, got 1; give more$"):
        branch_spectra(Twin(), clips, encode_clips(Twin(), clips, ["a", "a"]))
