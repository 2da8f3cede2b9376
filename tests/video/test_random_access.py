"""Frames out of order: `read_clip`, and `iter_frames` that goes on after a timestamp, equal reading from the start."""

import numpy as np
import pytest

from vidtwin.video import frame_count, iter_frames, read_clip, read_video

FILES = [
    ("open_gop.mp4", "libx264", {"x264-params": "open-gop=1:keyint=8:bframes=3"}),
    ("open_gop.ts", "libx264", {"x264-params": "open-gop=1:keyint=8:bframes=3"}),
    ("open_gop.avi", "libx264", {"x264-params": "open-gop=1:keyint=8:bframes=3"}),
    ("refresh.mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=8:bframes=0"}),
    ("gop.mkv", "libx264", {"g": "8", "bf": "2"}),
    ("gop.flv", "flv", {"g": "8"}),
    ("hevc.mp4", "libx265", {"x265-params": "open-gop=1:keyint=8:bframes=3:log-level=none"}),
    ("gop.avi", "mpeg4", {"g": "8", "bf": "2"}),
    ("gop.mpg", "mpeg2video", {"g": "8", "bf": "2"}),
    ("gop.webm", "libvpx", {"g": "8", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    ("vp9.webm", "libvpx-vp9", {"g": "8", "cpu-used": "8", "deadline": "realtime"}),
    ("av1.mp4", "libsvtav1", {"g": "8", "preset": "13"}),
    ("raw.h264", "libx264", {"g": "8"}),
    ("intra.mov", "prores_ks", {}),
    ("loop.gif", "gif", {}),
]
FORMATS = {"prores_ks": "yuv422p10le", "gif": "rgb8"}
FROM_THE_START = ("open_gop.avi", "refresh.mp4", "raw.h264", "loop.gif")  # there is no other way


@pytest.fixture
def seeks(monkeypatch):
    """For every `iter_frames` with `last_pts`: whether it began at a key frame."""
    from vidtwin.video.read.reader import in_order

    found, frames_after = [], in_order.frames_after

    def watched(*arguments):
        found.append(frames_after(*arguments))
        return found[-1]

    monkeypatch.setattr(in_order, "frames_after", watched)
    return found


def assert_the_same(frames, expected):
    assert [(frame.pts, frame.time_base) for frame in frames] == [(frame.pts, frame.time_base) for frame in expected]
    assert all((frame.image == other.image).all() for frame, other in zip(frames, expected, strict=True))


@pytest.mark.parametrize(("name", "codec", "options"), FILES, ids=[name for name, *_ in FILES])
def test_random_access_equals_reading_in_order(encode, blobs, seeks, name, codec, options):
    noise = np.random.default_rng(0).integers(0, 30, (40, 48, 64, 3), dtype=np.uint8)  # else some gradual refresh is exact
    path = encode(name, blobs(40) // 2 + noise, codec, FORMATS.get(codec, "yuv420p"), options)
    whole = list(iter_frames(path))
    frames = np.stack([frame.image for frame in whole])
    assert len(frames) == frame_count(path) == 40
    for start in range(0, 36, 3):
        assert (read_clip(path, start, 4) == frames[start : start + 4]).all()
    assert (read_clip(path, 1, 5, 8) == frames[1:40:8]).all()
    for start in range(2, 40, 6):
        stop = None if start % 4 else start + 5
        assert_the_same(list(iter_frames(path, start, stop, last_pts=whole[start - 1].pts)), whole[start:stop])
    assert [begun is None for begun in seeks[-4:]] == [name in FROM_THE_START] * 4


@pytest.mark.filterwarnings("error")
def test_going_on_after_a_timestamp(assets, encode, blobs, seeks, tmp_path):
    path = encode("gop.mp4", blobs(30), options={"g": "6", "bf": "2"})
    whole = list(iter_frames(path))
    edited = bytearray(path.read_bytes())
    at = edited.index(b"elst") + 16
    edited[at : at + 4] = (int.from_bytes(edited[at : at + 4], "big") + 4 * 512).to_bytes(4, "big")
    (tmp_path / "edited.mp4").write_bytes(edited)
    shown = list(iter_frames(tmp_path / "edited.mp4"))
    assert len(shown) == 26
    assert_the_same(list(iter_frames(tmp_path / "edited.mp4", 20, last_pts=shown[19].pts)), shown[20:])
    early = encode("early.mp4", blobs(30), pts=range(-9, 21), options={"g": "6", "bf": "2"})
    before = list(iter_frames(early))
    assert_the_same(list(iter_frames(early, 20, last_pts=before[19].pts)), before[20:])
    assert_the_same(list(iter_frames(path, 15, last_pts=whole[14].pts)), whole[15:])
    assert None not in seeks and len(seeks) == 3
    for wrong in (0, whole[13].pts, whole[14].pts + 1, 10**9, -5):  # no frame has it, or another
        assert_the_same(list(iter_frames(path, 15, last_pts=wrong)), whole[15:])
    assert seeks[3:] == [None] * 5
    for square in (True, False):
        wide = assets / "sar_2x1.mp4"
        frames = list(iter_frames(wide, square_pixels=square))
        part = list(iter_frames(wide, 20, square_pixels=square, last_pts=frames[19].pts))
        assert_the_same(part, frames[20:])
    with pytest.raises(ValueError, match="has 30 frames; frame 30 is beyond its end"):
        list(iter_frames(path, 30, last_pts=whole[29].pts))


def test_random_access_knows_which_encoder_made_the_file(encode, blobs):
    """Old x264 wrote 4:4:4 differently, which only the first packet tells: seeking must not lose it."""
    path = encode("old.mp4", blobs(24), pix_fmt="yuv444p", options={"g": "8", "qp": "20"})
    written = path.read_bytes()
    at = written.index(b"x264 - core ") + len(b"x264 - core ")
    path.write_bytes(written[:at] + b"100" + written[at + 3 :])
    frames = read_video(path).frames
    assert (read_clip(path, 17, 4) == frames[17:21]).all()
