import json
import os
import signal
import subprocess
import sys
from fractions import Fraction

import pytest

from tests.data.conftest import lerobot
from vidtwin.data.check import check_data
from vidtwin.frames.shots import CutDetector
from vidtwin.video import VideoWriter, read_video


@pytest.fixture
def folder(grey, assets, tmp_path):
    """Two real videos, a slow one, a short one, a broken one, and one damaged in the middle."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("h264_aac.mp4", "rot90.mp4", "audio_only.mp4"):
        (videos / name).write_bytes((assets / name).read_bytes())
    grey("videos/slow.mp4", 40, fps=5)
    grey("videos/short.mp4", 15)
    data = bytearray((assets / "h264_aac.mp4").read_bytes())
    data[14_000:24_000] = bytes(10_000)
    (videos / "zeroed.mp4").write_bytes(data)
    return videos


def test_everything_is_counted_and_named(folder):
    calls = []
    report = check_data(folder, frames=16, sample_fps=12.0, progress=lambda *call: calls.append(call))
    assert (report.recordings, report.slower) == (6, 1)
    assert [name for name, _ in report.broken] == [str(folder / "audio_only.mp4")]
    assert report.broken[0][1] == "has no video, only audio; choose a video file"
    assert report.too_short[0] == (str(folder / "short.mp4"), "15 frames, a clip needs 31")  # 25 -> 12.5, every other frame
    assert str(folder / "zeroed.mp4") in dict(report.damaged)
    whole = 50 + 50 + 40 + 15
    assert whole < report.frames <= whole + 50
    assert report.width == (48, 180, 320) and report.fps == (5, 25, 25)
    assert report.height is not None and report.height.high == 320  # rot90
    assert report.duration is not None and report.duration.low == pytest.approx(15 / 25)
    assert report.duration.high == pytest.approx(40 / 5)
    assert calls == [(done, 6) for done in range(1, 7)]
    assert check_data(folder).slower == 0


def test_the_report_is_for_people_and_for_json(folder):
    report = check_data(folder)
    record = json.loads(json.dumps(report.to_dict()))
    assert record["recordings"] == 6
    assert record["fps"] == {"low": 5, "median": 25, "high": 25}
    table = report.table()
    assert "recordings    6\n" in table
    assert f"broken: {folder / 'audio_only.mp4'}: has no video" in table
    assert "5 to 25, median 25" in table


def test_workers_change_nothing(folder):
    assert check_data(folder, workers=2) == check_data(folder)


def test_episodes_of_a_shared_file_are_counted_each(tmp_path):
    report = check_data(lerobot(tmp_path / "set", "v3.0"), frames=10)
    assert report.recordings == 6
    assert report.frames == 2 * (12 + 20 + 9)
    assert report.clips == 2 * (1 + 2 + 0)
    assert len(report.too_short) == 2
    assert report.duration is not None and tuple(report.duration) == pytest.approx((0.9, 1.2, 2.0))
    (tmp_path / "set" / "videos" / "observation.images.top" / "chunk-000" / "file-000.mp4").unlink()
    assert len(check_data(tmp_path / "set").broken) == 2


def test_a_source_of_broken_videos_has_a_report(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    report = check_data(tmp_path)
    assert (report.usable, report.frames, report.width) == (0, 0, None)
    assert report.table()
    with pytest.raises(ValueError, match="frames=0"):
        check_data(tmp_path, frames=0)


def test_one_cut_between_two_clips_that_are_joined(assets, tmp_path):
    first, second = (read_video(assets / name).frames[:40] for name in ("h264_aac.mp4", "interlaced_tff.mp4"))
    with VideoWriter(tmp_path / "joined.mp4", Fraction(25), (180, 320)) as writer:
        writer.write(first)
        writer.write(second)
    frames = read_video(tmp_path / "joined.mp4").frames
    is_cut = CutDetector()
    assert [index for index, frame in enumerate(frames) if is_cut(frame)] == [len(first)]
    report = check_data(tmp_path)
    assert report.cuts == 1
    assert report.cuts_per_minute == pytest.approx(60 * 25 / len(frames))


def test_a_name_cannot_fake_a_line_of_the_table(tmp_path):
    (tmp_path / "a\nusable        9 of 9\x1b[2J.mp4").write_bytes(b"no video")
    table = check_data(tmp_path).table()
    assert r"a\nusable        9 of 9\x1b[2J.mp4" in table
    assert sum(line.startswith("usable") for line in table.splitlines()) == 1 and "\x1b" not in table


def test_interrupting_leaves_no_process_and_no_noise(tmp_path, clip):
    for number in range(3000):
        (tmp_path / f"{number}.mp4").symlink_to(clip)
    program = f"""
import signal
from vidtwin.data.check import check_data
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what it runs in the background without it
    try:
        check_data({str(tmp_path)!r}, workers=2, progress=lambda done, total: print(done, flush=True))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, str(tmp_path / "program.py")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    for _ in range(10):  # both workers are at work
        process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.stderr is not None
    out, err = process.stdout.read(), process.stderr.read()  # they end when no process has the pipes any more
    process.wait()
    assert (out.splitlines()[-1:], err) == (["interrupted"], "")
