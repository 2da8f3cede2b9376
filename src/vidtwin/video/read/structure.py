"""What FFmpeg steps over without a word: damage between packets, and what a file holds beside the video that is read.

Damaged packets are refused by decoders. Damage of what lies around them makes FFmpeg look for the next packet that it knows, and
frames are lost in silence. So the parts of Matroska, WebM, MPEG-TS, FLV and Ogg files are walked here, without decoding.
"""

import mmap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from av.video.stream import VideoStream

import vidtwin.video.read.matroska as matroska
from vidtwin.video.pyav import shown_entries
from vidtwin.video.read.decode import Tally, TarMember, VideoFile, demux_packets, file_holding, open_video

TS_PACKETS = (188, 192, 204)  # bytes: plain, with a time (.m2ts), with error correction
ALIGNED = 5  # packets of a transport stream in a row that begin with SYNC, which tell where they begin
SYNC = 0x47
FLV_TAGS = (8, 9, 18)  # sound, video, data
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class _Bytes(NamedTuple):
    """A file as it lies in memory, or a part of it: from `begin` up to `end`."""

    data: mmap.mmap
    begin: int
    end: int


def complaint(path: VideoFile, container: str) -> str:
    """What is wrong with a file besides its packets, in one clause; "" if nothing is. container: FFmpeg's name of its format."""
    if missing := matroska.missing_bytes(path):
        return f"the file's last {missing} bytes are missing"
    walk = {"matroska,webm": matroska.damage, "mpegts": _ts_damage, "flv": _flv_damage, "ogg": _ogg_damage}.get(container)
    with _opened(path) as (data, begin, end):
        if container.startswith("mov"):
            joined = _second_movie(data, begin, end)
            return "" if joined is None else f"another file is joined to it from byte {joined - begin} on, which is left out"
        damaged = None if walk is None else walk(data, begin, end)
    return "" if damaged is None else f"the file is damaged at byte {damaged - begin}"


def stated_frames(path: VideoFile, stream: VideoStream) -> int | None:
    """Frames that the container promises to show, or None; those that an edit list cuts away, or that only repeat, are not."""
    if not stream.frames:
        return None
    if stream.container.format.name.startswith("mov"):  # its index is complete, and edited
        shown = shown_entries(stream)
        if shown is None:
            with open_video(path) as (container, video):
                return stream.frames - sum(packet.is_discard for packet in demux_packets(container, video, Tally()))
        return shown or stream.frames
    if stream.container.format.name == "avi":
        with _opened(path) as (data, begin, end):
            return stream.frames - _empty_chunks(data, begin, end, stream.index)
    return stream.frames


@contextmanager
def _opened(path: VideoFile) -> Iterator[_Bytes]:
    with file_holding(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        begin, size = (path.offset, path.size) if isinstance(path, TarMember) else (0, len(data))
        yield _Bytes(data, begin, min(len(data), begin + size))


def _second_movie(data: mmap.mmap, begin: int, end: int) -> int | None:
    """Where a second MP4 begins in one that is not fragmented (fragments may well follow another header of theirs)."""
    seen, second = 0, None
    while begin + 8 <= end:
        size, kind = int.from_bytes(data[begin : begin + 4], "big"), data[begin + 4 : begin + 8]
        if size == 1:
            size = int.from_bytes(data[begin + 8 : begin + 16], "big")
        if kind == b"ftyp" and seen and second is None:
            second = begin
        if kind == b"moof":
            return None
        seen += kind == b"moov"
        if size < 8:
            break
        begin += size
    return second if seen > 1 else None


def _empty_chunks(data: mmap.mmap, begin: int, end: int, stream: int) -> int:
    """Entries of 0 bytes in the index of an AVI: there the picture stays."""
    at, name = begin + 12, b"%02d" % stream
    while at + 8 <= end:
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind == b"idx1":
            index = data[at + 8 : min(end, at + 8 + size)]
            entries = np.frombuffer(index, "S4,<u4,<u4,<u4", len(index) // 16)
            is_picture = np.isin(entries["f0"], [name + b"dc", name + b"db"])
            return int((is_picture & (entries["f3"] == 0)).sum())
        at += 8 + size + size % 2
    return 0


def _ts_damage(data: mmap.mmap, begin: int, end: int) -> int | None:
    """The first byte between two packets of a transport stream that belongs to none."""
    stream = np.frombuffer(data, np.uint8)[begin:end]
    place = _next_packets(stream, 0)
    while place is not None:
        at, length = place
        astray = np.flatnonzero(stream[at::length] != SYNC)
        if not len(astray):
            return None
        lost = at + int(astray[0]) * length
        place = _next_packets(stream, lost)  # joined recordings need not be whole packets
        if place is not None and place[0] - lost >= length:
            return begin + lost
    return None


def _next_packets(stream: np.ndarray, at: int) -> tuple[int, int] | None:
    """The place from `at` on where ALIGNED packets begin, and their length."""
    places = at + np.flatnonzero(stream[at : at + (1 << 24)] == SYNC)
    for place in places.tolist():
        for length in TS_PACKETS:
            if place + ALIGNED * length <= len(stream) and (stream[place : place + ALIGNED * length : length] == SYNC).all():
                return place, length
    return None


def _flv_damage(data: mmap.mmap, begin: int, end: int) -> int | None:
    at = begin + int.from_bytes(data[begin + 5 : begin + 9], "big") + 4
    while at + 11 <= end:
        after = at + 11 + int.from_bytes(data[at + 1 : at + 4], "big")
        if data[at] & 0x1F not in FLV_TAGS or after > end:
            return at
        at = after + 4
    return None


def _ogg_damage(data: mmap.mmap, begin: int, end: int) -> int | None:
    while begin + 27 <= end:
        lacing = data[begin + 27 : begin + 27 + data[begin + 26]]
        after = begin + 27 + len(lacing) + sum(lacing)
        if data[begin : begin + 4] != b"OggS" or after > end or _ogg_checksum(data[begin:after]) != data[begin + 22 : begin + 26]:
            return begin
        begin = after
    return None


def _ogg_checksum(page: bytes) -> bytes:
    """CRC-32 as Ogg has it: without the reversal of bits and the inversions of zlib's."""
    zeroed = page[:22] + bytes(4) + page[26:]
    reversed_bits = zlib.crc32(zeroed.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reversed_bits:032b}"[::-1], 2).to_bytes(4, "little")
