import pytest
import torch

from vidtwin.cli.options import SAMPLE
from vidtwin.evaluation.codecs import CODECS, codec_curve, coded, mean_curve
from vidtwin.evaluation.scoring import evaluation_clips
from vidtwin.metrics import clip_psnr


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return next(evaluation_clips(SAMPLE, 8, 96, 96))


@pytest.mark.parametrize("name", sorted(CODECS))
def test_more_bits_are_nearer(clip, name):
    good, bad = (coded(clip, CODECS[name].at(CODECS[name].qualities[index])) for index in (0, -1))
    assert good[0] > 2 * bad[0] > 0
    assert clip_psnr(good[1], clip) > clip_psnr(bad[1], clip) + 3
    assert clip_psnr(good[1], clip) > 28  # colours come back as they were
    assert good[1].shape == clip.shape
    flat = torch.full_like(clip, 0.2)
    assert (coded(flat, CODECS[name].at(CODECS[name].qualities[0]))[1] - flat).abs().max() < 4 / 127.5


def test_the_same_bytes_each_time(clip):
    settings = CODECS["x264"].at(36)
    (a, first), (b, again) = coded(clip, settings), coded(clip, settings)
    assert a == b and torch.equal(first, again)


def test_a_curve_is_means_over_clips(clip, monkeypatch):
    monkeypatch.setitem(CODECS, "x264", type(CODECS["x264"])(CODECS["x264"].settings, (30, 40)))
    points = mean_curve([codec_curve(x, "x264") for x in (clip, clip.flip(1))])
    assert [point.quality for point in points] == [30, 40] and points[0].bits > points[1].bits
    alone = [coded(x, CODECS["x264"].at(40))[0] for x in (clip, clip.flip(1))]
    assert points[1].bits == sum(alone) / 2
    with pytest.raises(ValueError, match="codec 'mpeg2' is unknown; choose of x264, x265, svtav1"):
        codec_curve(clip, "mpeg2")


def test_what_x264_says_of_itself_is_not_counted(clip):
    still = torch.zeros_like(clip)
    bits, _ = coded(still, CODECS["x264"].at(40))
    assert 0 < bits < 8 * 400  # its settings alone are 700 bytes
