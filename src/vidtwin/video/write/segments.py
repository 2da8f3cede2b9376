"""Compressed frames on their way into a file: segments, each of an encoder run of its own and durable once it is sealed.

A segment is one file: for each frame its size (4 bytes), 1 for a key frame and 0 for others (1 byte), and its packet. Times are
not in it; the journal has them.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from typing import Any

import numpy as np
from av.packet import Packet

from vidtwin.video.write.encoder import FrameEncoder
from vidtwin.video.write.work_folder import WorkFolder, write_all

RECORD = struct.Struct("<IB")
CHUNK = 1 << 20


class Segments:
    """The frames of a video, compressed, in the work folder.

    Args:
        folder: open.
        new_encoder: opens an encoder; all of them with the same settings.

    Raises, in its methods, OSError and av.error.FFmpegError as they come.
    """

    def __init__(self, folder: WorkFolder, new_encoder: Callable[[], FrameEncoder]) -> None:
        self._folder, self._new_encoder = folder, new_encoder
        self._encoder: FrameEncoder | None = None
        self._file: FileIO | None = None
        self._bytes = self._checksum = 0
        self._names: list[str] = []

    def restore(self, sealed: Iterable[dict[str, Any]]) -> int:
        """Take over segments that `seal` described; returns how many of them, from the first, are intact. Others are deleted."""
        intact = 0
        for about in sealed:
            if "segment" in about:
                if not self._is_intact(about):
                    break
                self._names.append(about["segment"])
            intact += 1
        for path in self._folder.path.glob("segment-*"):
            if path.name not in self._names:
                path.unlink()
        return intact

    def write(self, picture: np.ndarray) -> None:
        """Compress one more picture, uint8 (H, W, 3) as stored."""
        if self._encoder is None:
            self._begin()
        assert self._encoder is not None
        self._store(self._encoder.encode(picture))

    def seal(self) -> dict[str, Any]:
        """End the segment; what `restore` needs to know of it, and nothing if no picture was written since the last."""
        if self._encoder is None:
            return {}
        assert self._file is not None
        self._store(self._encoder.finish())
        if self._folder.durable:
            os.fsync(self._file.fileno())
            self._folder.sync()
        about = {"segment": self._names[-1], "bytes": self._bytes, "crc": self._checksum}
        self.abandon()
        return about

    def abandon(self) -> None:
        """Close what is open."""
        self._encoder = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def packets(self) -> Iterator[Packet]:
        """The packets of all sealed segments, in order, without times."""
        for name in self._names:
            with (self._folder.path / name).open("rb") as file:
                while header := file.read(RECORD.size):
                    size, is_key = RECORD.unpack(header)
                    packet = Packet(file.read(size))
                    packet.is_keyframe = bool(is_key)
                    yield packet

    def _begin(self) -> None:
        self._encoder = self._new_encoder()
        self._names.append(f"segment-{len(self._names):06}")
        self._file = (self._folder.path / self._names[-1]).open("xb", buffering=0)
        self._bytes = self._checksum = 0

    def _store(self, packets: list[Packet]) -> None:
        assert self._file is not None
        for packet in packets:
            record = RECORD.pack(packet.size, packet.is_keyframe) + bytes(packet)
            write_all(self._file.fileno(), record)
            self._bytes += len(record)
            self._checksum = zlib.crc32(record, self._checksum)

    def _is_intact(self, about: dict[str, Any]) -> bool:
        path = self._folder.path / about["segment"]
        if not path.is_file() or path.is_symlink() or path.stat().st_size != about["bytes"]:
            return False
        checksum = 0
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                checksum = zlib.crc32(chunk, checksum)
        return checksum == about["crc"]
