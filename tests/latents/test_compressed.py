import json
import os
import resource
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import SMALL, seeded_model
from tests.latents.test_file import header, ticks_of, windows, write
from vidtwin.cli.inspection import describe
from vidtwin.inference.decode import decode_video
from vidtwin.inference.encode import encode_video
from vidtwin.latents import compressed
from vidtwin.latents.compressed import FRONT, MAGIC, PREFIX, TAIL, VERSION, _ticks, _timing, is_compressed
from vidtwin.latents.file import LatentVideo, LatentWriter, compress, partial_path
from vidtwin.latents.stream import Identity, LatentStream


def both(folder: Path, policy="crop", overlap=0, frames=100, cuts=(), step=1.0) -> tuple[LatentVideo, LatentVideo]:
    """A plain latent file, and what it is compressed to."""
    plain = write(folder / "plain.vidtwin", header(policy, overlap, logvar=True), frames, cuts)
    compress(plain, folder / "x.vidtwin", step)
    return plain, LatentVideo.load(folder / "x.vidtwin")


def assert_same(video: LatentVideo, plain: LatentVideo) -> None:
    """Each window is the plain one's, quantised."""
    coder = video.coder
    assert video.window_count == plain.window_count
    for index in range(plain.window_count):
        found, expected = video.window(index), plain.window(index)
        wanted = coder.quantized(expected.latents)
        assert all(torch.equal(a, b) for a, b in zip(found.latents.tensors, wanted.tensors, strict=True))
        assert replace(found, latents=None, logvar=None) == replace(expected, latents=None, logvar=None)


@pytest.mark.parametrize("policy", ["crop", "tile"])
@pytest.mark.parametrize(("frames", "overlap"), [(1, 0), (16, 0), (33, 4), (16, 8), (17, 8), (100, 5)])
def test_what_is_compressed_is_read(tmp_path, policy, frames, overlap):
    plain, video = both(tmp_path, policy, overlap, frames, cuts=(20, 31) if frames > 31 else ())
    assert is_compressed(video.path) and not is_compressed(plain.path)
    assert video.header == replace(plain.header, logvar=False)
    assert (video.complete, video.frames, video.cuts) == (True, frames, plain.cuts)
    assert video.ticks.tolist() == ticks_of(frames)
    assert video.logvar is None and len(video.latents) == len(plain.latents)
    assert_same(video, plain)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain.vidtwin", "x.vidtwin"]


@pytest.mark.slow
def test_a_thousand_windows_come_back_in_another_process(tmp_path):
    plain, video = both(tmp_path, overlap=4, frames=12_004)
    assert video.window_count == 1000
    code = """
import sys, zlib
from vidtwin.latents.file import LatentVideo
video, crc = LatentVideo.load(sys.argv[1]), 0
for index in range(video.window_count):
    for tensor in video.window(index).latents.tensors:
        crc = zlib.crc32(tensor.numpy().tobytes(), crc)
print(crc, zlib.crc32(video.ticks.tobytes()))
"""
    out = subprocess.run([sys.executable, "-c", code, str(video.path)], capture_output=True, text=True, check=True).stdout
    coder, crc = video.coder, 0
    for index in range(plain.window_count):
        for tensor in coder.quantized(plain.window(index).latents).tensors:
            crc = zlib.crc32(tensor.numpy().tobytes(), crc)
    assert out.split() == [str(crc), str(zlib.crc32(plain.ticks.tobytes()))]


@pytest.mark.parametrize(
    "ticks",
    [
        (0,),
        (7,),
        (-5, 0),
        (0, 3003, 6006),
        (0, 3003, 6006, 9010),
        (-(2**63), 2**63 - 1),
        tuple(ticks_of(16)),
        (1 << 40, (1 << 40) + 1),
    ],
)
def test_times_are_exact(ticks):
    assert _ticks(_timing(ticks), len(ticks)) == ticks


