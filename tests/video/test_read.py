import gc
import shutil
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest

from vidtwin.video import VideoWarning, VideoWriter, frame_count, iter_frames, probe, read_clip, read_video
from vidtwin.video.orientation import UPRIGHT, Orientation

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
    assert {tag: getattr(frame, tag) for tag in rare} == rare
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
    path = encode("grays.mkv", [grays], "ffv1", pix_fmt, tags={"colorspace": 6, "color_range": 1})
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
    from vidtwin.video import in_order

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


def test_half_a_file_gives_what_is_there_and_one_warning(tmp_path, blobs):
    path, half = tmp_path / "whole.mp4", tmp_path / "half.mp4"
    with VideoWriter(path, Fraction(25), (48, 64)) as writer:
        writer.write(blobs(60))
    half.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.warns(VideoWarning) as caught:
        video = read_video(half)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert f"half.mp4: only {len(video.frames)} of 60 frames" in str(caught[0].message)
    assert 0 < len(video.frames) < 60
    assert (read_clip(half, 0, 5) == video.frames[:5]).all()


def test_flipped_bytes_keep_all_frames_that_decode(assets):
    with pytest.warns(VideoWarning, match="decoded frames are damaged") as caught:
        video = read_video(assets / "bitflips.mp4")
    assert len(video.frames) == 50 and len(caught) == 1


def test_a_destroyed_packet_is_skipped(encode, blobs):
    path = encode("broken.mp4", blobs(30), "mjpeg", "yuvj420p")
    with av.open(path) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][10]
        begin, size = packet.pos, packet.size
    written = bytearray(path.read_bytes())
    written[begin : begin + size] = bytes(size)
    path.write_bytes(written)
    with pytest.warns(VideoWarning, match="only 29 of 30 frames") as caught:
        video = read_video(path)
    assert len(video.frames) == 29 and len(caught) == 1 and video.times[10] == Fraction(11, 25)
    assert (read_clip(path, 11, 2) == video.frames[10:12]).all()  # numbered as stored
    with pytest.raises(ValueError, match="frame 10 cannot be decoded"):
        read_clip(path, 9, 3)


