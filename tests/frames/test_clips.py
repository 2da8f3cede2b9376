import json
from fractions import Fraction

import numpy as np
import pytest
import torch

from vidtwin.frames import clips
from vidtwin.frames.clips import fit
from vidtwin.video import (
    POLICIES,
    Geometry,
    chunks,
    content,
    frame_interval,
    from_clip,
    pad_tail,
    to_clip,
)

SOURCES = [(1, 1), (1, 7), (7, 1), (33, 57), (180, 320), (320, 180), (32, 1024), (1024, 32), (48, 48), (2, 3)]
MODELS = [(48, 48), (32, 64), (64, 16)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("source", SOURCES)
def test_any_size_goes_in_and_comes_out_even(policy, source, model):
    geometry = Geometry.plan(policy, source, model)
    frames = np.random.default_rng(0).integers(0, 256, (2, *source, 3), dtype=np.uint8)
    clip = to_clip(frames, geometry)
    assert clip.shape == (3, 2, *model) and clip.dtype == torch.float32
    assert clip.min() >= -1 and clip.max() <= 1
    out = from_clip(clip, geometry)
    assert out.shape == (2, *geometry.output_size, 3) and out.dtype == np.uint8
    assert all(side % 2 == 0 and side >= 2 for side in geometry.output_size)
    assert Geometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry
    assert "\n" not in geometry.describe() and geometry.describe().startswith(policy)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_level_survives_the_round_trip_at_equal_size(policy):
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    geometry = Geometry.plan(policy, (16, 16), (16, 16))
    assert (from_clip(to_clip(levels, geometry), geometry) == levels).all()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("source", SOURCES)
def test_a_flat_colour_stays_flat(policy, source):
    geometry = Geometry.plan(policy, source, (32, 64))
    frames = np.full((1, *source, 3), (10, 128, 250), dtype=np.uint8)
    assert (from_clip(to_clip(frames, geometry), geometry) == frames[0, 0, 0]).all()


def test_crop_is_the_reference_protocol():
    """uint8 / 255, short side to 224 with antialias, centre 224x224, (v - 0.5) / 0.5; checked against the formula."""
    frames = np.random.default_rng(1).integers(0, 256, (1, 256, 456, 3), dtype=np.uint8)
    geometry = Geometry.plan("crop", (256, 456), (224, 224))
    assert geometry.resized == (224, int(224 * 456 / 256)) and geometry.offset == (0, round((399 - 224) / 2.0))
    image = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    image = torch.nn.functional.interpolate(image, size=(224, 399), mode="bilinear", antialias=True)
    expected = (image[..., 88 : 88 + 224] - 0.5) / 0.5
    assert torch.equal(to_clip(frames, geometry)[:, 0], expected[0])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("model", [*MODELS, (224, 224)], ids=str)
@pytest.mark.parametrize("source", [*SOURCES, (101, 83), (1080, 1920), (64, 8192)], ids=str)
def test_large_frames_are_resized_as_interpolate_does(monkeypatch, policy, source, model):
    """In float64; in float32 it is itself up to 8e-4 from that. Levels and floats give the same bits, packed or planar."""
    frames = np.random.default_rng(1).integers(0, 256, (1, *source, 3), dtype=np.uint8)
    geometry = Geometry.plan(policy, source, model)
    monkeypatch.setattr(clips, "LARGE", 0)
    clip = to_clip(frames, geometry)
    planar = np.ascontiguousarray(frames.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    unit = torch.from_numpy(frames[0]).permute(2, 0, 1).float() / 255
    assert torch.equal(to_clip(planar, geometry), clip) and torch.equal(fit(unit, geometry), clip[:, 0])
    monkeypatch.setattr(clips, "LARGE", 2**30)
    exact = fit(torch.from_numpy(frames[0]).permute(2, 0, 1).double() / 255, geometry)
    torch.testing.assert_close(clip[:, 0].double(), exact, atol=2e-6, rtol=0)


def test_crop_keeps_the_centre_and_squash_the_whole():
    frames = np.zeros((1, 20, 60, 3), dtype=np.uint8)
    frames[:, :, 20:40] = 200  # the middle third
    crop = Geometry.plan("crop", (20, 60), (20, 20))
    assert (from_clip(to_clip(frames, crop), crop) == 200).all()
    squash = Geometry.plan("squash", (20, 60), (20, 20))
    assert squash.output_size == (20, 60)
    assert abs(float(from_clip(to_clip(frames, squash), squash).mean()) - frames.mean()) < 2


def test_pad_puts_black_bars_and_cuts_them_away():
    frames = np.full((1, 20, 40, 3), 255, dtype=np.uint8)
    geometry = Geometry.plan("pad", (20, 40), (40, 40))
    clip = to_clip(frames, geometry)
    assert (clip[:, :, :10] == -1).all() and (clip[:, :, 30:] == -1).all() and (clip[:, :, 10:30] == 1).all()
    assert content(clip, geometry).shape == (3, 1, 20, 40)
    assert geometry.output_size == (20, 40) and (from_clip(clip, geometry) == 255).all()
    crop = Geometry.plan("crop", (20, 40), (40, 40))
    assert content(clip, crop) is clip


def test_from_clip_clamps_rounds_and_refuses_nan():
    geometry = Geometry.plan("crop", (2, 2), (2, 2))
    clip = torch.tensor([-9.0, 9.0, 0.0, 2 * 100.4 / 255 - 1]).reshape(1, 1, 2, 2).expand(3, 1, 2, 2)
    assert from_clip(clip, geometry)[0, :, :, 0].tolist() == [[0, 255], [128, 100]]
    with pytest.raises(ValueError, match="NaN"):
        from_clip(torch.full((3, 1, 2, 2), float("nan")), geometry)


def test_pad_tail_repeats_the_last_frame():
    frames = np.arange(3)[:, None]
    assert pad_tail(frames, 5)[:, 0].tolist() == [0, 1, 2, 2, 2]
    assert pad_tail(frames, 3)[:, 0].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="between 1 and 2"):
        pad_tail(frames, 2)


def test_frame_interval():
    rates = [(30, 8, 4), (25, 8, 3), (24, 8, 3), (Fraction(30000, 1001), 8, 4), (8, 30, 1), (240, 8, 30)]
    assert [frame_interval(native, sample) for native, sample, _ in rates] == [interval for *_, interval in rates]
    with pytest.raises(ValueError, match="above 0"):
        frame_interval(25, 0)


@pytest.mark.parametrize(
    ("policy", "source", "model", "message"),
    [
        ("stretch", (4, 4), (4, 4), "'stretch' is unknown; choose one of crop, squash, pad"),
        ("crop", (0, 4), (4, 4), "4x0 is empty"),
        ("crop", (4, 4), (5, 4), "4x5 must be even"),
        ("squash", (1, 1000), (4, 4), "crop it first"),
    ],
)
def test_plan_refuses(policy, source, model, message):
    with pytest.raises(ValueError, match=message):
        Geometry.plan(policy, source, model)


def test_wrong_shapes_and_records_are_refused():
    geometry = Geometry.plan("pad", (20, 40), (32, 32))
    with pytest.raises(ValueError, match=r"give uint8 \(F, 20, 40, 3\)"):
        to_clip(np.zeros((1, 40, 20, 3), np.uint8), geometry)
    with pytest.raises(ValueError, match=r"give \(3, F, 32, 32\)"):
        from_clip(torch.zeros(3, 1, 20, 40), geometry)
    for broken in ({}, {**geometry.to_dict(), "offset": [1, 1]}, {**geometry.to_dict(), "model": [32]}):
        with pytest.raises(ValueError, match="geometry"):
            Geometry.from_dict(broken)


def test_chunks_cover_every_item_once_and_are_lazy():
    assert list(chunks(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    for total in range(40):
        for size in range(1, 20):
            cut = list(chunks(range(total), size))
            assert [item for chunk in cut for item in chunk] == list(range(total))
            assert all(len(chunk) == size for chunk in cut[:-1])
            assert [] not in cut
    endless = chunks(iter(int, 1), 4)
    assert next(endless) == [0, 0, 0, 0]
