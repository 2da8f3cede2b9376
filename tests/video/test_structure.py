"""What lies around the packets of a file: repeated pictures, damage, joined files, rates that only timestamps tell."""

import io
import struct
import warnings
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from PIL import Image

from vidtwin.video import VideoWarning, frame_count, iter_frames, probe, read_clip, read_video


def coded(codec: str, pix_fmt: str, pictures: np.ndarray) -> list[bytes]:
    """The packets of pictures, the first one a key frame."""
    context = av.CodecContext.create(codec, "w")
    context.height, context.width, context.pix_fmt = *pictures.shape[1:3], pix_fmt
    context.framerate, context.time_base, context.options = Fraction(25), Fraction(1, 25), {"bf": "0", "g": "10"}
    packets = []
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
        frame.pts, frame.time_base = number, Fraction(1, 25)
        packets += context.encode(frame)
    chunks, head = [bytes(packet) for packet in packets + context.encode(None)], bytes(context.extradata or b"")
    return chunks if chunks[0].startswith(head) else [head + chunks[0], *chunks[1:]]


def write_avi(path: Path, fourcc: bytes, chunks: list[bytes], size: tuple[int, int]) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    (height, width), frames = size, len(chunks)
    header = struct.pack("<14I", 40000, 0, 0, 0x10, frames, 0, 1, 0, width, height, 0, 0, 0, 0)
    times = struct.pack("<IHHIIIIIIIIHHHH", 0, 0, 0, 0, 1, 25, 0, frames, 0, 0xFFFFFFFF, 0, 0, 0, width, height)
    look = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, fourcc, 3 * width * height, 0, 0, 0, 0)
    stream = chunk(b"LIST", b"strl" + chunk(b"strh", b"vids" + fourcc + times) + chunk(b"strf", look))
    body = index = b""
    for data in chunks:
        key = 0x10 if data.startswith((b"\0\0\1\xb0", b"\0\0\1\0", b"\xff\xd8")) else 0
        index += b"00dc" + struct.pack("<III", key, 4 + len(body), len(data))
        body += chunk(b"00dc", data)
    whole = b"AVI " + chunk(b"LIST", b"hdrl" + chunk(b"avih", header) + stream) + chunk(b"LIST", b"movi" + body)
    whole += chunk(b"idx1", index)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(whole)) + whole)


def not_coded(number: int) -> bytes:
    """A picture of MPEG-4, at 25 per second, that says vop_coded = 0."""
    bits = f"0101{number % 25:05b}100"
    return b"\0\0\1\xb6" + int(bits.ljust(16, "1"), 2).to_bytes(2, "big")


