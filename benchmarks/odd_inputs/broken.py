"""Rows: damaged files, files that are no videos, and files that lie about themselves."""

import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.odd_inputs.judging import Gives, Refuses, Row
from benchmarks.odd_inputs.looks import images
from benchmarks.odd_inputs.making import Make, asset, changed, data, replaced, video, write_video

PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2,\nreal.ts\n#EXT-X-ENDLIST\n"
CONCAT = b"ffconcat version 1.0\nfile real.ts\n"
HUGE = 65535
FAST_START = {"movflags": "+faststart"}


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def beside(name: str, content: bytes) -> Make:
    """A file that names another one, which is there."""

    def make(folder: Path) -> Path:
        write_video(folder / "real.ts")
        return data(name, content)(folder)

    return make


def empty_folder(folder: Path) -> Path:
    (folder / "videos").mkdir()
    write_video(folder / "videos" / "a.mp4", 1)
    return folder / "videos"


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "in.mp4")
    return folder / "in.mp4"


def unreadable(folder: Path) -> Path:
    path = write_video(folder / "in.mp4", 1)
    path.chmod(0)
    return path


def many_streams(kind: str) -> Make:
    """An MKV of one video and 2000 more tracks."""
    options = {"sound": ["pcm_s16le"] * 2000} if kind == "audio" else {"subtitles": 2000}
    return video("in.mkv", frames=1, **options)


def sps(side: int) -> Callable[[bytes], bytes]:
    """Put a sequence header of another size in front of a raw H.264 stream's pictures."""

    def ue(value: int) -> str:
        return f"{value + 1:b}".rjust(2 * (value + 1).bit_length() - 1, "0")

    def change(content: bytes) -> bytes:
        # Baseline, level 5.1, set 0; frame numbers of 4 bits, order 2, 1 reference; size; whole frames, no cropping, no more.
        blocks = (side + 15) // 16 - 1
        bits = ue(0) + ue(0) + ue(2) + ue(1) + "0" + ue(blocks) + ue(blocks) + "1" + "1" + "0" + "0" + "1"
        bits += "0" * (-len(bits) % 8)
        header = bytes([0x67, 66, 0xC0, 51]) + int(bits, 2).to_bytes(len(bits) // 8, "big")
        begin = content.index(b"\0\0\1\x67")
        end = content.index(b"\0\0\1", begin + 4)
        return content[:begin] + b"\0\0\1" + header + content[end:]

    return change


def png_size(content: bytes) -> bytes:
    import zlib

    header = b"IHDR" + HUGE.to_bytes(4, "big") * 2 + content[24:29]
    return content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]


def both_sides(length: int, order: str) -> bytes:
    return HUGE.to_bytes(length, order) * 2  # type: ignore[arg-type]


AVI_HEADER = replaced(b"", both_sides(4, "little"), b"strf", 8)  # behind the size of the chunk and that of the header
MKV_HEADER = replaced(b"\xb0\x81\x40\xba\x81\x30", b"\xb0\x82\xff\xff\xba\x82\xff\xff")
MP4_HEADER = replaced(b"", both_sides(2, "big"), b"avc1", 24)
TOO_LARGE = Refuses("its pictures are 65535x65535, more than 134217728 pixels; scale it down first")

ROWS = [
    Row("cut off at half, MP4 with its index in front", changed(video("in.mp4", frames=40, options={"g": "8"}, container_options=FAST_START), half), Gives(17, notes=("of 40 frames could be decoded",))),
    Row("cut off at half, MP4 with its index at the end", changed(video("in.mp4", frames=40), half), Refuses("its index (moov) is missing")),
    Row("cut off at half, MKV", changed(video("in.mkv", frames=40, options={"g": "8"}), half), Gives(17)),
    Row("cut off at half, TS", changed(video("in.ts", frames=40, options={"g": "8"}), half), Gives(17)),
    Row("bytes overwritten, with sound", asset("bitflips.mp4"), Gives(50, notes=("decoded frames are damaged",), sound=1)),
    Row("0 bytes", data("in.mp4", b""), Refuses("is empty (0 bytes); get the file again")),
    Row("text named .mp4", data("in.mp4", b"this is no video\n"), Refuses("is not a video file")),
    Row("JPEG named .mp4", changed(images(["a.jpg"], given="a.jpg"), bytes, "in.mp4"), Gives(1)),
    Row("a folder without images", empty_folder, Refuses("is a folder without images")),
    Row("a file that is not there", lambda folder: folder / "in.mp4", Refuses("no such file; check the name")),
    Row("sound only", asset("audio_only.mp4"), Refuses("has no video, only audio")),
    Row("music with cover art", asset("cover_art_only.m4a"), Refuses("has no video, only audio, cover art")),
    Row("a FIFO", fifo, Refuses("is not a regular file")),
    Row("a file without permission to read", unreadable, Refuses("check its permissions"), skip=lambda: "" if os.geteuid() else "root may read all files"),
    Row("a playlist (M3U8) named .mp4", beside("in.mp4", PLAYLIST), Refuses("is a playlist")),
    Row("a list of files (ffconcat) named .mp4", beside("in.mp4", CONCAT), Refuses("is a playlist")),
    Row("a playlist, in.m3u8", beside("in.m3u8", PLAYLIST), Refuses("is a playlist")),
    Row("65535x65535 in the header of an AVI of H.264", changed(video("in.avi"), AVI_HEADER), TOO_LARGE),
    Row("65535x65535 in the header of an AVI of Motion JPEG", changed(video("in.avi", codec="mjpeg", pix_fmt="yuvj420p"), AVI_HEADER), TOO_LARGE),
    Row("65535x65535 in the header of an MKV", changed(video("in.mkv"), MKV_HEADER), TOO_LARGE),
    Row("65535x65535 in the header of an MP4", changed(video("in.mp4"), MP4_HEADER), TOO_LARGE),
    Row("65536x65536 in the sequence header of H.264", changed(video("in.h264", options={"profile": "baseline"}), sps(65536)), TOO_LARGE),
    Row("16384x16384 in the sequence header of H.264", changed(video("in.h264", options={"profile": "baseline"}), sps(16384)), TOO_LARGE),
    Row("16383x16383 in the pictures of VP8", changed(video("in.webm", codec="libvpx"), replaced(b"", b"\xff\x3f" * 2, b"\x9d\x01\x2a")), TOO_LARGE),
    Row("65535x65535 in the header of a GIF", changed(video("in.gif", frames=3, codec="gif", pix_fmt="rgb8"), replaced(b"", both_sides(2, "little"), b"GIF89a")), TOO_LARGE),
    Row("65535x65535 in a PNG", changed(images(["a.png"], given="a.png"), png_size), TOO_LARGE),
    Row("65535x65535 in a JPEG", changed(images(["a.jpg"], given="a.jpg"), replaced(b"", both_sides(2, "big"), b"\xff\xc0", 3)), TOO_LARGE),
    Row("2000 tracks of sound", many_streams("audio"), Refuses("states more than 256 streams")),
    Row("2000 tracks of subtitles", many_streams("subtitles"), Refuses("states more than 256 streams")),
]
