import os
import shutil
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from vidtwin.video import VideoWriter, frame_count, read_video
from vidtwin.video.write.encoding import Encoding

RATES = [Fraction(25), Fraction(30000, 1001), Fraction(24), Fraction(240), Fraction(1)]


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 33, 100])
def test_count_rate_and_duration_are_exact(tmp_path, blobs, count, fps):
    path = tmp_path / "out.mp4"
    with VideoWriter(path, fps, (48, 64)) as writer:
        writer.write(blobs(count))
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.average_rate, stream.duration * stream.time_base) == (count, fps, count / fps)
    video = read_video(path)
    assert video.times == [index / fps for index in range(count)]
    assert video.fps == fps and frame_count(path) == count == len(video.frames)


@pytest.mark.parametrize("clock", [Fraction(1, 90_000), Fraction(1, 1001), Fraction(1, 600), Fraction(7, 3000), Fraction(1, 25)])
@pytest.mark.parametrize("count", [1, 2, 17, 33])
def test_given_ticks_are_kept_exactly(tmp_path, blobs, count, clock):
    ticks = (5000 + np.cumsum(np.random.default_rng(count).integers(1, 200, count))).tolist()
    path = tmp_path / "out.mp4"
    with VideoWriter(path, Fraction(25), (48, 64), clock=clock) as writer:
        for frame, tick in zip(blobs(count), ticks, strict=True):
            writer.write(frame, [tick])
        assert list(writer.ticks) == ticks
    video = read_video(path)
    assert video.times == [(tick - ticks[0]) * clock for tick in ticks]
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert stream.time_base == Fraction(1, clock.denominator)
        last = round(Fraction(1, 25) / stream.time_base) * stream.time_base
        assert stream.duration * stream.time_base == video.times[-1] + last
    assert writer.notes == []


def test_a_first_frame_before_the_origin_is_at_0(tmp_path, blobs):
    with VideoWriter(tmp_path / "out.mp4", Fraction(25), (48, 64), clock=Fraction(1, 1000), origin=Fraction(0)) as writer:
        writer.write(blobs(3), [-200, -160, -80])
    assert read_video(tmp_path / "out.mp4").times == [Fraction(tick, 1000) for tick in (0, 40, 120)]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_first_frame_after_the_origin_keeps_its_delay(tmp_path, blobs, suffix):
    path = tmp_path / f"out{suffix}"
    origin, clock = Fraction(1, 8), Fraction(1, 1000)
    with VideoWriter(path, Fraction(25), (48, 64), clock=clock, origin=origin) as writer:
        writer.write(blobs(3), [500, 540, 620])
    assert read_video(path).times == [Fraction(tick, 1000) - origin for tick in (500, 540, 620)]
    assert writer.notes == []


def test_without_ticks_the_clock_is_counted_at_the_rate(tmp_path, blobs):
    with VideoWriter(tmp_path / "out.mp4", Fraction(30), (48, 64), clock=Fraction(1, 1000)) as writer:
        writer.write(blobs(4))
    assert list(writer.ticks) == [0, 33, 67, 100]


def test_matroska_rounds_to_milliseconds_and_says_so(tmp_path, blobs):
    path = tmp_path / "out.mkv"
    with VideoWriter(path, Fraction(30), (48, 64)) as writer:
        writer.write(blobs(100))
    times = read_video(path).times
    assert times == [Fraction(round(Fraction(1000 * index, 30)), 1000) for index in range(100)]
    assert writer.notes == ["times are rounded to 1/1000 s, as .mkv stores them"]
    with VideoWriter(path, Fraction(2000), (48, 64)) as writer:  # two frames a millisecond
        writer.write(blobs(10))
    assert frame_count(path) == 10 and len(read_video(path).frames) == 10


def test_ticks_that_mp4_cannot_hold_are_rounded(tmp_path, blobs):
    path = tmp_path / "out.mp4"
    clock = Fraction(1, 3_000_000_019)
    with VideoWriter(path, Fraction(25), (48, 64), clock=clock) as writer:
        writer.write(blobs(2), [0, 120_000_000])
    assert abs(read_video(path).times[1] - 120_000_000 * clock) <= Fraction(1, 2_000_000)
    assert writer.notes == ["times are rounded to 1/1000000 s, as .mp4 stores them"]
    with VideoWriter(path, Fraction(25), (48, 64), clock=Fraction(1, 90_000)) as writer:  # more than 2^31 ticks between frames
        writer.write(blobs(2), [0, 2**33])
    assert read_video(path).times == [0, Fraction(round(Fraction(2**33, 90)), 1000)]
    assert writer.notes == ["times are rounded to 1/1000 s, as .mp4 stores them"]


def test_pixels_come_back_and_are_tagged_bt709_limited(tmp_path, blobs):
    frames = blobs(5, 96, 128)
    path = tmp_path / "out.mp4"
    with VideoWriter(path, Fraction(25), (96, 128), Encoding(crf=1)) as writer:
        writer.write(frames)
    video = read_video(path)
    assert np.abs(video.frames.astype(int) - frames).mean() < 1
    info = video.info
    assert (info.color_space, info.color_range, info.pixel_format, info.codec) == (
        "bt709",
        "limited",
        "yuv420p",
        "h264",
    )
    with av.open(path) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    head = path.read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")  # a browser can begin to play before it has all