def test_even_times_take_a_few_bytes():
    assert len(_timing(tuple(range(0, 48048, 3003)))) == 3
    assert _timing((0, 3003, 6006, 9010)) == bytes([0, 0b11110110, 46, 0, 2])


@pytest.mark.parametrize("data", [b"\x80", b"\x80" * 10 + b"\0", b"\0" * 3, b"\xff" * 9 + b"\x7f"])
def test_times_that_cannot_be_are_refused(data):
    assert _ticks(data, 2) is None


def test_a_range_reads_only_its_windows(tmp_path, monkeypatch):
    plain, video = both(tmp_path, overlap=4, frames=50)
    opened = []
    monkeypatch.setattr(type(video._parts), "latents", lambda self, index: opened.append(index) or plain.window(index).latents)
    list(video.stream(16, 24).windows)
    assert opened == [1]


def test_a_growing_file_is_compressed_as_far_as_it_goes(tmp_path):
    head, path = header(logvar=True), tmp_path / "x.vidtwin"
    with pytest.raises(KeyboardInterrupt):
        with LatentWriter(path, head) as writer:
            for window in windows(head, 60):
                if window.index == 2:
                    raise KeyboardInterrupt
                writer.write(window)
    growing = LatentVideo.load(partial_path(path))
    assert compress(growing, tmp_path / "y.vidtwin").bytes == (tmp_path / "y.vidtwin").stat().st_size
    assert LatentVideo.load(tmp_path / "y.vidtwin").frames == 32


def test_the_writer_ends_in_the_compressed_form_and_goes_on(tmp_path):
    plain, video = both(tmp_path, "tile", 3, 50, step=0.5)
    head, path = plain.header, tmp_path / "z.vidtwin"
    with pytest.raises(KeyboardInterrupt):
        with LatentWriter(path, head, job={"step": 0.5}, step=0.5) as writer:
            writer.write(next(windows(head, 50)))
            raise KeyboardInterrupt
    with pytest.raises(ValueError, match="was started with another step"):
        LatentWriter(path, head, resume=True, job={"step": 2.0}, step=2.0)
    with LatentWriter(path, head, resume=True, job={"step": 0.5}, step=0.5) as writer:
        for window in windows(head, 50, first=writer.count):
            writer.write(window)
    assert path.read_bytes() == video.path.read_bytes()
    assert not partial_path(path).exists()


def test_what_a_file_takes(tmp_path):
    plain, video = both(tmp_path, frames=100)
    size = video.size
    assert plain.size is None and plain.coder is None
    assert size.bytes == video.path.stat().st_size
    assert len(size.windows) == 7 and size.structure + size.dynamics < sum(size.windows) < size.bytes
    assert size.structure_values + size.dynamics_values == 7 * SMALL.latent_values
    assert size.bits_per_value == pytest.approx(8 * size.bytes / (7 * SMALL.latent_values))
    assert size.bits_per_pixel == pytest.approx(8 * size.bytes / (100 * 32 * 32))
    assert size.kl_bits is not None and size.kl_bits[1] > size.kl_bits[0] > 0
    assert json.loads(json.dumps(size.to_dict()))["step"] == 1
    facts = describe(video.path)
    assert facts["layout"] == "compressed latents of in.mp4 (1,234 bytes)"
    assert facts["step"] == "1 sigma"
    assert facts["size"].startswith(f"{size.bytes:,} bytes, ")
    assert describe(plain.path)["layout"] == "latents of in.mp4 (1,234 bytes) with log-variances"


def test_a_smaller_step_is_nearer_and_longer(tmp_path):
    plain = write(tmp_path / "plain.vidtwin", header(logvar=True), 100)
    sizes, errors = [], []
    for step in (0.25, 1.0, 4.0):
        sizes.append(compress(plain, tmp_path / "x.vidtwin", step).bytes)
        errors.append(float((LatentVideo.load(tmp_path / "x.vidtwin").latents.structure - plain.latents.structure).abs().mean()))
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)


