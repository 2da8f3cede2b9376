"""Checkpoints: what was done survives errors and kills, and the bytes do not depend on them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from vidtwin.video import VideoWriter, read_video
from vidtwin.video.write.encoding import Encoding
from vidtwin.video.write.work_folder import JOURNAL

JOB = {"input": "in.mp4", "weights": [1, 2]}
AUTO = Encoding()
COUNT, STEP = 60, 7  # frames, and from checkpoint to checkpoint


def ticks_of(count):
    return (100 + np.cumsum(np.random.default_rng(0).integers(1, 90, count))).tolist()


def write(path, frames, *, resume=False, job=JOB, encoding=AUTO, stop_at=None, checkpoints=True, **more):
    """Write all frames from where the state says; a KeyboardInterrupt before frame `stop_at`."""
    clock = Fraction(1, 1000)
    with VideoWriter(path, Fraction(25), frames.shape[1:3], encoding, clock=clock, job=job, resume=resume, **more) as writer:
        done = writer.state["done"] if writer.state else 0
        assert len(writer.ticks) == done
        for index in range(done, len(frames)):
            if index == stop_at:
                raise KeyboardInterrupt
            writer.write(frames[index], [ticks_of(len(frames))[index]])
            if checkpoints and (index + 1) % STEP == 0:
                writer.checkpoint({"done": index + 1})
    return done


@pytest.mark.parametrize(
    ("codec", "suffix"), [("h264", ".mp4"), ("hevc", ".mov"), ("vp9", ".webm"), ("av1", ".mkv"), ("ffv1", ".mkv")]
)
def test_stopped_and_resumed_is_the_same_bytes(tmp_path, blobs, codec, suffix):
    frames = blobs(COUNT, 64, 80)
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    write(whole, frames, encoding=Encoding(codec))
    begun = []
    for stop_at in (3, 12, 30, 31, None):
        try:
            begun.append(write(path, frames, resume=True, encoding=Encoding(codec), stop_at=stop_at))
        except KeyboardInterrupt:
            assert not path.exists()
            assert (tmp_path / f".out{suffix}.partial").exists() == (stop_at > STEP)
    assert begun == [28]
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, whole.name])
    assert read_video(path).times == [Fraction(tick - ticks_of(COUNT)[0], 1000) for tick in ticks_of(COUNT)]


PROCESSES = """
import os, random, sys, time
from fractions import Fraction
import numpy as np
from vidtwin.video import VideoWriter

def write(path, pace, resume):
    with VideoWriter(path, Fraction(25), (48, 64), job={"input": "in.mp4"}, resume=resume) as writer:
        for index in range(writer.state["done"] if writer.state else 0, 60):
            time.sleep(pace)
            writer.write(np.roll(picture, index, axis=1))
            if index % 7 == 6:
                writer.checkpoint({"done": index + 1})

def start(*arguments):  # from a process that has no threads: it never encodes
    process = os.fork()
    if process == 0:
        try:
            write(*arguments)
            os._exit(0)
        except BlockingIOError as error:
            os._exit(3 if "another process" in str(error) else 4)
        except BaseException:
            os._exit(1)
    return process