@pytest.mark.parametrize("size", [(2, 2), (2, 64), (64, 2), (16, 1024)])
def test_small_and_long_sizes(tmp_path, size):
    path = tmp_path / "out.mp4"
    with VideoWriter(path, Fraction(25), size) as writer:
        writer.write(np.full((3, *size, 3), 200, np.uint8))
    frames = read_video(path).frames
    assert frames.shape == (3, *size, 3) and abs(frames.astype(int) - 200).max() <= 3


@pytest.mark.parametrize(
    ("size", "stored", "note"),
    [
        ((47, 64), (48, 64), "64x47 is odd; one row was repeated: 64x48"),
        ((48, 63), (48, 64), "63x48 is odd; one column was repeated: 64x48"),
        ((719, 1279), (720, 1280), "1279x719 is odd; one row and one column were repeated: 1280x720"),
        ((1, 1), (2, 2), "1x1 is odd; one row and one column were repeated: 2x2"),
    ],
)
def test_odd_sides_are_padded_and_noted(tmp_path, blobs, size, stored, note):
    frames = blobs(2, *size)
    with VideoWriter(tmp_path / "out.mp4", Fraction(25), size, Encoding(crf=1)) as writer:
        writer.write(frames)
    back = read_video(tmp_path / "out.mp4").frames.astype(int)
    assert back.shape == (2, *stored, 3) and writer.notes == [note]
    expected = np.pad(frames, ((0, 0), (0, stored[0] - size[0]), (0, stored[1] - size[1]), (0, 0)), "edge")
    assert np.abs(back - expected).mean() < 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (0, 64)}, "h264 cannot hold frames of 64x0; resize them to sides of 1 to 16384"),
        ({"size": (48, 16_386)}, "frames of 16386x48; resize them to sides"),
        ({"encoding": Encoding(crf=52)}, "crf=52: is out of range; give 0"),
        ({"encoding": Encoding(crf=-1)}, "crf=-1: "),
        ({"fps": Fraction(0)}, "frame rate of 0"),
        ({"path": "out.avi"}, "ends in .mp4"),
        ({"clock": Fraction(0)}, "ticks of 0 seconds"),
        ({"pixel_aspect": Fraction(0)}, "a pixel aspect of 0 is impossible"),
        ({"resume": True}, "nothing to resume without a job"),
    ],
)
def test_bad_arguments_are_named(tmp_path, change, message):
    arguments = {"path": "out.mp4", "fps": Fraction(25), "size": (48, 64), **change}
    arguments["path"] = tmp_path / arguments["path"]
    with pytest.raises(ValueError, match=message) as error:
        VideoWriter(**arguments)
    assert "\n" not in str(error.value)


def test_bad_frames_leave_nothing(tmp_path, blobs):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")
    with (
        pytest.raises(ValueError, match=r"give uint8 \(F, 48, 64, 3\)"),
        VideoWriter(path, Fraction(25), (48, 64)) as writer,
    ):
        writer.write(blobs(2))
        writer.write(blobs(2, 50, 64))
    with pytest.raises(ValueError, match="0 frames were written"), VideoWriter(path, Fraction(25), (48, 64)):
        pass
    for ticks, message in [
        ([0], "1 ticks for 2 frames; give one for each"),
        ([0, 0], "frame 1 is not shown after frame 0; ticks must increase"),
    ]:
        with pytest.raises(ValueError, match=message):
            with VideoWriter(path, Fraction(25), (48, 64)) as writer:
                writer.write(blobs(2), ticks)
    assert path.read_bytes() == b"older" and os.listdir(tmp_path) == ["out.mp4"]


def test_an_interrupt_leaves_nothing_and_keeps_its_kind(tmp_path, blobs):
    for kind in (KeyboardInterrupt, FileNotFoundError):
        with pytest.raises(kind), VideoWriter(tmp_path / "out.mp4", Fraction(25), (48, 64)) as writer:
            writer.write(blobs(40))
            raise kind
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; create it"):
        with VideoWriter(tmp_path / "no" / "out.mp4", Fraction(25), (48, 64)):
            pass


WRITE_NOISE = """
import resource, sys
from fractions import Fraction
import numpy as np
from vidtwin.video import VideoWriter
path, limit = sys.argv[1], int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    with VideoWriter(path, Fraction(25), (64, 64)) as writer:
        writer.write(np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8))
except OSError as error:
    print(error)
"""


def write_noise(path, limit=0):
    result = subprocess.run([sys.executable, "-c", WRITE_NOISE, str(path), str(limit)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("limit", [500, 50_000, 110_000])
def test_a_file_size_limit_is_one_clear_line(tmp_path, limit):
    path = tmp_path / "out.mp4"
    assert (
        write_noise(path, limit) == f"{path}: the file is too large for its disk or its limit; "
        "choose another output or a higher crf\n"
    )
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_one_clear_line(tmp_path):
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root to mount a small disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        path = tmp_path / "out.mp4"
        assert write_noise(path) == f"{path}: the disk is full; free some space or choose another output\n"
        assert os.listdir(tmp_path) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)
