"""Rows: files whose headers state sizes and tracks beyond all measure; the rest of each is intact."""

import zlib
from collections.abc import Callable
from pathlib import Path

import av

from tests.tools.odd_inputs.judging import Gives, Refuses, Row
from tests.tools.odd_inputs.looks import images
from tests.tools.odd_inputs.making import Make, changed, replaced, video, write_video

HUGE = 65535
BASELINE = {"profile": "baseline"}
NONE_DECODED, TOO_LARGE = Refuses("no frame could be decoded"), Refuses("is larger than")
ONE_MISSING = Gives(7, notes=("only 7 of 8 frames could be decoded",))
SEGMENT, TRACKS, TRACK, UNKNOWN = b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae", b"\x01" + b"\xff" * 7


def little(length: int) -> bytes:
    """Width and height of that many bytes each."""
    return HUGE.to_bytes(length, "little") * 2


def big(length: int) -> bytes:
    """Width and height of that many bytes each."""
    return HUGE.to_bytes(length, "big") * 2


def sequence_header(side: int) -> Callable[[bytes], bytes]:
    """Another one for a raw H.264 stream, for square pictures."""

    def number(value: int) -> str:  # Exp-Golomb
        return f"{value + 1:b}".rjust(2 * (value + 1).bit_length() - 1, "0")

    def change(content: bytes) -> bytes:
        # Set 0; frame numbers of 4 bits, order of kind 2, 1 reference, no gaps; blocks of 16; whole frames, no cropping, no more.
        values = [0, 0, 2, 1], [side // 16 - 1] * 2
        bits = "0".join("".join(map(number, part)) for part in values) + "11001"
        bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
        header = bytes([0x67, 66, 0xC0, 51]) + int(bits, 2).to_bytes(len(bits) // 8, "big")
        begin = content.index(b"\0\0\1\x67") + 3
        return content[:begin] + header + content[content.index(b"\0\0\1", begin) :]

    return change


def png_header(content: bytes) -> bytes:
    """With its checksum."""
    header = b"IHDR" + big(4) + content[24:29]
    return content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]


def many_tracks(**options: object) -> Make:
    """An MKV whose last track is there 2000 times: the entry of each in the header, packets only of the first."""

    def make(folder: Path) -> Path:
        plain = {"write_crc32": "0"}
        path = write_video(folder / "in.mkv", frames=1, container_options=plain, **options)  # type: ignore[arg-type]
        content = path.read_bytes()
        with av.open(str(path)) as container:
            count = len(container.streams)
        segment = content.index(SEGMENT) + 4
        tracks = content.rindex(TRACKS)  # an index of the file has the name too
        first, end = contents(content, tracks + 4)
        entry = first
        for _ in range(count - 1):
            entry = contents(content, entry + 1)[1]
        last = content[entry:end]
        entries = content[first:end] + b"".join(renumbered(last, count + n) for n in range(1, 2000))
        size = (1 << 56 | len(entries)).to_bytes(8, "big")
        head = content[:segment] + UNKNOWN + content[segment + 8 : tracks + 4]
        path.write_bytes(head + size + entries + content[end:])
        return path

    return make


def contents(content: bytes, at: int) -> tuple[int, int]:
    """Where the contents of an element begin and end; `at`: where its size stands."""
    length = 9 - content[at].bit_length()
    size = int.from_bytes(content[at : at + length], "big") & ((1 << 7 * length) - 1)
    return at + length, at + length + size


def renumbered(entry: bytes, number: int) -> bytes:
    """The entry of a track with another number."""
    begin, end = contents(entry, 1)
    inside = entry[begin:end].replace(b"\xd7\x81\x02", b"\xd7\x82" + number.to_bytes(2, "big"), 1)
    return TRACK + (1 << 28 | len(inside)).to_bytes(4, "big") + inside


def row(where: str, make: Make, change: Callable[[bytes], bytes], expect: Gives | Refuses, side: int = HUGE) -> Row:
    return Row(f"{side}x{side} in {where}", changed(make, change), expect)


MKV_SIZE = replaced(b"\xb0\x82\x01\x00\xba\x82\x01\x00", b"\xb0\x82\xff\xff\xba\x82\xff\xff")
AVI_SIZE = replaced(b"", little(4), after=b"strf", skip=8)
PNG = images(["a.png"], given="a.png")
MJPEG = {"codec": "mjpeg", "pix_fmt": "yuvj420p"}

ROWS = [
    row("the header of an AVI of MPEG-4", video("in.avi", codec="mpeg4"), AVI_SIZE, Gives(8)),
    row("the header of an AVI of Motion JPEG", video("in.avi", **MJPEG), AVI_SIZE, Gives(8)),
    row("the header of an MKV", video("in.mkv", size=(256, 256)), MKV_SIZE, Gives(8)),
    row("the header of an MKV of FFV1", video("in.mkv", codec="ffv1", size=(256, 256)), MKV_SIZE, NONE_DECODED),
    row("the header of an MP4", video("in.mp4"), replaced(b"", big(2), after=b"avc1", skip=24), Gives(8)),
    row("the sequence header of H.264", video("in.h264", options=BASELINE), sequence_header(65536), NONE_DECODED, 65536),
    row("the sequence header of H.264", video("in.h264", options=BASELINE), sequence_header(16384), NONE_DECODED, 16384),
    row(
        "the pictures of VP8",
        video("in.webm", codec="libvpx"),
        replaced(b"", b"\xff\x3f" * 2, after=b"\x9d\x01\x2a"),
        NONE_DECODED,
        16383,
    ),
    row(
        "the first picture of Motion JPEG", video("in.avi", **MJPEG), replaced(b"", big(2), after=b"\xff\xc0", skip=3), ONE_MISSING
    ),
    row("a GIF", video("in.gif", frames=3, codec="gif", pix_fmt="rgb8"), replaced(b"", little(2), after=b"GIF89a"), NONE_DECODED),
    row("a PNG", PNG, png_header, NONE_DECODED),
    Row("65535x65535 in a PNG in a folder", lambda folder: changed(PNG, png_header)(folder).parent, TOO_LARGE),
    row("a JPEG", images(["a.jpg"], given="a.jpg"), replaced(b"", big(2), after=b"\xff\xc0", skip=3), TOO_LARGE),
    Row("2000 tracks of sound", many_tracks(sound=["pcm_s16le"]), Refuses("states more than 256 streams")),
    Row("2000 tracks of subtitles", many_tracks(subtitles=1), Refuses("states more than 256 streams")),
]
