"""Frames as PNG files, in a folder or by a pattern."""

import os
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from vidtwin.frames.orientation import Orientation
from vidtwin.video import VideoWriter, read_video
from vidtwin.video.write.png import TIMES
from vidtwin.video.write.writer import check_output

JOB = {"input": "in.mp4"}


def write(path, frames, stop_at=None, resume=False, job=JOB, ticks=None, **more):
    clock = None if ticks is None else Fraction(1, 1000)
    with VideoWriter(path, Fraction(25), frames.shape[1:3], clock=clock, job=job, resume=resume, **more) as writer:
        begin = writer.state["done"] if writer.state else 0
        for index in range(begin, len(frames)):
            if index == stop_at:
                raise KeyboardInterrupt
            writer.write(frames[index], None if ticks is None else [ticks[index]])
            if index % 3 == 2:
                writer.checkpoint({"done": index + 1})
    return begin, writer.notes


@pytest.mark.parametrize("name", ["out", "out/", "out/%03d.png", "out/a%%b%d.png"])
def test_every_pixel_of_every_frame(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    frames = np.random.default_rng(0).integers(0, 256, (11, 5, 7, 3), dtype=np.uint8)
    if "%" in name:
        os.mkdir("out")
        assert write(name, frames) == (0, [])
        names = [os.path.basename(name) % index for index in range(11)]
    else:
        assert write(name, frames, orientation=Orientation(True)) == (0, [])
        names = [f"{index:06}.png" for index in range(11)]
    assert sorted(os.listdir("out")) == sorted(names) and os.listdir() == ["out"]
    back = np.stack([np.asarray(Image.open(f"out/{name}")) for name in names])
    assert np.array_equal(back, frames)
    assert np.array_equal(read_video("out").frames, frames)


def test_an_empty_folder_is_filled_and_others_are_refused(tmp_path, blobs):
    folder = tmp_path / "out.frames"
    folder.mkdir()
    assert write(folder, blobs(2)) == (0, [])
    assert len(os.listdir(folder)) == 2
    for refuse in (lambda: write(folder, blobs(2)), lambda: check_output(folder)):
        with pytest.raises(FileExistsError, match="out.frames: the folder is not empty; choose another output") as error:
            refuse()
        assert "\n" not in str(error.value)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("mine")
    for name in ("link", "file"):
        with pytest.raises(FileExistsError, match=f"{name}: is no folder; choose another output"):
            write(tmp_path / name, blobs(2))
    with pytest.raises(FileNotFoundError, match="does not exist; create it"):
        write(tmp_path / "no" / "out", blobs(2))
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "out.frames"]


def test_files_of_a_pattern_are_not_replaced(tmp_path, blobs):
    pattern = tmp_path / "f%02d.png"
    for name, refused in [("f1.png", False), ("f007.png", False), ("g07.png", False), ("f07.png", True), ("f123.png", True)]:
        (tmp_path / name).write_text("mine")
        if refused:
            with pytest.raises(FileExistsError, match=f"{name} already exists; choose another output, or move it away"):
                write(pattern, blobs(2))
            with pytest.raises(FileExistsError):
                check_output(pattern)
        else:
            write(pattern, blobs(2))
            (tmp_path / "f00.png").unlink()
            (tmp_path / "f01.png").unlink()
        assert (tmp_path / name).read_text() == "mine" and len(os.listdir(tmp_path)) == 1
        (tmp_path / name).unlink()


@pytest.mark.parametrize("name", ["out", "%04d.png"])
def test_stopped_and_resumed_is_the_same(tmp_path, blobs, name):
    frames, ticks = blobs(20), [7 * index * index for index in range(20)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write(tmp_path / "a" / name, frames, ticks=ticks)
    for stop_at in (2, 8, 13):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "b" / name, frames, stop_at, resume=True, ticks=ticks)
        assert os.listdir(tmp_path / "b") == ([f".{name}.partial"] if stop_at > 3 else [])
    begin, notes = write(tmp_path / "b" / name, frames, resume=True, ticks=ticks)
    assert begin == 12 and notes == [f"pictures hold no times; {TIMES} beside them does"]
    a, b = ({path.name: path.read_bytes() for path in (tmp_path / side).rglob("*") if path.is_file()} for side in ("a", "b"))
    assert a == b and len(a) == 21
    assert a[TIMES].decode().splitlines()[:4] == ["frame,seconds", "0,0.000000000", "1,0.007000000", "2,0.028000000"]


def test_a_delivery_that_was_cut_short_is_resumed(tmp_path, blobs, monkeypatch):
    frames, pattern, moved = blobs(10), tmp_path / "%d.png", []

    def move(source, target, replace=os.replace):
        if len(moved) == 4:
            raise KeyboardInterrupt
        moved.append(target)
        replace(source, target)

    monkeypatch.setattr("vidtwin.video.write.png.os.replace", move)
    with pytest.raises(KeyboardInterrupt):
        write(pattern, frames)
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == [".%d.png.partial", "0.png", "1.png", "2.png", "3.png"]
    assert write(pattern, frames, resume=True)[0] == 9
    assert sorted(os.listdir(tmp_path)) == sorted(f"{index}.png" for index in range(10))
    assert np.array_equal(read_video(pattern).frames, frames)


def test_what_pictures_do_not_hold_is_noted(tmp_path, blobs):
    assert write(tmp_path / "a", blobs(4), ticks=[0, 40, 80, 121]) == (0, [])  # constant, to a tick
    _, notes = write(tmp_path / "b", blobs(3), pixel_aspect=Fraction(4, 3), ticks=[0, 40, 100])
    assert notes == [f"pictures hold no times; {TIMES} beside them does", "PNG files hold no pixel aspect; theirs is 4/3"]
