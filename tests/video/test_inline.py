"""Videos as HTML elements that play: bounded in size, their text escaped."""

import base64
import io
import re
from fractions import Fraction

import av
import numpy as np
import pytest

import vidtwin
from vidtwin.inference.shown import Written, file_preview
from vidtwin.video import inline
from vidtwin.video.inline import preview


def played(html: str) -> list[av.VideoFrame]:
    """Frames of the video inside."""
    data = base64.b64decode(re.search(r'src="data:video/mp4;base64,([^"]+)"', html)[1])
    with av.open(io.BytesIO(data)) as container:
        assert container.streams.video[0].codec.name == "h264"
        return list(container.decode(video=0))


def test_a_video_plays_and_its_text_is_escaped(clip):
    frames = vidtwin.read_video(clip, 0, 5)
    assert repr(frames).startswith("Video(") and f"uint8 {frames.frames.shape}" in repr(frames)
    html = frames._repr_html_()
    assert len(played(html)) == 5
    assert "<script>" not in preview(frames.frames, frames.fps, "<script>.mp4")


def test_long_and_large_videos_are_cut_and_scaled(monkeypatch):
    monkeypatch.setattr(inline, "MOST_FRAMES", 4)
    monkeypatch.setattr(inline, "MOST_PIXELS", 32 * 16)
    html = preview(np.zeros((9, 32, 64, 3), np.uint8), Fraction(25), "x")
    assert "the first 4 of 9 frames" in html
    assert [(frame.width, frame.height) for frame in played(html)] == [(32, 16)] * 4


@pytest.mark.parametrize(("count", "most"), [(1, 2**21), (5, 10)])
def test_a_picture_stands_for_what_is_no_small_video(monkeypatch, count, most):
    monkeypatch.setattr(inline, "MOST_BYTES", most)
    noise = np.random.default_rng(0).integers(0, 255, (count, 32, 64, 3), np.uint8)
    html = preview(noise, Fraction(25), "x")
    assert "<video" not in html and "data:image/" in html


def test_what_was_written_is_a_list_of_notes_and_plays(clip, tmp_path):
    written = vidtwin.save_video(vidtwin.read_video(clip, 0, 3), tmp_path / "a.mp4")
    assert written == [] and written.path == tmp_path / "a.mp4"
    assert len(played(written._repr_html_())) == 3
    assert "note: &lt;i&gt;" in Written(["<i>"], written.path)._repr_html_()
    written.path.unlink()
    assert file_preview(written.path).startswith("<p>") and "no such file" in file_preview(written.path)