@pytest.mark.parametrize("kind", ["empty", "dropped", "not coded", "motion jpeg", "at the end"])
def test_repeated_pictures_of_an_avi_are_neither_damage_nor_frames(tmp_path, blobs, kind):
    path, pictures = tmp_path / "a.avi", blobs(20)
    codec = ("mjpeg", "yuvj420p") if kind == "motion jpeg" else ("mpeg4", "yuv420p")
    chunks = coded(*codec, pictures)
    repeat = {"dropped": b"\x7f"}.get(kind, b"")
    if kind == "not coded":
        chunks = [not_coded(number) if number in (6, 13) else data for number, data in enumerate(chunks)]
    elif kind == "at the end":
        chunks += [repeat, repeat]
    else:
        chunks = [*chunks[:6], repeat, *chunks[6:13], repeat, *chunks[13:]]
    write_avi(path, b"MJPG" if kind == "motion jpeg" else b"XVID", chunks, (48, 64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frames = read_video(path).frames
    assert len(frames) == frame_count(path) == (18 if kind == "not coded" else 20)
    for start in range(0, len(frames) - 1, 3):
        assert (read_clip(path, start, 2) == frames[start : start + 2]).all()


def test_frames_that_are_missing_from_an_avi_are_still_said(tmp_path, blobs):
    path = tmp_path / "a.avi"
    chunks = coded("mpeg4", "yuv420p", blobs(20))
    write_avi(path, b"XVID", [*chunks[:6], b"", *chunks[6:14], b"\0\0\1\xb6" + bytes(40), *chunks[15:]], (48, 64))
    with pytest.warns(VideoWarning, match="of 20 frames could be decoded|frames are damaged|packets could not be"):
        read_video(path)


CODECS = {"a.mkv": "libx264", "a.ts": "libx264", "a.m2ts": "libx264", "a.flv": "libx264", "a.webm": "libvpx", "a.ogv": "libvpx"}


@pytest.fixture(scope="module")
def moving() -> list[np.ndarray]:
    rows, columns = np.mgrid[0:72, 0:96]
    waves = [128 + 100 * np.sin((columns + 3 * number) / 9 + rows / 7) for number in range(120)]
    return [np.stack([wave, rows + 40.0, 255 - wave], -1).clip(0, 255).astype(np.uint8) for wave in waves]


@pytest.mark.parametrize("name", CODECS)
def test_frames_lost_by_damage_in_the_middle_of_a_file_are_said(tmp_path, encode, moving, name):
    path = encode(name, moving, CODECS[name], options={"g": "20", "cpu-used": "8"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(iter_frames(path))) == len(moving)
    data, noise = bytearray(path.read_bytes()), np.random.default_rng(0)
    for begin in (0.3, 0.45, 0.6):
        damaged, place = bytearray(data), slice(int(begin * len(data)), int((begin + 0.05) * len(data)))
        damaged[place] = noise.integers(0, 256, place.stop - place.start, np.uint8).tobytes()
        path.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            frames = len(list(iter_frames(path)))
        assert frames == len(moving) or any("damaged" in str(warning.message) for warning in said)


def test_joined_and_live_files_are_not_damaged(tmp_path, encode, blobs):
    for name, codec in (("a.ts", "libx264"), ("a.mkv", "libx264"), ("live.webm", "libvpx")):
        data = encode(name, blobs(20), codec).read_bytes()
        joined = tmp_path / f"joined-{name}"
        joined.write_bytes(data + data)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(list(iter_frames(joined))) == 40


def test_a_joined_mp4_says_what_it_left_out(tmp_path, encode, blobs):
    data = encode("a.mp4", blobs(5)).read_bytes()
    joined = tmp_path / "joined.mp4"
    joined.write_bytes(data + data)
    with pytest.warns(VideoWarning, match=f"5 frames were decoded, another file is joined to it from byte {len(data)} on"):
        assert len(list(iter_frames(joined))) == 5


def test_a_rate_stated_far_too_low_is_not_believed(tmp_path, blobs):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(1, 10))
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.time_base = 64, 48, "yuv420p", Fraction(1, 1000)
        for number, picture in enumerate(blobs(10)):
            frame = VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = 40 * number, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert probe(path).fps == 25


def without_rate(path: Path) -> None:
    """DefaultDuration, which browsers leave out, becomes a Void element."""
    data = path.read_bytes()
    at = data.index(b"\x23\xe3\x83")
    size = 4 + (data[at + 3] & 0x7F)
    path.write_bytes(data[:at] + b"\xec" + bytes([0x80 | size - 2]) + bytes(size - 2) + data[at + size :])


@pytest.mark.parametrize("name", ["a.webm", "a.mkv", "nonsense.mkv", "a.flv"])
@pytest.mark.parametrize(("steps", "fps"), [((33, 34, 33), 30), ((16, 50, 67, 17), 80 / 3), ((40,), 25)])
def test_a_rate_that_no_file_states_is_that_of_its_timestamps(tmp_path, blobs, name, steps, fps):
    path, stamps = tmp_path / name, [sum((steps * 50)[:number]) for number in range(4 * 12 + 1)]
    with av.open(path, "w", container_options={} if name == "a.flv" else {"live": "1"}) as container:
        stream = container.add_stream("libvpx" if name == "a.webm" else "libx264", rate=1000)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for stamp, picture in zip(stamps, blobs(len(stamps)), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if name in ("a.webm", "a.mkv"):
        without_rate(path)
    assert float(probe(path).fps) == pytest.approx(fps, rel=0.02)


def test_a_rate_in_fields_is_halved(tmp_path, blobs):
    path = tmp_path / "a.gxf"
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.height, stream.width, stream.pix_fmt = 576, 720, "yuv420p"
        for number, picture in enumerate(blobs(10, 576, 720)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert probe(path).fps == 25


def test_text_of_a_png_is_not_unpacked(tmp_path):
    """A chunk of 64 MB, compressed to 64 kB, and one with a profile that is none."""
    image, body = io.BytesIO(), b"a\0\0" + zlib.compress(bytes(64 << 20), 9)
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(image, "PNG")
    data = image.getvalue()
    for kind in (b"zTXt", b"iCCP"):
        chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
        assert (read_video(tmp_path / "a.png").frames == 90).all()


@pytest.mark.parametrize(("left", "top", "right", "bottom"), [(2, 2, 0, 0), (10, 6, 4, 2), (34, 10, 6, 2)])
def test_all_sides_of_a_cropping_rectangle_count(encode, left, top, right, bottom):
    rows, columns = np.mgrid[0:96, 0:128]
    picture = np.stack([2 * columns, 2 * rows, 128 + 0 * rows], -1).astype(np.uint8)
    options = {"qp": "4", "x264-params": f"crop-rect={left},{top},{right},{bottom}"}
    path = encode("a.mp4", [picture] * 2, pix_fmt="yuv444p", options=options)
    expected = picture[top : 96 - bottom, left : 128 - right].astype(int)
    frame = read_video(path).frames[0]
    assert frame.shape == expected.shape and np.abs(frame - expected).mean() < 1.5
