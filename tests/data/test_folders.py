"""Which files of folders, lists and tars are recordings."""

import os
import shutil
import socket

import pytest

from tests.data.conftest import pack
from vidtwin.data.check import check_data
from vidtwin.data.folders import SUFFIXES, files_below
from vidtwin.data.sources import left_out, listed, recordings

LITTER = ("._a.mp4", "__MACOSX/a.mp4", "b/._c.mp4", ".DS_Store", ".AppleDouble/a.mp4", "@eaDir/a.mp4/x.mp4")


def names(folder):
    return [os.path.relpath(recording.name, folder) for recording in recordings(folder)]


def test_what_systems_put_beside_files_is_ignored(tmp_path, clip):
    for name in ("a.mp4", "b/c.mp4", *LITTER):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, tmp_path / "set" / name)
    assert names(tmp_path / "set") == ["a.mp4", "b/c.mp4"] and left_out(tmp_path / "set") == {}
    tar = pack(tmp_path / "set.tar", *((clip, f"./{name}") for name in ("a.mp4", *LITTER)))
    assert [recording.file.name for recording in recordings(tar)] == ["./a.mp4"]
    (tmp_path / "l.txt").write_text("\n".join(("a.mp4", *LITTER)))
    (tmp_path / "l.csv").write_text("videos,n\n" + "\n".join(f"{name},1" for name in ("a.mp4", *LITTER)))
    for name in ("l.txt", "l.csv"):
        assert [recording.file.name for recording in recordings(tmp_path / name)] == ["a.mp4"]


def test_linked_folders_are_followed_each_once(tmp_path):
    for name in ("disk/cat/a.mp4", "disk/cat/deep/b.mp4", "set/dog/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "disk" / "cat")
    (tmp_path / "set" / "again").symlink_to(tmp_path / "set" / "dog")
    (tmp_path / "set" / "dog" / "circle").symlink_to("..")
    (tmp_path / "disk" / "cat" / "back").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "self").symlink_to("self")
    (tmp_path / "set" / "gone").symlink_to("nowhere")
    (tmp_path / "set" / "d.mp4").symlink_to(tmp_path / "disk" / "cat" / "a.mp4")
    assert names(tmp_path / "set") == ["cat/a.mp4", "cat/deep/b.mp4", "d.mp4", "dog/c.mp4"]


def test_folders_that_link_to_one_another_are_walked_in_no_time(tmp_path):
    for a in range(20):
        (tmp_path / str(a)).mkdir()
        (tmp_path / str(a) / "v.mp4").write_bytes(b"x")
        for b in range(20):
            (tmp_path / str(a) / f"to{b}").symlink_to(tmp_path / str(b))
    assert len(files_below(tmp_path)) == 20


def test_files_of_all_formats_that_are_read_are_taken(tmp_path):
    suffixes = [".flv", ".3gp", ".m2ts", ".MTS", ".vob", ".asf", ".mxf", ".f4v", ".y4m", ".nut", ".apng", ".qt", ".mjpeg", ".h264"]
    for suffix in suffixes:
        (tmp_path / f"a{suffix}").write_bytes(b"x")
    assert len(names(tmp_path)) == len(suffixes) and len(set(SUFFIXES)) == len(SUFFIXES)


def test_what_is_left_out_is_said(tmp_path, assets):
    shutil.copy(assets / "h264_aac.mp4", tmp_path / "a.mp4")
    for path in assets.glob("*.webp"):
        shutil.copy(path, tmp_path)
    for name in ("a.json", "b.json", "noname", "still.webp"):
        (tmp_path / name).write_bytes(b"RIFF\0\0\0\0WEBPVP8 ")
    assert left_out(tmp_path) == {".json": 2, "no suffix": 1, ".webp": 1}
    report = check_data(tmp_path)
    assert report.left_out[".json"] == 2
    assert "left out      4 files of other suffixes: .json 2" in report.table()


@pytest.mark.parametrize("name", ["l.csv", "l.txt", "l.tar"])
def test_a_pipe_or_socket_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(OSError, match=f"{name}: is a pipe, a socket or a device, not a file"):
        recordings(tmp_path / name)
    (tmp_path / name).unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / name))
        with pytest.raises(OSError, match=f"{name}: is a pipe, a socket or a device"):
            recordings(tmp_path / name)


def test_lists_are_bounded(tmp_path, monkeypatch):
    (tmp_path / "l.txt").write_text("a" * 100_000 + ".mp4\n")
    with pytest.raises(ValueError, match=r"l.txt: path 1 is a+ \.\.\. a+, which is not a path; correct the list"):
        recordings(tmp_path / "l.txt")
    (tmp_path / "l.txt").write_text("a\0b.mp4\n")
    with pytest.raises(ValueError, match="path 1 is a.x00b.mp4, which is not a path"):
        recordings(tmp_path / "l.txt")
    monkeypatch.setattr("vidtwin.data.sources.MOST_LIST", 3)
    with pytest.raises(ValueError, match="l.txt: has 8 bytes, more than 3"):
        list(listed(tmp_path / "l.txt"))
