import shutil
import warnings
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from vidtwin.frames.orientation import UPRIGHT, Orientation
from vidtwin.video import VideoWriter, frame_count, iter_frames, probe, read_clip, read_video
from vidtwin.video.read.reader import info_of

LOSSLESS = {"qp": "0"}
COLOURS = [
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
    (128, 128, 128),
    (200, 30, 90),
    (17, 99, 240),
]

# file: frames, (height, width), seconds from the first frame to the last
READABLE = {
    "h264_aac.mp4": (50, (180, 320), 1.96),
    "rot90.mp4": (50, (320, 180), 1.96),
    "fragmented.mp4": (50, (180, 320), 1.96),
    "start_offset.ts": (50, (180, 320), 1.96),
    "starts_mid_gop.ts": (30, (180, 320), 0.9676),
    "vfr_jitter.mp4": (36, (180, 320), 1.9352),
    "h264_fullrange.mp4": (30, (180, 320), 0.9676),
    "h264_10bit.mp4": (30, (180, 320), 0.9676),
    "hevc_10bit.mp4": (30, (180, 320), 0.9676),
    "hevc_gray.mp4": (30, (180, 320), 0.9676),
    "sar_2x1.mp4": (30, (180, 640), 0.9676),
    "tiny_2x2.mp4": (30, (2, 4), 0.9676),
    "interlaced_tff.mp4": (15, (180, 320), 0.9343),
    "vp8_alpha.webm": (30, (180, 320), 0.968),
    "really_webm.mp4": (45, (180, 320), 1.468),
    "mpeg4.avi": (45, (180, 320), 1.4681),
    "anim.webp": (12, (90, 160), 0.367),
}


