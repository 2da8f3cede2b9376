from xml.etree import ElementTree

from vidtwin.evaluation.codecs import Point
from vidtwin.evaluation.plots import rate_distortion_plot, spectra_plot


def test_a_plot_is_svg_and_the_same_each_time():
    curves = {"x264": [Point(36, 40_000.0, 28.0), Point(40, 20_000.0, 25.0)], "tiny": [Point(1, 9_000.0, 20.0)]}
    first, again = (rate_distortion_plot(curves, {"3-D DCT": 23.8}) for _ in range(2))
    assert first == again
    assert ElementTree.fromstring(first).tag.endswith("svg")
    assert all(text in first for text in ("x264", "tiny", "3-D DCT", "kbit a clip", "PSNR in dB"))


def test_spectra_have_gaps_where_nothing_was_measured():
    text = spectra_plot([0.0, 0.25, 0.5], {"structure": [0.9, 0.2, None], "dynamics": [-3.0, 0.1, 0.0]})
    assert ElementTree.fromstring(text).tag.endswith("svg") and "cycles per frame" in text