def test_sigma_can_be_given(tmp_path):
    plain = write(tmp_path / "plain.vidtwin", header(), 40)
    with pytest.raises(ValueError, match="plain.vidtwin: holds no log-variances .*; encode with logvar=True, or give sigma"):
        compress(plain, tmp_path / "x.vidtwin")
    assert not (tmp_path / "x.vidtwin").exists()
    sigma = [np.full(shape[1], 0.125) for shape in plain.header.shapes]
    size = compress(plain, tmp_path / "x.vidtwin", sigma=sigma)
    assert size.kl_bits is None and "KL" not in str(size)
    assert all((tensor % 0.125 == 0).all() for tensor in LatentVideo.load(tmp_path / "x.vidtwin").latents.tensors)
    with pytest.raises(ValueError, match="plain.vidtwin: sigma of dynamics_x times step 1: expected 4 values above 0"):
        compress(plain, tmp_path / "x.vidtwin", sigma=[sigma[0], sigma[1][:2], sigma[2]])
    with pytest.raises(ValueError, match="plain.vidtwin: window 0: values of .* steps; .* give a larger step"):
        compress(plain, tmp_path / "x.vidtwin", 1e-8, sigma=sigma)
    with pytest.raises(ValueError, match="plain.vidtwin: values of .* steps; .* give a larger step"):
        compress(plain, tmp_path / "x.vidtwin", 1e-20, sigma=sigma)
    assert LatentVideo.load(tmp_path / "x.vidtwin").size == size  # what was there is untouched


