import json
import os
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from fractions import Fraction
from math import prod

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.conftest import SMALL
from vidtwin.frames.orientation import Orientation
from vidtwin.frames.tiles import plan_fit
from vidtwin.latents.file import LatentVideo, LatentWriter, partial_path
from vidtwin.latents.records import MAGIC, PREFIX
from vidtwin.latents.stream import Header, Identity, Window, first_window
from vidtwin.model.latents import Latents


def header(policy: str = "crop", overlap: int = 0, logvar: bool = False) -> Header:
    return Header(
        fps=Fraction(30000, 1001),
        clock=Fraction(1, 90000),
        geometry=plan_fit(policy, (50, 70), (32, 32)),
        overlap=overlap,
        pixel_aspect=Fraction(4, 3),
        orientation=Orientation(transposed=True),
        config=SMALL,
        weights=Identity("small", "0" * 64),
        precision="float32",
        logvar=logvar,
        source="in.mp4",
        source_bytes=1234,
        first_frame=0,
    )


def ticks_of(frames: int) -> list[int]:
    return [3003 * index + index % 3 for index in range(frames)]


def windows(head: Header, frames: int, cuts=(), first: int = 0):
    """Random latents, different in each window and the same in each call."""
    ticks = ticks_of(frames)
    for index in range(first, head.windows(frames)):
        start, generator = index * head.stride, torch.Generator().manual_seed(index)
        mean, logvar = (Latents(*(torch.randn(shape, generator=generator) for shape in head.shapes)) for _ in range(2))
        mine = tuple(ticks[start : start + 16])
        flags = tuple(start + i in cuts for i in range(len(mine)))
        yield Window(index, mean, logvar if head.logvar else None, mine, flags, last=index == head.windows(frames) - 1)


def write(path, head: Header, frames: int, cuts=()) -> LatentVideo:
    """Every bit of the windows is in the file."""
    with LatentWriter(path, head, stored="float32") as writer:
        for window in windows(head, frames, cuts):
            writer.write(window)
    return LatentVideo.load(path)


@pytest.mark.parametrize("policy", ["crop", "tile"])
@pytest.mark.parametrize(("frames", "overlap"), [(1, 0), (16, 0), (33, 0), (33, 4), (16, 8), (17, 8), (100, 5)])
def test_what_is_written_is_read(tmp_path, policy, frames, overlap):
    head = header(policy, overlap, logvar=frames == 33)
    video = write(tmp_path / "x.vidtwin", head, frames, cuts=(20, 31) if frames > 31 else ())
    assert video.header == head
    assert video.complete
    assert video.frames == frames
    assert video.ticks.tolist() == ticks_of(frames)
    assert video.cuts == ([20, 31] if frames > 31 else [])
    for window in windows(head, frames, video.cuts):
        back = video.window(window.index)
        assert all(torch.equal(a, b) for a, b in zip(back.latents.tensors, window.latents.tensors, strict=True))
        assert replace(back, latents=None, logvar=None) == replace(window, latents=None, logvar=None)
        assert (back.logvar is None) == (window.logvar is None)
    assert len(video.latents) == head.windows(frames) * head.tiles
    assert not partial_path(tmp_path / "x.vidtwin").exists()


def test_the_file_is_safetensors(tmp_path):
    head = header("tile", logvar=True)
    video = write(tmp_path / "x.vidtwin", head, 40)
    with safe_open(tmp_path / "x.vidtwin", framework="pt") as file:
        names = set(file.keys())
        assert torch.equal(file.get_tensor("structure"), video.latents.structure)
        assert torch.equal(file.get_tensor("dynamics_y_logvar"), video.logvar.dynamics_y)
        assert file.get_tensor("ticks").tolist() == ticks_of(40)
        assert json.loads(file.metadata()["vidtwin"])["weights"] == "small"
    assert len(names) == 8


def test_a_growing_file_is_read_as_far_as_it_goes(tmp_path):
    head, path = header(overlap=4), tmp_path / "x.vidtwin"
    with LatentWriter(path, head) as writer:
        with pytest.raises(ValueError, match="x.partial.vidtwin: .*holds no window yet"):
            LatentVideo.load(partial_path(path))
        for window in windows(head, 60):
            writer.write(window)
            growing = LatentVideo.load(partial_path(path))
            assert not growing.complete
            assert growing.frames == window.index * 12 + len(window.ticks)
            assert growing.window(window.index).last
            assert not path.exists()
    assert LatentVideo.load(path).frames == 60