def ended(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
whole, path = sys.argv[1:]
assert ended(start(whole, 0, False)) == 0
expected, kills = open(whole, "rb").read(), 0
for _ in range(6):
    process = start(path, 0.004, True)
    time.sleep(random.uniform(0.02, 0.25))
    os.kill(process, 9)
    kills += ended(process) == -9
    if os.path.exists(path):  # only ever whole
        assert open(path, "rb").read() == expected
        os.unlink(path)
assert ended(start(path, 0, True)) == 0
assert open(path, "rb").read() == expected and kills
outcomes = {ended(process) for process in [start(path, 0.001, False) for _ in range(6)]}
assert 0 in outcomes and outcomes <= {0, 3}, outcomes
assert open(path, "rb").read() == expected
print("same")
"""


def test_kills_at_any_moment_and_races_end_with_the_same_bytes(tmp_path):
    command = [sys.executable, "-c", PROCESSES, str(tmp_path / "whole.mp4"), str(tmp_path / "out.mp4")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout == "same\n", result.stderr
    assert sorted(os.listdir(tmp_path)) == ["out.mp4", "whole.mp4"]


def stopped(path, frames, stop_at=20):
    with pytest.raises(KeyboardInterrupt):
        write(path, frames, stop_at=stop_at)
    return path.with_name(f".{path.name}.partial")


def test_a_torn_journal_goes_on_from_its_last_whole_line(tmp_path, blobs):
    frames, path = blobs(COUNT), tmp_path / "out.mp4"
    write(tmp_path / "whole.mp4", frames)
    for keep, done in [(1.0, 14), (0.95, 7), (0.3, 0), (0.0, 0)]:
        folder = stopped(path, frames)
        journal = folder / JOURNAL
        data = journal.read_bytes()
        journal.write_bytes(data[: int(keep * len(data))])
        assert write(path, frames, resume=True) == done
        assert path.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_a_damaged_segment_is_made_again(tmp_path, blobs):
    frames, path = blobs(COUNT), tmp_path / "out.mp4"
    write(tmp_path / "whole.mp4", frames)
    for name, done in [("segment-000001", 7), ("segment-000000", 0)]:
        for damage in (lambda data: data[:-1], lambda data: data[:50] + b"?" + data[51:], None):
            segment = stopped(path, frames) / name
            if damage is None:
                segment.unlink()
            else:
                segment.write_bytes(damage(segment.read_bytes()))
            assert write(path, frames, resume=True) == done
            assert path.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_another_job_is_not_resumed(tmp_path, blobs):
    frames, path = blobs(COUNT), tmp_path / "out.mp4"
    folder = stopped(path, frames)
    for change, message in [
        ({"job": {"input": "b.mp4", "weights": [1, 2]}}, r'input \(was "in.mp4", is "b.mp4"\); run without resume=True'),
        ({"job": {"input": "in.mp4", "seed": 1}}, r"seed \(was null, is 1\), weights \(was \[1, 2\], is null\)"),
        ({"encoding": Encoding(crf=20)}, r"output options \(was"),
        ({"pixel_aspect": Fraction(4, 3)}, r'output pixel aspect \(was "1", is "4/3"\)'),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            write(path, frames, resume=True, **change)
        assert "\n" not in str(error.value)
    assert folder.exists()
    assert write(path, frames, job={"input": "b.mp4"}) == 0  # begins anew
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_a_state_without_new_frames(tmp_path, blobs):
    path = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt):
        with VideoWriter(path, Fraction(25), (48, 64), job=JOB) as writer:
            writer.checkpoint({"done": 0, "note": "begun"})
            writer.write(blobs(2))
            writer.checkpoint({"done": 2})
            writer.checkpoint({"done": 2, "more": [1.5, None]})
            raise KeyboardInterrupt
    with VideoWriter(path, Fraction(25), (48, 64), job=JOB, resume=True) as writer:
        assert writer.state == {"done": 2, "more": [1.5, None]} and list(writer.ticks) == [0, 1]
        writer.write(blobs(1))
        assert list(writer.ticks) == [0, 1, 2]
    assert len(read_video(path).frames) == 3


def test_without_a_job_nothing_stays(tmp_path, blobs):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out.mp4", blobs(20), job=None, stop_at=15)
    assert os.listdir(tmp_path) == []
    write(tmp_path / "out.mp4", blobs(20), job=None)
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_two_processes_on_one_output(tmp_path, blobs):
    path = tmp_path / "out.mp4"
    with VideoWriter(path, Fraction(25), (48, 64), job=JOB) as writer:
        writer.write(blobs(2))
        for resume in (False, True):
            with pytest.raises(OSError, match="out.mp4: another process is writing it; wait until it is done") as error:
                write(path, blobs(2), resume=resume)
            assert "\n" not in str(error.value)
        writer.write(blobs(2))
    assert len(read_video(path).frames) == 4
    assert write(path, blobs(2)) == 0


def test_foreign_folders_and_links_are_left_alone(tmp_path, blobs):
    path, folder = tmp_path / "out.mp4", tmp_path / ".out.mp4.partial"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("mine")

    def refused(resume):
        with pytest.raises(FileExistsError, match=r"\.out\.mp4\.partial: .*move it away, or choose another output") as error:
            write(path, blobs(2), resume=resume)
        assert "\n" not in str(error.value)

    for resume in (False, True):
        folder.mkdir()
        (folder / "precious").write_text("mine")
        refused(resume)
        (folder / JOURNAL).write_text('{"kind": "diary"}\n')
        refused(resume)
        (folder / JOURNAL).write_text("Dear diary\n")
        refused(resume)
        assert (folder / "precious").read_text() == "mine"
        (folder / "precious").unlink()
        (folder / JOURNAL).unlink()
        (folder / JOURNAL).symlink_to(elsewhere / "precious")
        refused(resume)
        (folder / JOURNAL).unlink()
        folder.rmdir()
        folder.symlink_to(elsewhere)
        refused(resume)
        folder.unlink()
        folder.symlink_to(tmp_path / "nowhere")
        refused(resume)
        folder.unlink()
        folder.write_text("a file")
        refused(resume)
        folder.unlink()
    assert (elsewhere / "precious").read_text() == "mine" and os.listdir(elsewhere) == ["precious"]
    folder.mkdir()  # killed before anything was in it
    write(path, blobs(2))
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "out.mp4"]


def test_segments_are_whole_to_other_decoders(tmp_path, blobs):
    """Every checkpoint begins with a key frame, so players can begin there."""
    path = tmp_path / "out.mp4"
    write(path, blobs(COUNT))
    with av.open(path) as container:
        keys = [index for index, packet in enumerate(p for p in container.demux(video=0) if p.size) if packet.is_keyframe]
    assert set(range(0, COUNT, STEP)) <= set(keys)


def test_the_journal_says_what_is_durable(tmp_path, blobs):
    folder = stopped(tmp_path / "out.mp4", blobs(COUNT))
    lines = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    assert lines[0]["job"]["input"] == "in.mp4"
    assert [line["frames"] for line in lines[1:]] == [7, 7]
    assert lines[1]["ticks"] + lines[2]["ticks"] == ticks_of(COUNT)[:14]
    assert all((folder / line["segment"]).stat().st_size == line["bytes"] for line in lines[1:])


def test_what_a_killed_run_left_is_cleared_by_the_next(tmp_path, blobs):
    """Also of a run that cannot be resumed, as decoding."""
    path, folder = tmp_path / "out.mp4", tmp_path / ".out.mp4.partial"
    code = f"""
import os, signal, numpy as np
from fractions import Fraction
from vidtwin.video import VideoWriter
with VideoWriter({str(path)!r}, Fraction(25), (48, 64)) as writer:
    writer.write(np.zeros((3, 48, 64, 3), np.uint8))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == [folder.name]
    with VideoWriter(path, Fraction(25), (48, 64)) as writer:
        writer.write(blobs(3))
    assert os.listdir(tmp_path) == ["out.mp4"]


@pytest.mark.parametrize("name", ["n" * 251 + ".mp4", "\u00fc" * 125 + ".mkv", "n" * 255 + "/"])
def test_names_may_be_as_long_as_the_file_system_allows(tmp_path, blobs, name):
    with VideoWriter(f"{tmp_path}/{name}", Fraction(25), (48, 64), job={"a": 1}) as writer:
        writer.write(blobs(2))
        writer.checkpoint({})
        writer.write(blobs(2), [2, 3])
    assert os.listdir(tmp_path) == [name.rstrip("/")]
    with pytest.raises(OSError, match="the name has more than the 255 bytes that are possible; choose a shorter one"):
        VideoWriter(f"{tmp_path}/nn{name}", Fraction(25), (48, 64)).__enter__()


def test_the_source_of_the_sound_is_not_written_over(tmp_path, assets, blobs):
    shutil.copy(assets / "h264_aac.mp4", tmp_path / "in.mp4")
    (tmp_path / "soft.mp4").symlink_to("in.mp4")
    os.link(tmp_path / "in.mp4", tmp_path / "hard.mp4")
    for name in ("in.mp4", "soft.mp4", "hard.mp4"):
        with pytest.raises(ValueError, match="is the source; choose another output"):
            VideoWriter(tmp_path / name, Fraction(25), (48, 64), source=tmp_path / "in.mp4").__enter__()