def test_without_the_package_nothing_is_begun(tmp_path, monkeypatch):
    plain, video = both(tmp_path)
    monkeypatch.setitem(sys.modules, "constriction", None)
    missing = r"need the package constriction: pip install 'vidtwin\[compress\]'"
    with pytest.raises(ValueError, match=missing):
        LatentWriter(tmp_path / "y.vidtwin", plain.header, step=1.0)
    with pytest.raises(ValueError, match=missing):
        compress(plain, tmp_path / "y.vidtwin")
    with pytest.raises(ValueError, match=missing):
        LatentVideo.load(video.path).window(0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain.vidtwin", "x.vidtwin"]


@pytest.mark.parametrize(("policy", "overlap"), [("crop", 4), ("tile", 0)])
def test_decoding_gives_the_frames_of_the_quantised_latents(tmp_path, model, write, policy, overlap):
    clip = write(24)
    options = {"policy": policy, "overlap": overlap, "weights": Identity.of(model, "small")}
    plain = encode_video(model, clip, tmp_path / "plain.vidtwin", logvar=True, **options)
    video = encode_video(model, clip, tmp_path / "x.vidtwin", step=1.0, **options)
    assert video.size.bytes < plain.path.stat().st_size / 4
    assert_same(video, plain)
    coder = video.coder
    rounded = (replace(window, latents=coder.quantized(window.latents)) for window in plain.stream().windows)
    decode_video(model, LatentStream(plain.header, rounded), tmp_path / "expected.mp4")
    decode_video(model, video, tmp_path / "found.mp4")
    assert (tmp_path / "found.mp4").read_bytes() == (tmp_path / "expected.mp4").read_bytes()
    decode_video(model, video, tmp_path / "part.mp4", start=17, stop=20)


class Damage:
    """Number n of the damaged versions of a file: its bytes, and what its message must name one of."""

    def __init__(self, data: bytes, sizes: tuple[int, ...]):
        self.data = data
        first = len(data) - TAIL.size - 4 * len(sizes) - sum(sizes)
        self.starts = list(accumulate(sizes, initial=first))
        self.named = {-1: ("header", "compressed form", "not a latent file"), len(sizes): ("index",)}

    def region(self, place: int) -> int:
        """-1 for the header, the window, or the number of windows for the index."""
        return int(np.searchsorted(self.starts, place, side="right")) - 1

    def names(self, first: int, last: int) -> list[str]:
        """For bytes first..last-1."""
        regions = range(self.region(first), self.region(last - 1) + 1)
        return [name for region in regions for name in self.named.get(region, (f"window {region} ",))]

    def make(self, number: int) -> tuple[bytes, list[str]]:
        rng = np.random.default_rng(number)
        data, place = bytearray(self.data), int(rng.integers(len(self.data)))
        anything = [name for names in self.named.values() for name in names] + ["window "]
        match number % 5:
            case 0 | 1:  # a bit
                data[place] ^= 1 << int(rng.integers(8))
                return bytes(data), self.names(place, place + 1)
            case 2:  # the end
                return bytes(data[:place]), [*self.named[len(self.starts) - 1], *self.named[-1], "cut short"]
            case 3:  # random bytes
                end = min(len(data), place + int(rng.integers(1, 200)))
                data[place:end] = rng.bytes(end - place)
                return bytes(data), self.names(place, end) if data != self.data else []
            case _:  # two records change places, or one stands for another
                a, b = sorted(rng.choice(len(self.starts) - 1, 2, replace=False))
                one, other = (self.data[self.starts[i] : self.starts[i + 1]] for i in (a, b))
                between = self.data[self.starts[a + 1] : self.starts[b]]
                moved = other + between + (one if number % 2 else other)
                return self.data[: self.starts[a]] + moved + self.data[self.starts[b + 1] :], anything


def read_all(path: Path) -> None:
    video = LatentVideo.load(path)
    for index in range(video.window_count):
        video.window(index)


def test_a_thousand_damaged_files_are_refused_and_say_where(tmp_path):
    _, video = both(tmp_path, overlap=2, frames=100, cuts=(20,))
    path, damage = tmp_path / "damaged.vidtwin", Damage(video.path.read_bytes(), video.size.windows)
    read_all(video.path)
    before, begun, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic(), 0
    for number in range(1000):
        data, names = damage.make(number)
        if not names:
            continue
        path.write_bytes(data)
        with pytest.raises(ValueError) as caught:
            read_all(path)
        message = str(caught.value)
        assert "damaged.vidtwin: " in message and message.isprintable() and len(message) < 500, message
        assert any(name in message for name in names), (number, names, message)
        refused += 1
    assert refused > 990
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB
    assert time.monotonic() - begun < 120


def with_header(data: bytes, change) -> bytes:
    """The same file with another header, its checksum right."""
    _, _, length, _ = PREFIX.unpack_from(data)
    text = change(json.loads(zlib.decompress(data[PREFIX.size : PREFIX.size + length])))
    text = zlib.compress(json.dumps(text).encode() if isinstance(text, dict) else text)
    return PREFIX.pack(MAGIC, VERSION, len(text), zlib.crc32(text)) + text + data[PREFIX.size + length :]


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: {},
        lambda facts: facts | {"logvar": True},
        lambda facts: facts | {"coder": "ans\n2"},
        lambda facts: facts | {"step": 10**400},
        lambda facts: facts | {"kl_bits": "ab"},
        lambda facts: facts | {"kl_bits": [1]},
        lambda facts: facts | {"latents": None},
        lambda facts: facts | {"config": SMALL.to_dict() | {"structure_channels": 10**9}},
        lambda facts: facts | {"geometry": {"policy": "tile", "source": [30000, 30000], "model": [32, 32], "overlap": 8}},
        lambda facts: b"[" * 10**6,
        lambda facts: b"[" + b" " * 5 * 10**7 + b"]",
        lambda facts: b"[]",
        lambda facts: b"\xff",
    ],
)
def test_headers_that_lie_are_refused(tmp_path, change):
    _, video = both(tmp_path, frames=40)
    path = tmp_path / "lies.vidtwin"
    path.write_bytes(with_header(video.path.read_bytes(), change))
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ValueError, match="lies.vidtwin: ") as caught:
        read_all(path)
    assert str(caught.value).isprintable()
    assert time.monotonic() - begun < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (0, 2, "has the record of window 2 in place of window 1"),
        (1, 0, "the record of window 1 is damaged"),
        (1, 17, "the record of window 1 is damaged"),
        (1, 15, "the record of window 1 is damaged"),
        (2, 2**32 - 1, "the record of window 1 is damaged"),
        (3, 2**32 - 1, "the record of window 1 is damaged"),
        (4, 0, "the record of window 1 is damaged"),
    ],
)
def test_records_that_lie_are_refused(tmp_path, field, value, message):
    _, video = both(tmp_path, frames=40)
    data, start = bytearray(video.path.read_bytes()), video._parts._starts[1]
    numbers = list(FRONT.unpack_from(data, start))[1:]
    front = struct.pack("<6I", *(value if i == field else number for i, number in enumerate(numbers)))
    front += data[start + FRONT.size : start + FRONT.size + numbers[2] + 2]
    data[start : start + 4 + len(front)] = struct.pack("<I", zlib.crc32(front)) + front
    (tmp_path / "lies.vidtwin").write_bytes(data)
    with pytest.raises(ValueError, match=f"lies.vidtwin: .*{message}"):
        read_all(tmp_path / "lies.vidtwin")


