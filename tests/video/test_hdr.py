import numpy as np
import pytest

from vidtwin.video import frame_count, probe, read_clip, read_video
from vidtwin.video.read.hdr import BT2020_TO_BT709, HLG, PQ, SDR, Light, compress, hlg_scene, pq_eotf, to_sdr

HLG_TAGS = {"colorspace": 9, "color_primaries": 9, "color_trc": 18, "color_range": 1}
PQ_TAGS = {**HLG_TAGS, "color_trc": 16}


def pq_signal(nits):
    root = (np.asarray(nits) / 10000) ** (2610 / 16384)
    return ((0.8359375 + 18.8515625 * root) / (1 + 18.6875 * root)) ** 78.84375


def shown(signals, light):
    """Grey signals in [0, 1] -> levels."""
    grey = np.round(np.asarray(signals) * 65535).astype(np.uint16)
    return to_sdr(np.repeat(grey.reshape(1, -1, 1), 3, 2), light)[0]


def test_transfer_functions_are_those_of_bt2100():
    assert pq_eotf(np.array([0, 0.508078, 0.580689, 0.751827, 1])) == pytest.approx([0, 100, 203, 1000, 10000], rel=1e-4)
    assert hlg_scene(np.array([0, 0.5, 1])) == pytest.approx([0, 1 / 12, 1], abs=1e-6)
    assert 1000 * hlg_scene(np.array(0.75)) ** 1.2 == pytest.approx(203, abs=0.5)  # BT.2408: reference white is HLG of 75%


def test_levels_are_the_documented_ones():
    assert shown(pq_signal([0, 26, 203, 1000, 4000]), Light(PQ, True))[:, 0].tolist() == [0, 103, 194, 255, 255]
    signals = np.linspace(0, 1, 21)
    assert np.abs(shown(signals, Light(HLG, True))[:, 0] - 255 * signals).max() <= 8  # HLG is made to be shown as SDR, too
    assert (shown(np.arange(256) / 255, Light(SDR, True))[:, 0] == np.arange(256)).all()
    assert compress(np.array([203.0, 1000, 9000])) == pytest.approx([0.5206, 1, 1], abs=1e-4)


@pytest.mark.parametrize("light", [Light(PQ, True), Light(HLG, True), Light(HLG, False), Light(SDR, True)], ids=str)
def test_grey_stays_grey_and_brighter_stays_brighter(light):
    levels = shown(np.arange(1024) / 1023, light).astype(int)
    assert np.ptp(levels, axis=1).max() == 0
    assert (np.diff(levels[:, 0]) >= 0).all() and levels[0, 0] == 0 and levels[-1, 0] == 255


def test_hues_stay():
    """Colours of BT.709, stated in BT.2020: of one hue before and after."""
    colours = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.8, 0.4, 0.1]])
    wide = colours @ np.linalg.inv(np.array(BT2020_TO_BT709)).T
    sdr = to_sdr(np.round(wide.clip(0) ** (1 / 2.4) * 65535).astype(np.uint16)[None], Light(SDR, True))[0]
    assert np.abs(sdr - 255 * colours ** (1 / 2.4)).max() <= 4
    for nits in (50, 400):
        light = (to_sdr(np.round(pq_signal(nits * wide.clip(0)) * 65535).astype(np.uint16)[None], Light(PQ, True))[0] / 255) ** 2.4
        assert np.abs(light / light.max(1, keepdims=True) - colours / colours.max(1, keepdims=True)).max() < 0.02


def test_large_pictures_are_converted_in_bands(monkeypatch):
    picture = np.random.default_rng(0).integers(0, 65536, (50, 30, 3)).astype(np.uint16)
    whole = to_sdr(picture, Light(HLG, True))
    monkeypatch.setattr("vidtwin.video.read.hdr.BAND", 300)
    assert (to_sdr(picture, Light(HLG, True)) == whole).all()


@pytest.mark.parametrize(
    ("tags", "note"),
    [
        (HLG_TAGS, "HDR (HLG, BT.2020) is tone-mapped to SDR"),
        (PQ_TAGS, "HDR (PQ, BT.2020) is tone-mapped to SDR"),
        ({**PQ_TAGS, "color_primaries": 1, "colorspace": 1}, "HDR (PQ) is tone-mapped to SDR"),
        ({**HLG_TAGS, "color_trc": 1}, "wide colour (BT.2020) is converted to BT.709"),
    ],
)
def test_files_are_read_as_sdr(encode, blobs, tags, note):
    levels = np.repeat(np.arange(0, 256, 16, dtype=np.uint8), 8)
    picture = np.repeat(np.repeat(levels[None, :, None], 48, 0), 3, 2)
    path = encode("hdr.mp4", [picture] * 3, pix_fmt="yuv420p10le", options={"qp": "0"}, tags=tags)
    info, light = probe(path), Light(HLG if tags["color_trc"] == 18 else PQ if tags["color_trc"] == 16 else SDR, "BT.2020" in note)
    assert info.notes == (note, "10 bits a channel are read as 8")
    frames = read_video(path).frames
    assert np.abs(frames[0, 24, 4::8].astype(int) - shown(np.arange(0, 256, 16) / 255, light)).max() <= 1
    assert (read_clip(path, 1, 2) == frames[1:]).all() and frame_count(path) == 3


def test_hdr_without_a_matrix_is_taken_for_bt2020(encode, blobs):
    frames = blobs(1)
    tagged = encode("tagged.mkv", frames, "ffv1", "yuv420p10le", tags=HLG_TAGS)
    untagged = encode("untagged.mkv", frames, "ffv1", "yuv420p10le", tags={**HLG_TAGS, "colorspace": 2})
    assert probe(tagged).color_space == probe(untagged).color_space == "bt2020"