def test_what_is_no_video_is_refused_in_one_line(assets, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is not a video\n")
    (tmp_path / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "random.mp4").write_bytes(noise)
    (tmp_path / "cut.mp4").write_bytes((assets / "h264_aac.mp4").read_bytes()[:32])
    cases = {
        tmp_path / "none.mp4": (FileNotFoundError, "no such file"),
        tmp_path: (IsADirectoryError, "is a folder"),
        tmp_path / "empty.mp4": (ValueError, "is empty"),
        tmp_path / "text.mp4": (ValueError, "not a video file"),
        tmp_path / "playlist.mp4": (ValueError, "playlist"),
        tmp_path / "random.mp4": (ValueError, "not a video file"),
        tmp_path / "cut.mp4": (ValueError, "is cut off"),
        assets / "audio_only.mp4": (ValueError, "has no video, only audio"),
        assets / "cover_art_only.m4a": (ValueError, "only audio, cover art"),
        "/dev/null": (OSError, "not a regular file"),
    }
    for path, (kind, message) in cases.items():
        for use in (probe, read_video, frame_count, lambda path: read_clip(path, 0, 1)):
            with pytest.raises(kind, match=message) as error:
                use(path)
            assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
            assert "; " in str(error.value)  # the remedy


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2,\nreal.ts\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2,\nreal.ts\n#EXT-X-ENDLIST\n"),
        ("concat.mp4", "ffconcat version 1.0\nfile real.ts\n"),
        ("session.mp4", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 33\n"),
        ("subtitles.mp4", "WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n"),
    ],
)
def test_what_names_other_files_is_refused(assets, tmp_path, name, text):
    shutil.copy(assets / "start_offset.ts", tmp_path / "real.ts")
    (tmp_path / name).write_text(text)
    for use in (probe, read_video, frame_count):
        with pytest.raises(ValueError, match="is a playlist, or of a format that is not read|is not a video file") as error:
            use(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(error.value)


def test_pictures_beyond_the_bound_are_refused(assets, encode, blobs, monkeypatch):
    gif = encode("a.gif", blobs(2), "gif", "rgb8")
    for side in (65535, 12000):  # the latter FFmpeg itself would take
        gif.write_bytes(gif.read_bytes()[:6] + side.to_bytes(2, "little") * 2 + gif.read_bytes()[10:])
        with pytest.raises(ValueError, match="a.gif: "):
            probe(gif)
    wide = encode("wide.mp4", blobs(2), aspect=Fraction(4))
    monkeypatch.setattr("vidtwin.video.pictures.MAX_PIXELS", 4 * 64 * 48 - 1)
    with pytest.raises(ValueError, match="wide.mp4: its pictures are 256x48, more than .* pixels; scale it down first"):
        probe(wide)
    assert next(iter_frames(wide, square_pixels=False)).image.shape == (48, 64, 3)
    monkeypatch.setattr("vidtwin.video.decode.MAX_PIXELS", 64 * 48 - 1)
    for use in (probe, read_video, frame_count):
        with pytest.raises(ValueError, match="wide.mp4: its pictures are 64x48, more than"):
            use(wide)


def test_thousands_of_streams_are_refused(assets, tmp_path):
    written = (assets / "h264_aac.mp4").read_bytes()
    moov, trak = written.index(b"moov") - 4, written.index(b"trak") - 4
    size = int.from_bytes(written[moov : moov + 4], "big")
    track = written[trak : trak + int.from_bytes(written[trak : trak + 4], "big")]
    more = (size + 5000 * len(track)).to_bytes(4, "big") + written[moov + 4 : moov + size] + track * 5000
    (tmp_path / "many.mp4").write_bytes(written[:moov] + more + written[moov + size :])
    with pytest.raises(ValueError, match="many.mp4: states more than 256 streams"):
        probe(tmp_path / "many.mp4")


def test_packets_without_end_are_given_up(encode, blobs, monkeypatch):
    path = encode("barren.mp4", blobs(40), "mjpeg", "yuvj420p")
    with av.open(path) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    written = bytearray(path.read_bytes())
    for position, size in packets[5:]:
        written[position : position + size] = bytes(size)
    path.write_bytes(written)
    with pytest.warns(VideoWarning, match="only 5 of 40 frames"):
        assert len(list(iter_frames(path))) == 5
    monkeypatch.setattr("vidtwin.video.decode.MAX_BARREN", 20)
    with pytest.warns(VideoWarning, match="only 5 of 40 frames"):
        assert len(list(iter_frames(path))) == 5
    assert frame_count(path) == 40  # as stored
    for position, size in packets[:5]:
        written[position : position + size] = bytes(size)
    path.write_bytes(written)
    for use in (probe, read_video, frame_count):
        with pytest.raises(ValueError, match="no frame could be decoded"):
            use(path)


def test_streams_that_appear_late_do_not_end_reading():
    """PyAV raises an IndexError of its own after the flush; it depends on memory that it does not own, so it is played here."""
    from vidtwin.video.decode import Tally, demux_packets

    class Container:
        def demux(self, stream):
            yield from ("packet", "flush")
            raise IndexError

    tally = Tally()
    assert list(demux_packets(Container(), None, tally)) == ["packet", "flush"] and tally.refused == 0


def test_frames_are_let_go(assets):
    """A decoded frame that refers to itself would wait for the garbage collector, and hundreds pile up until it comes."""
    gc.collect()
    gc.disable()
    try:
        for number, _ in enumerate(iter_frames(assets / "rot90.mp4")):
            if number % 20 == 19:
                assert sum(type(thing) is av.VideoFrame for thing in gc.get_objects()) < 10
    finally:
        gc.enable()


def test_odd_names_and_wrong_extensions(assets, tmp_path):
    for name in ("spaces & ünïcode (1).mp4", "http:a.mp4", "no_extension", "really_mp4.avi", "-i.mp4", "50%d.mp4"):
        shutil.copy(assets / "vfr_jitter.mp4", tmp_path / name)
        assert frame_count(tmp_path / name) == 36


def test_a_replaced_file_is_indexed_again(encode, blobs):
    assert frame_count(encode("a.mp4", blobs(3))) == 3
    assert frame_count(encode("a.mp4", blobs(9))) == 9
