"""The growing form of a latent file: a header, then equal records, one a window, each with a checksum.

    8 bytes    b"VIDTWIN\\n"
    4, 4       length and CRC-32 of the header, little-endian
    header     JSON: `stream.Header`
    records    packed, little-endian, of `record_dtype`: CRC-32 of all that follows in it, number of the window, number of its
               frames, whether it is the last, f timestamps, f marks of shot cuts, then the tensors (T, ...) as float32

What follows the last whole and sound record is not read, and is overwritten when writing goes on.
"""

import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vidtwin.checked import parse_json
from vidtwin.files import in_line, tensor_output

MAGIC, PREFIX = b"VIDTWIN\n", struct.Struct("<8sII")
MOST_HEADER = 1 << 20  # bytes
CHUNK = 1 << 24  # bytes copied at a time
MOST_HALF = 65504  # the largest float16

Stored = Literal["float16", "float32"]


def record_dtype(frames: int, shapes: Mapping[str, tuple[int, ...]]) -> np.dtype[Any]:
    """Of a record for windows of so many frames and tensors of these names and shapes."""
    fields: list[Any] = [("crc", "<u4"), ("index", "<u4"), ("frames", "<u4"), ("last", "<u4")]
    fields += [("ticks", "<i8", (frames,)), ("cuts", "u1", (frames,))]
    return np.dtype(fields + [(name, "<f4", shape) for name, shape in shapes.items()])


