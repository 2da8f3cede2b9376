import os
import shutil
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from vidtwin.video import VideoWriter, frame_count, probe, read_video

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


@pytest.mark.parametrize("count", [1, 2, 17, 33])
def test_given_times_are_kept(tmp_path, blobs, count):
    gaps = np.random.default_rng(count).integers(1, 200, count)
    times = [Fraction(int(tick), 1001) for tick in np.cumsum(gaps)]
    path = tmp_path / "out.mp4"
    with VideoWriter(path, Fraction(25), (48, 64), times=times) as writer:
        for frame in blobs(count):
            writer.write(frame)
    video = read_video(path)
    assert all(abs(got - (asked - times[0])) <= Fraction(1, 180_000) for got, asked in zip(video.times, times, strict=True))
    assert probe(path).duration == pytest.approx(float(times[-1] - times[0] + Fraction(1, 25)), abs=2e-5)


def test_pixels_come_back_and_are_tagged_bt709_limited(tmp_path, blobs):
    frames = blobs(5, 96, 128)
    path = tmp_path / "out.mp4"
    with VideoWriter(path, Fraction(25), (96, 128), crf=1) as writer:
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
    ("change", "message"),
    [
        ({"size": (47, 64)}, "64x47; resize them to even"),
        ({"size": (0, 64)}, "even sides"),
        ({"crf": 52}, "--crf 52 is out of range; give 0"),
        ({"crf": -1}, "--crf -1"),
        ({"fps": Fraction(0)}, "frame rate of 0"),
        ({"path": "out.avi"}, "ends in .mp4"),
        ({"times": [Fraction(0), Fraction(0)]}, "frame 1 is not shown after frame 0"),
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
    times = [Fraction(0), Fraction(1)]
    with pytest.raises(ValueError, match="1 frames were written; write 2"):
        with VideoWriter(path, Fraction(25), (48, 64), times=times) as writer:
            writer.write(blobs(1))
    with pytest.raises(ValueError, match="more frames than the 2 times"):
        with VideoWriter(path, Fraction(25), (48, 64), times=times) as writer:
            writer.write(blobs(3))
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
        "choose another output or a higher --crf\n"
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
