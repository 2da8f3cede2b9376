"""Checkpoints: what was done survives errors and kills, and the bytes do not depend on them."""

import json
import multiprocessing
import os
import signal
import time
from fractions import Fraction

import av
import numpy as np
import pytest

from vidtwin.video import VideoWriter, read_video
from vidtwin.video.encoding import Encoding
from vidtwin.video.work_folder import JOURNAL

JOB = {"input": "in.mp4", "weights": [1, 2]}
AUTO = Encoding()
COUNT, STEP = 60, 7  # frames, and from checkpoint to checkpoint
FORK = multiprocessing.get_context("fork")


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


def killed(target, *args, after, **more):
    """Run in a process of its own and kill it after some seconds; whether that came before it was done."""
    process = FORK.Process(target=target, args=args, kwargs=more)
    process.start()
    time.sleep(after)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def slowly(path, frames):
    with VideoWriter(path, Fraction(25), frames.shape[1:3], job=JOB, resume=True) as writer:
        done = writer.state["done"] if writer.state else 0
        for index in range(done, len(frames)):
            time.sleep(0.004)
            writer.write(frames[index])
            if (index + 1) % STEP == 0:
                writer.checkpoint({"done": index + 1})


def test_killed_at_any_moment_is_the_same_bytes(tmp_path, blobs):
    frames = blobs(COUNT)
    whole, path = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    slowly(whole, frames)
    rng, kills = np.random.default_rng(), 0
    for _ in range(6):
        kills += killed(slowly, path, frames, after=rng.uniform(0.02, 0.2))
        if path.exists():  # only ever whole
            assert path.read_bytes() == whole.read_bytes()
            path.unlink()
    slowly(path, frames)
    assert kills >= 1 and path.read_bytes() == whole.read_bytes()
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
        ({"job": {"input": "b.mp4", "weights": [1, 2]}}, r'input \(was "in.mp4", is "b.mp4"\); run without --resume'),
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


def race(path, frames, results):
    try:
        write(path, frames)
        results.put("done")
    except OSError as error:
        results.put("refused" if "another process" in str(error) else repr(error))


def test_a_race_has_whole_winners(tmp_path, blobs):
    path, frames, results = tmp_path / "out.mp4", blobs(9), FORK.SimpleQueue()
    processes = [FORK.Process(target=race, args=(path, frames, results)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    outcomes = [results.get() for _ in processes]
    assert set(outcomes) <= {"done", "refused"} and "done" in outcomes
    assert len(read_video(path).frames) == 9 and os.listdir(tmp_path) == ["out.mp4"]


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