def test_a_torn_record_is_not_read(tmp_path):
    head, path = header(), tmp_path / "x.vidtwin"
    with pytest.raises(RuntimeError, match="stopped"):
        with LatentWriter(path, head) as writer:
            for window in windows(head, 60):
                if window.index == 3:
                    raise RuntimeError("stopped")
                writer.write(window)
    partial = partial_path(path)
    data = partial.read_bytes()
    for damaged, frames in ((data[:-7], 32), (data + data[-50:], 48), (data[:-100] + b"x" * 100, 32)):
        partial.write_bytes(damaged)
        assert LatentVideo.load(partial).frames == frames


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_going_on_ends_with_the_same_bytes(tmp_path, stop):
    head = header("tile", overlap=3, logvar=True)
    write(tmp_path / "whole.vidtwin", head, 50)
    path = tmp_path / "x.vidtwin"
    with pytest.raises(KeyboardInterrupt):
        with LatentWriter(path, head) as writer:
            for window in windows(head, 50):
                if window.index == stop:
                    raise KeyboardInterrupt
                writer.write(window)
            raise KeyboardInterrupt
    with partial_path(path).open("ab") as file:
        file.write(b"half a record")
    with LatentWriter(path, head, resume=True, stored="float32") as writer:
        assert writer.count == min(stop, head.windows(50))
        assert writer.finished == (stop >= head.windows(50))
        assert writer.ticks.tolist() == ticks_of(50)[: 50 if writer.finished else (stop - 1) * head.stride + 16]
        for window in windows(head, 50, first=writer.count):
            writer.write(window)
    assert path.read_bytes() == (tmp_path / "whole.vidtwin").read_bytes()


def test_going_on_with_other_options_is_refused(tmp_path):
    path = tmp_path / "x.vidtwin"
    with pytest.raises(KeyboardInterrupt):
        with LatentWriter(path, header()) as writer:
            writer.write(next(windows(header(), 50)))
            raise KeyboardInterrupt
    with pytest.raises(ValueError, match="x.partial.vidtwin: was started with another geometry, overlap; use the same"):
        LatentWriter(path, header("tile", overlap=2), resume=True)
    assert LatentVideo.load(partial_path(path)).frames == 16
    with LatentWriter(path, header("tile")) as writer:  # without resume: anew
        for window in windows(header("tile"), 3):
            writer.write(window)
    assert LatentVideo.load(path).frames == 3


def test_nothing_is_left_of_a_run_that_wrote_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with LatentWriter(tmp_path / "x.vidtwin", header()):
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_are_one_too_many(tmp_path):
    with LatentWriter(tmp_path / "x.vidtwin", header()) as writer:
        with pytest.raises(OSError, match="another process is writing it"):
            LatentWriter(tmp_path / "x.vidtwin", header())
        writer.write(next(windows(header(), 1)))
    assert LatentVideo.load(tmp_path / "x.vidtwin").frames == 1


def test_a_link_in_place_of_the_growing_file_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("keep me")
    partial_path(tmp_path / "x.vidtwin").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError):
        LatentWriter(tmp_path / "x.vidtwin", header())
    assert (tmp_path / "precious").read_text() == "keep me"


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.latents.test_file import *
head = header("tile")
with LatentWriter(sys.argv[1], head) as writer:
    for window in windows(head, 100):
        writer.write(window)
        if window.index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_what_it_wrote(tmp_path):
    path = tmp_path / "x.vidtwin"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), os.getcwd()])
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    assert LatentVideo.load(partial_path(path)).frames == 48


