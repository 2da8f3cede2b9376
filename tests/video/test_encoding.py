"""What each codec and container makes of frames: number, times, pixels, tags; and what is refused."""

import os
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest

from vidtwin.frames.orientation import Orientation
from vidtwin.video import VideoWriter, frame_count, iter_frames, probe, pyav, read_video
from vidtwin.video.write.encoding import Encoding, _x264_options, is_pattern, is_picture_sequence

CODECS = {
    "h264": (".mp4", ".mov", ".mkv"),
    "hevc": (".mp4", ".mov", ".mkv"),
    "vp9": (".webm", ".mkv", ".mp4"),
    "av1": (".mkv", ".webm", ".mp4"),
    "ffv1": (".mkv",),
}
PAIRS = [(codec, suffix) for codec, suffixes in CODECS.items() for suffix in suffixes]
LOSSLESS = [(codec, suffix) for codec, suffix in PAIRS if codec != "av1"]


def write(path, frames, encoding, ticks=None, checkpoints=(), **more):
    clock = None if ticks is None else Fraction(1, 1000)
    with VideoWriter(path, Fraction(25), frames.shape[1:3], encoding, clock=clock, **more) as writer:
        for index, frame in enumerate(frames):
            writer.write(frame, None if ticks is None else [ticks[index]])
            if index in checkpoints:
                writer.checkpoint({})
    return writer.notes


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are looked up in /proc")
def test_av1_makes_no_real_time_threads(tmp_path, blobs):
    with VideoWriter(
        tmp_path / "out.mkv", Fraction(25), (64, 80), Encoding("av1")
    ) as writer:  # as root SVT-AV1 makes all of them so
        for frame in blobs(70, 64, 80):
            writer.write(frame, None)
        assert {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")} == {os.SCHED_OTHER}
    assert {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")} == {os.SCHED_OTHER}


@pytest.mark.parametrize("count", [1, 2, 17, 100])
@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_keeps_every_frame_and_its_time(tmp_path, blobs, codec, count):
    frames = blobs(count, 64, 80)
    ticks = np.cumsum(np.random.default_rng(0).integers(1, 90, count)).tolist()
    for suffix in CODECS[codec] if count == 17 else CODECS[codec][:1]:
        path = tmp_path / f"out{suffix}"
        assert write(path, frames, Encoding(codec), ticks, checkpoints=(0, 1, 9, count - 1)) == []
        video = read_video(path)
        assert video.times == [Fraction(tick - ticks[0], 1000) for tick in ticks]
        assert frame_count(path) == count
        # Each frame is most like itself: they come in order, the ones around a checkpoint too.
        back, small = video.frames.astype(int), frames.astype(int)
        for index in range(0, count, 7):
            others = range(max(0, index - 2), min(count, index + 3))
            distances = [np.abs(back[index] - small[other]).mean() for other in others]
            assert distances[index - others[0]] == min(distances) < 8


@pytest.mark.parametrize(("codec", "suffix"), PAIRS)
def test_constant_rates_are_stated(tmp_path, blobs, codec, suffix):
    path = tmp_path / f"out{suffix}"
    write(path, blobs(10, 64, 64), Encoding(codec))
    info = probe(path)
    assert info.fps == 25 and info.codec.startswith({"av1": "av1"}.get(codec, codec))
    with av.open(path) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        if codec != "ffv1":
            assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
            assert context.pix_fmt == "yuv420p"
        assert all(packet.pts == packet.dts for packet in container.demux(stream) if packet.size)
        if suffix in (".mp4", ".mov") and codec == "hevc":
            assert context.codec_tag == "hvc1"
    if suffix in (".mp4", ".mov"):
        head = path.read_bytes()
        assert head.index(b"moov") < head.index(b"mdat")


@pytest.mark.parametrize(("codec", "suffix"), LOSSLESS)
def test_lossless_keeps_every_value_at_odd_sizes(tmp_path, codec, suffix):
    frames = np.random.default_rng(0).integers(0, 256, (5, 65, 67, 3), dtype=np.uint8)
    path = tmp_path / f"out{suffix}"
    assert write(path, frames, Encoding(codec, lossless=codec != "ffv1"), checkpoints=(2,)) == []
    video = read_video(path)
    assert np.array_equal(video.frames, frames)
    assert video.info.color_space == "rgb" and video.info.color_range == "full"


@pytest.mark.parametrize(("codec", "suffix"), PAIRS)
@pytest.mark.parametrize("aspect", [Fraction(16, 11), Fraction(3, 4)])
def test_the_pixel_aspect_is_kept(tmp_path, blobs, codec, suffix, aspect):
    path = tmp_path / f"out{suffix}"
    write(path, blobs(2, 64, 88), Encoding(codec), pixel_aspect=aspect)
    with av.open(path) as container:
        stated = container.streams.video[0].sample_aspect_ratio
        assert stated == (Fraction(round(88 * aspect), 88) if suffix in (".mkv", ".webm") else aspect)
    info = probe(path)
    assert (info.width, info.height) == (round(88 * aspect), 64)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_orientation_is_stored_where_players_heed_it(tmp_path, blobs, suffix):
    frames = blobs(2, 64, 88)
    for turned in [Orientation(*flags) for flags in product([False, True], repeat=3)]:
        path = tmp_path / f"out{suffix}"
        write(path, frames, Encoding(crf=4), pixel_aspect=Fraction(4, 3), orientation=turned)
        with av.open(path) as container:
            stream = container.streams.video[0]
            stored = turned if suffix in (".mp4", ".mov") and pyav.TURNS else Orientation()
            assert (stream.height, stream.width) == stored.size((64, 88))
            if suffix in (".mp4", ".mov"):
                assert stream.sample_aspect_ratio == (Fraction(3, 4) if stored.transposed else Fraction(4, 3))
            decoded = next(container.decode(stream))
            assert Orientation.of(decoded) == stored
            info = probe(path)
            assert info.width / info.height == pytest.approx(88 / 64 * 4 / 3, abs=0.01)
            older = next(iter_frames(path, square_pixels=False)).image  # whose own conversion takes all for BT.601
            upright = stored.upright(decoded.to_ndarray(format="rgb24")) if pyav.TURNS else older
        assert np.abs(upright.astype(int) - frames[0]).mean() < 4


@pytest.mark.parametrize("codec", CODECS)
def test_the_same_frames_give_the_same_bytes(tmp_path, blobs, codec):
    frames = blobs(30, 96, 128)
    for name in ("a", "b"):
        write(tmp_path / f"{name}{CODECS[codec][-1]}", frames, Encoding(codec), checkpoints=(11,))
    a, b = ((tmp_path / f"{name}{CODECS[codec][-1]}").read_bytes() for name in ("a", "b"))
    assert a == b


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("fps", [Fraction(1, 60), Fraction(30_000, 1001), Fraction(1000)])
def test_slow_and_fast_rates(tmp_path, blobs, codec, fps):
    path = tmp_path / f"out{CODECS[codec][-1]}"
    with VideoWriter(path, fps, (64, 64), Encoding(codec)) as writer:
        writer.write(blobs(3, 64, 64))
    exact = [index / fps for index in range(3)]
    assert all(abs(got - want) <= Fraction(1, 2000) for got, want in zip(read_video(path).times, exact, strict=True))


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "av1"])
def test_quality_and_its_default(tmp_path, blobs, codec):
    frames = blobs(4, 96, 128)
    noisy = np.clip(frames + np.random.default_rng(0).normal(0, 12, frames.shape), 0, 255).astype(np.uint8)
    sizes = []
    for crf in (1, None, 45):
        path = tmp_path / f"out{CODECS[codec][0]}"
        write(path, noisy, Encoding(codec, crf))
        sizes.append(path.stat().st_size)
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize(
    ("path", "encoding", "message"),
    [
        ("out.avi", Encoding(), "out.avi: videos are written as .mp4, .m4v, .mov, .mkv, .webm.*ends in .mp4"),
        ("out.png", Encoding(), "out.png: is one picture; name a folder"),
        ("out.webm", Encoding("h264"), "codec='h264': out.webm cannot hold it; choose vp9 or av1, or .* ends in .mp4"),
        ("out.mov", Encoding("vp9"), "codec='vp9': out.mov cannot hold it; choose h264 or hevc, or .* ends in .webm"),
        ("out.mp4", Encoding("ffv1"), "codec='ffv1': out.mp4 cannot hold it.*ends in .mkv"),
        ("out.mp4", Encoding("png"), "codec='png': out.mp4 is one file; name a folder"),
        ("out/", Encoding("h264"), "codec='h264': out/ is a folder of pictures; name a file"),
        ("out.mp4", Encoding("mpeg2"), "codec='mpeg2': is not one of auto, h264"),
        ("out.mp4", Encoding(crf=52), r"crf=52: is out of range; give 0 \(best\) to 51 \(worst\) for h264"),
        ("out.mkv", Encoding("av1", 0), r"crf=0: is out of range; give 1 \(best\) to 63 \(worst\) for av1"),
        ("out.webm", Encoding(crf=64), r"crf=64: is out of range; give 0 \(best\) to 63 \(worst\) for vp9"),
        ("out.mp4", Encoding(crf=10, lossless=True), "crf=10: lossless=True keeps every pixel.*leave crf out"),
        ("out.mkv", Encoding("ffv1", crf=10), "crf=10: ffv1 keeps every pixel"),
        ("out", Encoding(crf=10), "crf=10: png keeps every pixel"),
        ("out.mkv", Encoding("av1", lossless=True), "lossless=True: av1 is not written without loss; choose codec='ffv1'"),
        (
            "small.mp4",
            Encoding("hevc"),
            "hevc cannot hold frames of 62x48; resize them to sides of 64 to 16384, or choose codec='h264'",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(path, encoding, message):
    with pytest.raises(ValueError, match=message) as error:
        encoding.check(path, (48, 62))
    assert "\n" not in str(error.value)


def test_what_can_be_is_not_refused(tmp_path):
    for codec, suffix in PAIRS:
        Encoding(codec).check(f"out{suffix.upper()}")
        Encoding(codec, lossless=codec != "av1").check(f"out{suffix}", (1080, 1919))
    for path in ("out", "out/", "out/%05d.png", str(tmp_path)):
        assert is_picture_sequence(path)
        Encoding().check(path, (1, 1))
    assert is_pattern("a%d.png") and is_pattern("100%%%03d.PNG")
    assert not any(map(is_pattern, ("a%d%d.png", "a%s.png", "100%.png", "%%d.png", "%d.jpg", "%d/a.png")))


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "av1"])
def test_fast_keeps_every_frame_at_about_the_same_quality(tmp_path, blobs, codec):
    frames = blobs(16, 96, 128)
    errors = []
    for fast in (False, True):
        path = tmp_path / f"{fast}.mkv"
        write(path, frames, Encoding(codec, fast=fast))
        errors.append(np.square(read_video(path).frames.astype(float) - frames).mean())
    assert (tmp_path / "True.mkv").read_bytes() != (tmp_path / "False.mkv").read_bytes()
    assert errors[1] < 1.5 * errors[0] + 1


def test_x264_keeps_to_avx2_where_its_wider_code_is_not_repeatable(tmp_path):
    wide, narrow = tmp_path / "wide", tmp_path / "narrow"
    wide.write_text("flags : sse2 avx2 avx512f avx512bw\n")
    narrow.write_text("flags : sse2 avx2\n")
    assert _x264_options(wide) == {"x264-params": "asm=avx2"}
    assert _x264_options(narrow) == _x264_options(tmp_path / "none") == {}