@pytest.mark.parametrize("name", READABLE)
def test_real_files_are_read_whole_and_at_random(assets, name):
    path = assets / name
    frames, size, span = READABLE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        video = read_video(path)
    assert video.frames.shape == (frames, *size, 3) and video.frames.dtype == np.uint8
    assert (video.info.height, video.info.width) == size
    assert float(video.times[-1] - video.times[0]) == pytest.approx(span, abs=1e-3)
    assert all(before < after for before, after in zip(video.times, video.times[1:], strict=False))
    assert frame_count(path) == frames
    assert video.info.frames in (frames, None)
    rng = np.random.default_rng(len(name))
    for _ in range(4):
        stride = int(rng.integers(1, 4))
        count = int(rng.integers(1, frames // stride))
        start = int(rng.integers(0, frames - (count - 1) * stride))
        assert (read_clip(path, start, count, stride) == video.frames[start::stride][:count]).all()


def test_probe_says_what_the_file_says(assets):
    info = probe(assets / "rot90.mp4")
    assert (info.width, info.height, info.frames, info.fps, info.duration) == (180, 320, 50, 25, 2.0)
    assert (info.codec, info.pixel_format, info.rotation, info.has_audio) == ("h264", "yuv420p", 90, True)
    assert (info.color_space, info.color_range) == ("bt709", "limited")
    assert probe(assets / "h264_fullrange.mp4").color_range == "full"
    assert probe(assets / "fragmented.mp4").frames is None
    assert not probe(assets / "sar_2x1.mp4").has_audio
    assert (info.time_base, info.stored_size, info.pixel_aspect) == (Fraction(1, 12800), (320, 180), 1)
    assert info.orientation == Orientation(True, True, False) and probe(assets / "h264_aac.mp4").orientation == UPRIGHT
    assert info.start_time == 0 and 95001 < probe(assets / "start_offset.ts").start_time < 95002
    assert info.notes == ()


def test_frames_are_expected_as_stated_or_by_duration_and_rate(assets):
    stated = probe(assets / "h264_aac.mp4")
    assert (stated.frames, stated.expected_frames) == (50, 50)
    assert replace(stated, frames=None, duration=2.01).expected_frames == 50
    assert replace(stated, frames=None, duration=None).expected_frames is None
    assert (probe(assets / "vp8_alpha.webm").frames, probe(assets / "vp8_alpha.webm").expected_frames) == (None, 30)


def test_what_is_probed_is_not_probed_again(assets, monkeypatch):
    info = probe(assets / "h264_aac.mp4")
    assert info_of(assets / "h264_aac.mp4") == info
    monkeypatch.setattr("vidtwin.video.read.reader.probe", None)
    assert info_of(info) is info


def test_notes_say_what_is_lost(assets, encode, blobs):
    ten = ("10 bits a channel are read as 8",)
    assert probe(assets / "h264_10bit.mp4").notes == probe(assets / "hevc_10bit.mp4").notes == ten
    woven = ("is interlaced; fields are kept woven together, not deinterlaced",)
    assert probe(assets / "interlaced_tff.mp4").notes == woven
    see_through = ("transparency is dropped: what is see-through shows the colour stored under it",)
    assert probe(assets / "vp8_alpha.webm").notes == see_through
    assert probe(encode("alpha.mkv", blobs(1), "ffv1", "bgra")).notes == ()  # every pixel of it is opaque
    assert probe(encode("alpha.mov", blobs(1), "prores_ks", "yuva444p10le")).notes == (
        "12 bits a channel are read as 8",
        *see_through,
    )
    odd = encode("odd.mov", blobs(1), "prores_ks", "yuv422p10le", tags={"colorspace": 9})
    written = bytearray(odd.read_bytes())
    written[written.index(b"icpf") + 20] = 14  # ICtCp
    odd.write_bytes(written)
    assert probe(odd).notes[1] == "its colour matrix (H.273 number 14) is not known here and taken for bt601"


def test_stored_pixels(assets, encode, blobs):
    info = probe(assets / "sar_2x1.mp4")
    assert (info.width, info.height, info.stored_size, info.pixel_aspect) == (640, 180, (180, 320), 2)
    assert next(iter_frames(assets / "sar_2x1.mp4", square_pixels=False)).image.shape == (180, 320, 3)
    turned = (0, 1, 0, -1, 0, 0, 0, 0, 1)
    path = encode("turned.mp4", blobs(3), options=LOSSLESS, matrix=turned, aspect=Fraction(2))
    info = probe(path)
    assert (info.width, info.height, info.stored_size, info.pixel_aspect) == (48, 128, (64, 48), Fraction(1, 2))
    stored = [frame.image for frame in iter_frames(path, square_pixels=False)]
    plain = read_video(encode("plain.mp4", blobs(3), options=LOSSLESS)).frames
    assert (np.stack(stored) == np.stack([info.orientation.upright(picture) for picture in plain])).all()


def test_start_and_stop(assets):
    path = assets / "h264_aac.mp4"
    whole = read_video(path)
    part = read_video(path, 20, 30)
    assert (part.frames == whole.frames[20:30]).all() and part.times == whole.times[20:30]
    assert len(read_video(path, 45, 90).frames) == 5
    assert next(iter_frames(path, 3)).time == Fraction(3, 25)
    for start, stop in ((-1, None), (5, 5), (5, 2)):
        with pytest.raises(ValueError, match="0 <= start < stop"):
            iter_frames(path, start, stop)
    with pytest.raises(ValueError, match="has 50 frames; frame 50 is beyond its end"):
        read_video(path, 50)


def test_clips_outside_the_video_are_refused(assets):
    path = assets / "vfr_jitter.mp4"
    assert len(read_clip(path, 35, 1)) == 1
    for start, count, stride in ((36, 1, 1), (0, 37, 1), (0, 13, 3), (-1, 2, 1), (0, 0, 1), (0, 2, 0)):
        with pytest.raises(ValueError, match="has 36 frames"):
            read_clip(path, start, count, stride)


def test_a_rotated_file_is_the_plain_one_turned(assets):
    plain, turned = read_video(assets / "h264_aac.mp4", 0, 3), read_video(assets / "rot90.mp4", 0, 3)
    assert (turned.frames == np.rot90(plain.frames, axes=(1, 2))).all()


@pytest.mark.parametrize("horizontal", [1, -1])
@pytest.mark.parametrize("vertical", [1, -1])
@pytest.mark.parametrize("turned", [False, True])
def test_all_eight_orientations(encode, blobs, turned, vertical, horizontal):
    """Display matrix (a b u, c d v, x y w): the pixel at (x, y) goes to (a x + c y, b x + d y)."""
    matrix = (0, vertical, 0, horizontal, 0, 0, 0, 0, 1) if turned else (horizontal, 0, 0, 0, vertical, 0, 0, 0, 1)
    stored = read_video(encode("stored.mp4", blobs(1), options=LOSSLESS)).frames[0]
    shown = read_video(encode("shown.mp4", blobs(1), options=LOSSLESS, matrix=matrix)).frames[0]
    expected = stored.transpose(1, 0, 2) if turned else stored
    assert (shown == expected[::vertical, ::horizontal]).all()


@pytest.fixture
def stripes():
    return lambda height: np.repeat(np.array(COLOURS, np.uint8)[None], height, axis=0).repeat(16, axis=1)


@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize("full", [False, True])
def test_tagged_colours(encode, stripes, matrix, full):
    tags = {"color_range": 2 if full else 1, "colorspace": matrix}
    path = encode("colours.mp4", [stripes(48)], options=LOSSLESS, tags=tags)
    picture = read_video(path).frames[0].astype(int)
    assert np.abs(picture[24, 8::16] - np.array(COLOURS)).max() <= 3
    info = probe(path)
    assert info.color_space == {1: "bt709", 6: "bt601", 9: "bt2020"}[matrix]
    assert info.color_range == ("full" if full else "limited")


@pytest.mark.parametrize("rare", [{"color_primaries": 3}, {"color_trc": 3}, {"colorspace": 10}])
def test_reserved_tags_and_constant_luminance_change_nothing(encode, blobs, rare):
    path = encode("tags.mov", blobs(1), "prores_ks", "yuv422p10le", tags={"colorspace": 9})
    expected = read_video(path).frames
    written = bytearray(path.read_bytes())
    at = written.index(b"icpf") + 18  # where the frame's header tells its primaries, transfer and matrix
    for place, tag in enumerate(("color_primaries", "color_trc", "colorspace")):
        written[at + place] = rare.get(tag, written[at + place])
    path.write_bytes(written)
    with av.open(path) as container:
        frame = next(container.decode(video=0))
    assert {tag: getattr(frame, tag, value) for tag, value in rare.items()} == rare  # PyAV 15 does not tell all
    assert (read_video(path).frames == expected).all() and probe(path).color_space == "bt2020"


@pytest.mark.parametrize(("height", "matrix", "name"), [(48, 6, "bt601"), (720, 1, "bt709")])
def test_untagged_colours_are_bt709_from_720_lines_else_bt601(encode, stripes, height, matrix, name):
    tags = {"colorspace": matrix}  # only converts the pixels: MPEG-4 part 2 in AVI keeps no tag
    path = encode("untagged.avi", [stripes(height)], "mpeg4", options={"qmin": "1", "qmax": "1"}, tags=tags)
    assert probe(path).color_space == name
    picture = read_video(path).frames[0].astype(int)
    assert np.abs(picture[height // 2, 8::16] - np.array(COLOURS)).max() <= 3


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv422p", "yuv444p", "gray"])
def test_other_pixel_formats(encode, pix_fmt):
    grays = np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[None, :, None], 48, axis=0).repeat(4, axis=1).repeat(3, axis=2)
    path = encode("grays.mkv", [grays], "ffv1", pix_fmt, tags={"colorspace": 6, "color_range": 2 if pix_fmt == "gray" else 1})
    info = probe(path)
    assert info.pixel_format == pix_fmt
    assert np.abs(read_video(path).frames[0].astype(int) - grays).max() <= 2


def test_odd_sizes_and_pixel_aspect(encode, blobs):
    frames = blobs(2, 47, 63)
    assert read_video(encode("odd.mp4", frames, pix_fmt="yuv444p")).frames.shape == (2, 47, 63, 3)
    wide = encode("wide.mp4", frames, pix_fmt="yuv444p", aspect=Fraction(4, 3))
    assert (probe(wide).height, probe(wide).width) == read_video(wide).frames.shape[1:3] == (47, 84)
    absurd = encode("absurd.mp4", frames, pix_fmt="yuv444p", aspect=Fraction(200))
    assert probe(absurd).width == 63


def test_one_frame(tmp_path, blobs):
    path = tmp_path / "one.mp4"
    with VideoWriter(path, Fraction(25), (48, 64)) as writer:
        writer.write(blobs(1))
    assert read_video(path).frames.shape == read_clip(path, 0, 1).shape == (1, 48, 64, 3)
    assert frame_count(path) == 1


def test_variable_frame_rate_is_exact(encode, blobs):
    pts = [0, 1, 5, 6, 20]
    video = read_video(encode("vfr.mp4", blobs(5), pts=pts, options={"bf": "0"}))
    assert video.times == [Fraction(tick, 25) for tick in pts]
    frames = list(iter_frames(video.info.path))
    assert [frame.duration * frame.time_base * 25 for frame in frames[:4]] == [1, 4, 1, 14] and frames[4].duration > 0


def test_missing_timestamps_follow_the_frame_rate(encode, blobs):
    video = read_video(encode("raw.h264", blobs(4)))
    assert video.times == [Fraction(index, 25) for index in range(4)]


def test_avi_with_reordered_frames_keeps_their_pace(encode, blobs):
    video = read_video(encode("b.avi", blobs(12), options={"bf": "3", "b-adapt": "0"}))
    assert {b - a for a, b in pairwise(video.times)} == {Fraction(1, 25)}
    assert np.abs(video.frames.astype(int) - blobs(12)).mean() < 12  # in the order they are shown


def test_a_matroska_file_that_is_cut_off_is_said(encode, blobs):
    path = encode("in.mkv", blobs(20), codec="ffv1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_video(path).frames) == 20
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match=f"last {len(content) - len(content) // 2} bytes are missing; get the file again"):
        assert 1 < len(read_video(path).frames) < 20


def test_frames_cut_away_by_an_edit_list_are_not_missed(encode, blobs):
    path = encode("edited.mp4", blobs(20), options={"bf": "0"})
    written = bytearray(path.read_bytes())
    at = written.index(b"elst") + 16  # version, count, duration, then the media time: skip 5 frames of 512 ticks
    written[at : at + 4] = (5 * 512).to_bytes(4, "big")
    path.write_bytes(written)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        video = read_video(path)
    assert len(video.frames) == frame_count(path) == video.info.frames == 15
    assert (read_clip(path, 2, 3) == video.frames[2:5]).all()


def test_a_change_of_size_is_scaled_to_the_first(encode, blobs, tmp_path):
    small, large = encode("small.h264", blobs(3)), encode("large.h264", blobs(3, 96, 128))
    path = tmp_path / "both.h264"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    frames = read_video(path).frames
    assert frames.shape == (6, 48, 64, 3)
    assert np.abs(frames[3].astype(int) - frames[0]).mean() < 12  # the same blobs, drawn finer
    assert (read_clip(path, 2, 3) == frames[2:5]).all()


def test_odd_names_and_wrong_extensions(assets, tmp_path):
    for name in ("spaces & ünïcode (1).mp4", "http:a.mp4", "no_extension", "really_mp4.avi", "-i.mp4", "50%d.mp4"):
        shutil.copy(assets / "vfr_jitter.mp4", tmp_path / name)
        assert frame_count(tmp_path / name) == 36


def test_a_replaced_file_is_indexed_again(encode, blobs):
    assert frame_count(encode("a.mp4", blobs(3))) == 3
    assert frame_count(encode("a.mp4", blobs(9))) == 9