@pytest.mark.parametrize(("start", "stop", "expected"), [(0, None, [0, 1, 2, 3]), (12, 13, [0, 1]), (16, 24, [1]), (41, 99, [3])])
def test_a_range_reads_only_the_windows_that_it_needs(tmp_path, start, stop, expected):
    video = write(tmp_path / "x.vidtwin", header(overlap=4), 50)
    stream = video.stream(start, stop)
    found = list(stream.windows)
    assert [window.index for window in found] == expected
    assert found[-1].last and found[-1].ticks[-1] == ticks_of(50)[min(stop or 50, 50) - 1]
    assert stream.frames == min(stop or 50, 50) - start
    for wrong in ((50, None), (-1, 3), (4, 4)):
        with pytest.raises(ValueError, match="x.vidtwin: has 50 frames .1.67 seconds.; give 0 <= start < end"):
            video.stream(*wrong)


def test_frames_by_their_time(tmp_path):
    video = write(tmp_path / "x.vidtwin", header(), 50)
    seconds = [Fraction(tick, 90000) for tick in ticks_of(50)]
    assert video.frame_at(Fraction(0)) == 0
    assert [video.frame_at(s) for s in seconds] == list(range(50))
    assert video.frame_at(seconds[7] + Fraction(1, 10**9)) == 8
    assert video.frame_at(Fraction(1000)) == 50


def test_the_first_window_that_a_frame_is_in():
    assert [first_window(frame, header(overlap=4)) for frame in (0, 11, 12, 15, 16, 27, 28)] == [0, 0, 0, 0, 1, 1, 2]
    assert [first_window(frame, header()) for frame in (0, 15, 16)] == [0, 0, 1]


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "x.vidtwin"
    write(path, header(), 20)
    data = path.read_bytes()
    swapped = [
        data.replace(a, b, 1) for a, b in ((b"crop", b"carp"), (b"30000/1001", b"0000000000"), (b'version\\": 2', b'version\\": 1'))
    ]
    for damaged in (b"", b"text", b"VIDTWIN\n", b"VIDTWIN\n" + b"\xff" * 30, data[: len(data) // 2], *swapped):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="x.vidtwin"):
            LatentVideo.load(path)
    with pytest.raises(FileNotFoundError, match="vidtwin encode"):
        LatentVideo.load(tmp_path / "none.vidtwin")


def test_values_that_are_not_finite_name_their_window(tmp_path):
    head, path = header(), tmp_path / "x.vidtwin"
    with LatentWriter(path, head) as writer:
        for window in windows(head, 40):
            if window.index == 1:
                window.latents.dynamics_x[0, 0, 0, 0] = torch.nan
            writer.write(window)
    video = LatentVideo.load(path)
    assert video.window(0).index == 0
    with pytest.raises(ValueError, match="x.vidtwin: window 1 has NaN or infinite values"):
        video.window(1)


def test_records_are_plain_numpy(tmp_path):
    """The layout that the module describes, read by hand."""
    head, path = header(), tmp_path / "x.vidtwin"
    with pytest.raises(KeyboardInterrupt):
        with LatentWriter(path, head) as writer:
            writer.write(next(windows(head, 40)))
            raise KeyboardInterrupt
    data = partial_path(path).read_bytes()
    assert data[:8] == b"VIDTWIN\n"
    start = 16 + int.from_bytes(data[8:12], "little")
    assert json.loads(data[16:start])["source"] == "in.mp4"
    assert np.frombuffer(data, "<u4", 4, start)[1:].tolist() == [0, 16, 0]
    assert np.frombuffer(data, "<i8", 16, start + 16).tolist() == ticks_of(16)
    assert np.frombuffer(data, "<f4", 1, start + 16 + 128 + 16)[0] == next(windows(head, 40)).latents.structure.flatten()[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fps", "1e999999999"),  # a number of a thousand million digits, if it is computed
        ("clock", "1/" + "9" * 5000),
        ("geometry", {"policy": "tile", "source": [10**9, 10**9], "model": [32, 32], "overlap": 8}),
        ("config", SMALL.to_dict() | {"dynamics_downsamples": 10**12}),
        ("config", SMALL.to_dict() | {"depth": 10**12}),
    ],
)
def test_headers_that_would_take_all_time_or_memory_are_refused(tmp_path, key, value):
    path = tmp_path / "x.partial.vidtwin"
    facts = header().to_dict() | {key: value}
    text = json.dumps(facts).encode()
    path.write_bytes(PREFIX.pack(MAGIC, len(text), zlib.crc32(text)) + text)
    begun = time.monotonic()
    with pytest.raises(ValueError, match="x.partial.vidtwin"):
        LatentVideo.load(path)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", "2"),
        ("version", 2.0),
        ("fps", 25),
        ("overlap", "0"),
        ("overlap", 0.0),
        ("orientation", [0, 0, 0]),
        ("logvar", 0),
        ("logvar", "false"),
        ("source", 5),
        ("source", None),
        ("weights", ["tiny"]),
        ("weights_hash", 1),
        ("precision", {}),
        ("config", []),
        ("source_bytes", "1"),
        ("source_bytes", -1),
        ("first_frame", 1e9),
        ("first_frame", 10**40),
        ("first_frame", float("nan")),
        ("geometry", {"policy": "tile", "source": [64.0, 64], "model": [32, 32], "overlap": 8}),
        ("geometry", "crop"),
        ("more", [[[]]] * 2),
    ],
    ids=str,
)
def test_headers_of_other_types_are_refused(tmp_path, key, value):
    path = tmp_path / "x.partial.vidtwin"
    deep: list = []
    for _ in range(40):
        deep = [deep]
    text = json.dumps(header().to_dict() | {key: deep if key == "more" else value}).encode()
    path.write_bytes(PREFIX.pack(MAGIC, len(text), zlib.crc32(text)) + text)
    with pytest.raises(ValueError, match="x.partial.vidtwin") as caught:
        LatentVideo.load(path)
    assert "holds no window" not in str(caught.value) and "\n" not in str(caught.value)


