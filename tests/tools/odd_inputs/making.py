"""Real files, made on the spot: videos of any codec, clock and tags, with sound, subtitles and chapters; and patched bytes."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange

from vidtwin.video.pyav import open_encoder

os.environ.setdefault("SVT_LOG", "1")  # errors alone

ASSETS = Path(__file__).parents[3] / "tests" / "assets"
FILES = Path(__file__).parent / "files"  # of codecs that PyAV cannot write
RATE = 48_000  # of sound
MILLISECOND = Fraction(1, 1000)

Make = Callable[[Path], Path]  # makes an input in an empty folder, and says where it is


def pictures(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """uint8 (height, width, 3): smooth, moving, and another one when turned or mirrored."""
    rows, columns = np.mgrid[0:height, 0:width]
    return [
        np.stack(
            [
                128 + 100 * np.sin((columns + 3 * number) / 9),
                40 + 180 * rows / height,
                60 + 120 * columns / width + 60 * np.cos((rows + 2 * number) / 13),
            ],
            axis=-1,
        ).astype(np.uint8)
        for number in range(count)
    ]


def write_video(
    path: Path,
    frames: int = 8,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: int | Fraction = 25,
    *,
    options: Mapping[str, str] | None = None,
    pts: Sequence[int] | None = None,
    clock: Fraction | None = None,
    tags: Mapping[str, int] | None = None,
    aspect: Fraction | None = None,
    matrix: Sequence[int] | None = None,
    container_options: Mapping[str, str] | None = None,
    sound: Sequence[str] = (),
    sound_begins: Fraction = Fraction(0),
    subtitles: int = 0,
    chapters: Sequence[str] = (),
) -> Path:
    """A video of `pictures`.

    Args:
        pts: times of the frames in ticks of `clock`; by default they are numbers of frames.
        tags: attributes of the codec context: colorspace, color_trc, ...
        matrix: the display matrix, nine numbers: a b u, c d v, x y w.
        sound: encoders, one for each track. subtitles: tracks of SubRip. chapters: their titles, of equal length.
    """
    tags = dict(tags or {})
    with av.open(str(path), "w", container_options=dict(container_options or {})) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = clock or 1 / Fraction(rate)
        for tag, value in tags.items():
            setattr(stream.codec_context, tag, value)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix is not None:
            stream.set_display_matrix([value << 16 for value in matrix[:8]] + [matrix[8] << 30])
        tracks = [container.add_stream(name, rate=RATE) for name in sound]
        texts = [container.add_mux_stream("subrip") for _ in range(subtitles)]
        seconds = frames / Fraction(rate)
        _set_chapters(container, chapters, seconds)
        packets: list[Packet] = []
        open_encoder(stream.codec_context)
        for number, picture in enumerate(pictures(frames, *size)):
            frame = _converted(picture, pix_fmt, tags)
            frame.pts, frame.time_base = number if pts is None else pts[number], clock or 1 / Fraction(rate)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for track in tracks:
            packets += _tone(track, sound_begins, seconds)
        for text in texts:
            packets += _lines(text, seconds)
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            container.mux(packet)
    return path


def _converted(picture: np.ndarray, pix_fmt: str, tags: Mapping[str, int]) -> VideoFrame:
    if pix_fmt == "rgba" or pix_fmt == "yuva420p":  # see-through at the left
        alpha = np.broadcast_to(np.linspace(0, 255, picture.shape[1]).astype(np.uint8)[:, None], (*picture.shape[:2], 1))
        return VideoFrame.from_ndarray(np.concatenate([picture, alpha], axis=-1), format="rgba").reformat(format=pix_fmt)
    frame = VideoFrame.from_ndarray(picture, format="rgb24")
    frame.colorspace = tags.get("colorspace", 6)
    dst_color_range = tags.get("color_range", ColorRange.MPEG)
    return frame.reformat(format=pix_fmt, src_color_range=ColorRange.JPEG, dst_color_range=dst_color_range)


def _set_chapters(container: Any, titles: Sequence[str], seconds: Fraction) -> None:
    length = round(1000 * seconds / max(1, len(titles)))
    chapters = [
        {"id": n, "start": n * length, "end": (n + 1) * length, "time_base": MILLISECOND, "metadata": {"title": title}}
        for n, title in enumerate(titles)
    ]
    if chapters:
        container.set_chapters(chapters)


def _tone(stream: Any, begin: Fraction, seconds: Fraction) -> Iterator[Packet]:
    context = stream.codec_context
    context.open()
    size = context.frame_size or 1024
    resampler = av.AudioResampler(format=context.format.name, layout=context.layout.name, rate=RATE)
    for start in range(0, int(seconds * RATE), size):
        wave = (8000 * np.sin(2 * np.pi * 440 * np.arange(start, start + size) / RATE)).astype(np.int16)
        frame = AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), start + int(begin * RATE)
        for resampled in resampler.resample(frame):
            yield from stream.encode(resampled)
    yield from stream.encode(None)


def _lines(stream: Any, seconds: Fraction) -> Iterator[Packet]:
    for number in range(2):
        packet: Any = Packet(f"Line {number}".encode())
        packet.stream, packet.time_base = stream, MILLISECOND
        packet.pts = packet.dts = round(500 * number * seconds)
        packet.duration = round(400 * seconds)
        yield packet


def asset(name: str) -> Make:
    """A file that the tests or this folder carry."""
    return lambda folder: ASSETS / name if (ASSETS / name).exists() else FILES / name


def video(name: str, **options: Any) -> Make:
    """`write_video`."""
    return lambda folder: write_video(folder / name, **options)


def data(name: str, content: bytes) -> Make:
    """A file of these bytes."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def changed(make: Make, change: Callable[[bytes], bytes], name: str | None = None) -> Make:
    """A file with its bytes changed, by default under its own name."""

    def changed(folder: Path) -> Path:
        (folder / "before").mkdir()
        before = make(folder / "before")
        return data(name or before.name, change(before.read_bytes()))(folder)

    return changed


def replaced(old: bytes, new: bytes, after: bytes = b"", skip: int = 0) -> Callable[[bytes], bytes]:
    """Put `new` in place of the first `old` that follows `after`, or, where `old` is empty, of what is `skip` bytes behind it."""

    def replace(content: bytes) -> bytes:
        at = content.index(after) + len(after) + skip
        at = content.index(old, at) if old else at
        return content[:at] + new + content[at + len(new) :]

    return replace