def test_values_that_lie_name_their_window(tmp_path):
    _, video = both(tmp_path, frames=40)
    data, start = bytearray(video.path.read_bytes()), video._parts._starts[1]
    numbers = list(FRONT.unpack_from(data, start))[1:]
    begin = start + FRONT.size + numbers[2] + 2
    end = begin + numbers[3] + numbers[4]
    data[begin : end - 1] = np.random.default_rng(0).bytes(end - 1 - begin)  # an intact record of other values
    numbers[5] = zlib.crc32(data[begin:end])
    front = struct.pack("<6I", *numbers) + data[start + FRONT.size : begin]
    data[start:begin] = struct.pack("<I", zlib.crc32(front)) + front
    (tmp_path / "lies.vidtwin").write_bytes(data)
    changed = LatentVideo.load(tmp_path / "lies.vidtwin")
    changed.window(0)
    with pytest.raises(ValueError, match="lies.vidtwin: window 1 cannot be decoded"):
        changed.window(1)


def test_windows_that_are_not_full_are_refused(tmp_path):
    plain = write(tmp_path / "plain.vidtwin", header(logvar=True), 40)
    short = [replace(plain.window(0), ticks=(0, 1), cuts=(False, False)), plain.window(1), plain.window(2)]
    compressed.write(tmp_path / "lies.vidtwin", plain.header, lambda: iter(short), 1.0)
    with pytest.raises(ValueError, match="lies.vidtwin: .*window 0 is not full"):
        LatentVideo.load(tmp_path / "lies.vidtwin")


def test_a_file_without_windows_is_refused(tmp_path):
    _, video = both(tmp_path, frames=40)
    start = video._parts._starts[0]
    empty = video.path.read_bytes()[:start] + TAIL.pack(zlib.crc32(b""), 0, b"VIDTWINE")
    (tmp_path / "empty.vidtwin").write_bytes(empty)
    with pytest.raises(ValueError, match="empty.vidtwin: .*holds no window yet"):
        LatentVideo.load(tmp_path / "empty.vidtwin")


def test_a_full_disk_is_one_line_and_leaves_the_growing_file(tmp_path, monkeypatch):
    head, path = header(logvar=True), tmp_path / "x.vidtwin"

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("vidtwin.latents.compressed._packed", full)
    with pytest.raises(OSError, match="x.vidtwin: writing failed .*No space left"):
        with LatentWriter(path, head, step=1.0) as writer:
            for window in windows(head, 40):
                writer.write(window)
    assert [found.name for found in tmp_path.iterdir()] == ["x.partial.vidtwin"]
    assert LatentVideo.load(partial_path(path)).frames == 40


def test_a_model_without_dynamics_is_refused_before_any_work(clip, tmp_path):
    model = seeded_model(replace(SMALL, dynamics_branch="none"))
    with pytest.raises(ValueError, match=r"without Dynamics .* has no compressed latents; keep the plain form"):
        encode_video(model, clip, tmp_path / "x.vidtwin", step=1.0)
    assert list(tmp_path.iterdir()) == []