def test_messages_show_nothing_that_a_file_made_up(tmp_path):
    path = tmp_path / "x.partial.vidtwin"
    text = json.dumps(header().to_dict() | {"source": "a\x1b[2J\nb\u202e" + "c" * 5000, "version": 3}).encode()
    path.write_bytes(PREFIX.pack(MAGIC, len(text), zlib.crc32(text)) + text)
    with pytest.raises(ValueError) as caught:
        LatentVideo.load(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_values_are_stored_in_float16_unless_every_bit_is_asked_for(tmp_path):
    head, videos = header(logvar=True), {}
    for stored in ("float16", "float32"):
        with LatentWriter(tmp_path / f"{stored}.vidtwin", head, stored=stored) as writer:
            for window in windows(head, 33):
                writer.write(window)
        videos[stored] = LatentVideo.load(writer.path)
        assert videos[stored].stored == stored and stored in repr(videos[stored])
    for half, whole in zip(*(video.window(2).latents.tensors for video in videos.values()), strict=True):
        assert torch.equal(half, whole.half().float()) and not torch.equal(half, whole)
    sizes = [video.path.stat().st_size for video in videos.values()]
    assert 1.6 < sizes[1] / sizes[0] < 2
    with pytest.raises(ValueError, match="stored='int8': give 'float16' or 'float32'"):
        LatentWriter(tmp_path / "x.vidtwin", head, stored="int8")


def test_values_beyond_float16_stay_in_float32(tmp_path):
    head = header()
    with LatentWriter(tmp_path / "x.vidtwin", head) as writer:
        for window in windows(head, 16):
            window.latents.dynamics_y[0, 0, 0, 0] = 1e6
            writer.write(window)
    video = LatentVideo.load(tmp_path / "x.vidtwin")
    assert video.latents.dynamics_y.max() == 1e6
    kinds = {name: kind for name, (kind, _) in video._parts.items()}
    assert (kinds["dynamics_y"], kinds["structure"]) == ("F32", "F16")


def test_a_latent_video_says_in_bytes_what_it_is(tmp_path):
    head = replace(header("tile"), source="<b>.mp4")
    video = write(tmp_path / "x.vidtwin", head, 40)
    values = 3 * sum(map(prod, head.shapes))
    share = values / (3 * 40 * prod(head.geometry.output_size))
    size = f"{video.path.stat().st_size:,} bytes (float32)"
    assert video.facts()["rate"] == f"{values:,} values, {share:.2%} of the pixel values; {size}"
    assert video.facts()["rate"] in repr(video)
    assert "&lt;b&gt;.mp4" in video._repr_html_() and "<b>" not in video._repr_html_()