def is_records(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


class Records:
    """The sound records of a file, from the first one on, as far as they are whole.

    Raises:
        ValueError: the header is damaged or not there.
    """

    def __init__(self, path: Path):
        self.path = path
        with path.open("rb") as file:
            head = file.read(PREFIX.size)
            if len(head) < PREFIX.size:
                raise ValueError(f"{path}: not a latent file, or cut short; encode the video again")
            magic, length, crc = PREFIX.unpack(head)
            text = file.read(min(length, MOST_HEADER))
        if magic != MAGIC or len(text) != length or zlib.crc32(text) != crc:
            raise ValueError(f"{path}: not a latent file, or its header is damaged; encode the video again")
        try:
            self.facts: Any = parse_json(text)
        except ValueError as error:
            raise ValueError(f"{path}: not a latent file, or its header is damaged; encode the video again") from error
        self._start = PREFIX.size + length
        self._map: np.ndarray = np.empty(0)

    def bind(self, dtype: np.dtype[Any]) -> int:
        """Say what the records are; returns how many are sound."""
        count = (self.path.stat().st_size - self._start) // dtype.itemsize
        if count == 0:
            self._map = np.empty(0, dtype)
            return 0
        mapped = np.memmap(self.path, dtype, "r", self._start, (count,))
        sound = 0
        while sound < count and checksum(mapped[sound : sound + 1]) == mapped[sound]["crc"] and mapped[sound]["index"] == sound:
            sound += 1
            if mapped[sound - 1]["last"]:
                break
        self._map = mapped[:sound]
        return sound

    @property
    def end(self) -> int:
        """Bytes of the file that are sound."""
        return self._start + len(self._map) * self._map.dtype.itemsize

    def read(self, index: int) -> np.void:
        """Record `index`."""
        record: np.void = self._map[index]
        if checksum(self._map[index : index + 1]) != record["crc"]:
            raise ValueError(f"{self.path}: the record of window {index} is damaged; encode the video again")
        return record

    def timing(self, stride: int) -> tuple[np.ndarray, list[int]]:
        """Timestamps of all frames, int64, and the numbers of those that begin a new shot."""
        if len(self._map) == 0:
            return np.empty(0, np.int64), []
        frames, most = self._map["frames"].astype(np.int64), self._map["ticks"].shape[1]
        if (frames[:-1] != most).any() or not 1 <= frames[-1] <= most:
            raise ValueError(f"{self.path}: windows are not full; encode the video again")
        ticks, cuts = ([self._map[name][:-1, :stride].ravel(), self._map[name][-1, : frames[-1]]] for name in ("ticks", "cuts"))
        return np.concatenate(ticks).astype(np.int64), np.flatnonzero(np.concatenate(cuts)).tolist()

    @property
    def finished(self) -> bool:
        """Whether the last record says that it is."""
        return len(self._map) > 0 and bool(self._map[-1]["last"])

    def column(self, name: str) -> Iterator[np.ndarray]:
        """A tensor of all windows, one after another, in pieces."""
        step = max(1, CHUNK // max(1, self._map.dtype[name].itemsize))
        for start in range(0, len(self._map), step):
            yield np.ascontiguousarray(self._map[name][start : start + step])

    def kind(self, name: str, stored: Stored) -> str:
        """What a tensor is stored as: "F16" if that was asked for and its values are in range, else "F32"."""
        half = stored == "float16" and all(np.abs(piece).max(initial=0) <= MOST_HALF for piece in self.column(name))
        return "F16" if half else "F32"


class RecordWriter:
    """Appends records to a file, and goes on with one that was stopped if `resume`; one process at a time.

    Attributes:
        count: records in the file.

    Raises:
        ValueError: with `resume`, a file of another header; it names what differs. OSError: another process writes it.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any], dtype: np.dtype[Any], resume: bool):
        self.path, self.dtype, self.count = path, dtype, 0
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | getattr(os, "O_CLOEXEC", 0)
        self._file = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise OSError(f"{path}: another process is writing it; wait for it or choose another output") from error
            if resume and is_records(path):
                self._go_on(facts)
            else:
                text = json.dumps(facts).encode()
                self._file.truncate(0)
                self._write(PREFIX.pack(MAGIC, len(text), zlib.crc32(text)) + text)
        except BaseException:
            self._file.close()
            raise

    def _go_on(self, facts: Mapping[str, Any]) -> None:
        found = Records(self.path)
        wanted, there = json.loads(json.dumps(facts)), found.facts if isinstance(found.facts, dict) else {}
        other = [key for key in wanted.keys() | there.keys() if wanted.get(key) != there.get(key)]
        if other:
            raise ValueError(
                f"{self.path}: was started with another {in_line(', '.join(sorted(other)))}; "
                "use the same options, or run without resume=True to start over"
            )
        self.count = found.bind(self.dtype)
        self._file.truncate(found.end)
        self._file.seek(found.end)

    def append(
        self, frames: int, last: bool, ticks: tuple[int, ...], cuts: tuple[bool, ...], tensors: Mapping[str, np.ndarray]
    ) -> None:
        """Write the next record."""
        record = np.zeros(1, self.dtype)
        record["index"], record["frames"], record["last"] = self.count, frames, last
        record["ticks"][0, :frames], record["cuts"][0, :frames] = ticks, cuts
        for name, tensor in tensors.items():
            record[name][0] = tensor
        record["crc"] = checksum(record)
        self._write(record.tobytes())
        self.count += 1

    def _write(self, data: bytes) -> None:
        """All of it, straight to the file: a kill leaves what was written."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def read(self) -> Records:
        """All that was written."""
        found = Records(self.path)
        found.bind(self.dtype)
        return found

    def close(self, keep: bool) -> None:
        """`keep`: leave the file for `resume`, if it holds a record; else delete it."""
        if not keep or self.count == 0:
            self.path.unlink(missing_ok=True)
        self._file.close()


def checksum(record: np.ndarray) -> int:
    """CRC-32 of an array of one record but for its first field."""
    return zlib.crc32(np.ascontiguousarray(record).view(np.uint8)[4:].data)


def write_safetensors(
    path: Path,
    found: Records,
    shapes: Mapping[str, tuple[int, ...]],
    extra: Mapping[str, np.ndarray],
    facts: str,
    key: str,
    stored: Stored,
) -> None:
    """Records -> a safetensors file with each tensor of all windows in one piece (N T, ...); memory holds one piece of CHUNK bytes.

    `extra`: int64 arrays to go with them. `facts`: goes to the metadata under `key`. `stored`: as `Records.kind`.
    """
    count = len(found._map)
    entries: dict[str, Any] = {"__metadata__": {key: facts}}
    end = 0
    for name, array in extra.items():  # first: int64 wants its alignment
        entries[name] = {"dtype": "I64", "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    kinds = {name: found.kind(name, stored) for name in shapes}
    for name in sorted(shapes, key=kinds.__getitem__, reverse=True):  # float32 first, for its alignment
        tiles, *shape = shapes[name]
        size = count * found._map.dtype[name].itemsize // (2 if kinds[name] == "F16" else 1)
        entries[name] = {"dtype": kinds[name], "shape": [count * tiles, *shape], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with tensor_output(path) as partial, partial.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in extra.values():
            file.write(np.ascontiguousarray(array, "<i8").tobytes())
        for name in (name for name in entries if name in shapes):
            for piece in found.column(name):
                file.write(piece.astype("<f2" if kinds[name] == "F16" else "<f4", copy=False).tobytes())
