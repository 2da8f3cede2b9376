"""Rows: damaged files, and what is no video."""

import os
from pathlib import Path

import av

from tests.tools.odd_inputs.judging import Gives, Refuses, Row
from tests.tools.odd_inputs.looks import images
from tests.tools.odd_inputs.making import Make, asset, changed, data, video, write_video

PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2,\nreal.ts\n#EXT-X-ENDLIST\n"
CONCAT = b"ffconcat version 1.0\nfile real.ts\n"
FRAMES = 20


def cut_off(name: str, **options: object) -> Make:
    """A video of 20 frames without what is stored from frame 10 on."""

    def make(folder: Path) -> Path:
        whole = write_video(folder / name, FRAMES, options={"bf": "0"}, **options)  # type: ignore[arg-type]
        with av.open(str(whole)) as container:
            places = [packet.pos for packet in container.demux(video=0) if packet.size]
        whole.write_bytes(whole.read_bytes()[: places[FRAMES // 2]])
        return whole

    return make


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def beside(name: str, content: bytes) -> Make:
    """A file that names another one, which is there."""

    def make(folder: Path) -> Path:
        write_video(folder / "real.ts")
        return data(name, content)(folder)

    return make


def folder_of_videos(folder: Path) -> Path:
    write_video(folder / "a.mp4", 1)
    return folder


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "in.mp4")
    return folder / "in.mp4"


def unreadable(folder: Path) -> Path:
    path = write_video(folder / "in.mp4", 1)
    path.chmod(0)
    return path


def as_root() -> str:
    return "" if os.geteuid() else "root may read all files"


ROWS = [
    Row(
        "cut off at half, MP4 with its index in front",
        cut_off("in.mp4", container_options={"movflags": "+faststart"}),
        Gives(10, notes=("only 10 of 20 frames could be decoded",)),
    ),
    Row(
        "cut off at half, MP4 with its index at the end",
        changed(video("in.mp4", frames=40), half),
        Refuses("its index (moov) is missing"),
    ),
    Row("cut off at half, MKV", cut_off("in.mkv"), Gives(10, notes=("get the file again",))),
    Row("cut off at half, TS", cut_off("in.ts"), Gives(10)),
    Row("bytes overwritten, with sound", asset("bitflips.mp4"), Gives(50, notes=("decoded frames are damaged",), sound=1)),
    Row("0 bytes", data("in.mp4", b""), Refuses("is empty (0 bytes); get the file again")),
    Row("text named .mp4", data("in.mp4", b"this is no video\n"), Refuses("is not a video file")),
    Row("JPEG named .mp4", changed(images(["a.jpg"], given="a.jpg"), bytes, "in.mp4"), Gives(1)),
    Row("a folder without images", folder_of_videos, Refuses("is a folder without images")),
    Row("a file that is not there", lambda folder: folder / "in.mp4", Refuses("no such file; check the name")),
    Row("sound only", asset("audio_only.mp4"), Refuses("has no video, only audio")),
    Row("music with cover art", asset("cover_art_only.m4a"), Refuses("has no video, only audio, cover art")),
    Row("a FIFO", fifo, Refuses("is not a regular file")),
    Row("a file without permission to read", unreadable, Refuses("check its permissions"), skip=as_root),
    Row("a playlist (M3U8) named .mp4", beside("in.mp4", PLAYLIST), Refuses("is not a video file")),
    Row("a list of files (ffconcat) named .mp4", beside("in.mp4", CONCAT), Refuses("is a playlist")),
    Row("a playlist, in.m3u8", beside("in.m3u8", PLAYLIST), Refuses("is a playlist")),
]
