"""The compressed form of a latent file: a header, a record for each window that is decoded by itself, and an index.

    8 bytes    b"VIDTWINC"
    4, 4, 4    version, length and CRC-32 of the header; all numbers little-endian and unsigned
    header     zlib of JSON: `stream.Header`, `entropy.LatentCoder`, and "kl_bits" of Structure and Dynamics in all windows
    records    4      CRC-32 of the next 24 bytes, the timing and the cuts
               4 x 6  number of the window and of its frames n, bytes of timing, of Structure, of Dynamics, CRC-32 of the last two
               timing first timestamp, first difference, then differences of differences; zeros at the end are left out
               cuts   n bits: whether a frame begins a new shot, the highest bit of a byte first
               Structure, Dynamics: `entropy.LatentCoder.encode`
    index      4 x N: bytes of each record
    4, 4, 8    CRC-32 of the index, N, b"VIDTWINE"

Numbers of the timing are zigzag (0, -1, 1, -2, ...), 7 bits a byte, the lowest first, the highest bit of a byte for "more follows".
"""

import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidtwin.checked import build, parse_json
from vidtwin.files import atomic_output
from vidtwin.latents.bins import needs_constriction
from vidtwin.latents.entropy import LatentCoder, Moments, Prior, check_channels, check_step
from vidtwin.latents.stream import Header, Window
from vidtwin.model.latents import Latents

VERSION = 1
MAGIC, END = b"VIDTWINC", b"VIDTWINE"
PREFIX, FRONT, TAIL = struct.Struct("<8sIII"), struct.Struct("<7I"), struct.Struct("<II8s")
MOST_HEADER = 1 << 20  # bytes, of the JSON too
VARINT = 10  # bytes at most
ANOTHER = "encode the video again"


@dataclass(frozen=True)
class CompressedSize:
    """What a compressed file takes.

    Attributes:
        bytes: of the file. windows: bytes of each record.
        structure, dynamics: coded bytes. structure_values, dynamics_values: how many values they hold.
        pixels: of the frames that decode. step: of the quantiser, in sigma.
        kl_bits: KL to N(0, 1) of Structure and Dynamics in bits, over all windows; None if the log-variances were not known.
    """

    bytes: int
    windows: tuple[int, ...]
    structure: int
    dynamics: int
    structure_values: int
    dynamics_values: int
    pixels: int
    step: float
    kl_bits: tuple[float, float] | None

    @property
    def bits_per_value(self) -> float:
        """All of the file, header and timestamps too."""
        return 8 * self.bytes / (self.structure_values + self.dynamics_values)

    @property
    def structure_bits_per_value(self) -> float:
        return 8 * self.structure / self.structure_values

    @property
    def dynamics_bits_per_value(self) -> float:
        return 8 * self.dynamics / self.dynamics_values

    @property
    def bits_per_pixel(self) -> float:
        return 8 * self.bytes / self.pixels

    @property
    def kl_bits_per_value(self) -> float | None:
        return None if self.kl_bits is None else sum(self.kl_bits) / (self.structure_values + self.dynamics_values)

    def __str__(self) -> str:
        kl = "" if self.kl_bits_per_value is None else f"; KL {self.kl_bits_per_value:.3g}"
        return (
            f"{self.bytes:,} bytes, {self.bits_per_pixel:.3g} bits a pixel, {self.bits_per_value:.3g} bits a value "
            f"(Structure {self.structure_bits_per_value:.3g}, Dynamics {self.dynamics_bits_per_value:.3g}{kl})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, safe for JSON."""
        return {
            "step": self.step,
            "bytes": self.bytes,
            "bytes_per_window": self.bytes / len(self.windows),
            "structure_bytes": self.structure,
            "dynamics_bytes": self.dynamics,
            "bits_per_value": self.bits_per_value,
            "structure_bits_per_value": self.structure_bits_per_value,
            "dynamics_bits_per_value": self.dynamics_bits_per_value,
            "bits_per_pixel": self.bits_per_pixel,
            "kl_bits": None if self.kl_bits is None else list(self.kl_bits),
            "kl_bits_per_value": self.kl_bits_per_value,
        }


@dataclass(frozen=True)
class _Rate:
    """What a header says of KL, beside `stream.Header` and `entropy.LatentCoder`."""

    kl_bits: tuple[float, float] | None = None


class _Record(NamedTuple):
    """Where a window is: of the file, the first byte of its coded values, the bytes of each part, their CRC-32; its timing."""

    start: int
    structure: int
    dynamics: int
    crc: int
    ticks: tuple[int, ...]
    cuts: tuple[bool, ...]


def is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


class Compressed:
    """A file of the compressed form. Values are read and decoded window by window.

    Attributes:
        facts: the header's JSON.

    Raises:
        ValueError: the header or the index is damaged, or the file is cut short.
    """

    def __init__(self, path: Path):
        self.path, self.bytes = path, path.stat().st_size
        with path.open("rb") as file:
            head = file.read(PREFIX.size)
            if len(head) < PREFIX.size:
                raise ValueError(f"{path}: cut short; {ANOTHER}")
            magic, version, length, crc = PREFIX.unpack(head)
            if magic != MAGIC or version != VERSION:
                raise ValueError(f"{path}: compressed form {version}; this vidtwin reads {VERSION}; {ANOTHER}")
            text = file.read(min(length, MOST_HEADER))
            if len(text) != length or zlib.crc32(text) != crc:
                raise ValueError(f"{path}: its header is damaged; {ANOTHER}")
            self.facts = _unpacked(text, path)
            self._sizes = self._index(file, PREFIX.size + length)
        self._starts = list(accumulate(self._sizes, initial=PREFIX.size + length))
        self._records: list[_Record] = []

    def _index(self, file: Any, start: int) -> tuple[int, ...]:
        """Bytes of each record; the first is at `start`."""
        damaged = ValueError(f"{self.path}: its index is damaged, or it is cut short; {ANOTHER}")
        if self.bytes < start + TAIL.size:
            raise damaged
        file.seek(self.bytes - TAIL.size)
        crc, count, end = TAIL.unpack(file.read(TAIL.size))
        if end != END or count > (self.bytes - start - TAIL.size) // (4 + FRONT.size):
            raise damaged
        file.seek(self.bytes - TAIL.size - 4 * count)
        data = file.read(4 * count)
        sizes = struct.unpack(f"<{count}I", data)
        if zlib.crc32(data) != crc or start + sum(sizes) + 4 * count + TAIL.size != self.bytes:
            raise damaged
        return sizes

    def bind(self, header: Header) -> None:
        """Say what the windows are; reads their times. Raises ValueError, without the file's name, for a damaged record."""
        if header.logvar:
            raise ValueError("it states log-variances, which this form does not hold")
        self._shapes = header.shapes
        self.coder = LatentCoder.from_dict(self.facts, header.shapes)
        self._pixels = prod(header.geometry.output_size)
        f, last = header.config.frames, len(self._sizes) - 1
        with self.path.open("rb") as file:
            for index, (start, size) in enumerate(zip(self._starts, self._sizes, strict=False)):
                file.seek(start)
                self._records.append(record := _front(file, index, start, size, f))
                if len(record.ticks) != f and index != last:
                    raise ValueError(f"window {index} is not full")

    def timing(self, stride: int) -> tuple[np.ndarray, list[int]]:
        """Timestamps of all frames, int64, and the numbers of those that begin a new shot."""
        if not self._records:
            return np.empty(0, np.int64), []
        *full, last = self._records
        ticks = [tick for record in full for tick in record.ticks[:stride]] + list(last.ticks)
        cuts = [cut for record in full for cut in record.cuts[:stride]] + list(last.cuts)
        return np.array(ticks, np.int64), np.flatnonzero(cuts).tolist()

    def latents(self, index: int) -> Latents:
        """Of a window. Raises ValueError for a damaged record, with the file's name."""
        record = self._records[index]
        needs_constriction()
        with self.path.open("rb") as file:
            file.seek(record.start)
            data = file.read(record.structure + record.dynamics)
        if zlib.crc32(data) != record.crc:
            raise ValueError(f"{self.path}: the record of window {index} is damaged; {ANOTHER}")
        try:
            return self.coder.decode(data[: record.structure], data[record.structure :], self._shapes)
        except ValueError as error:
            raise ValueError(f"{self.path}: window {index} cannot be decoded ({error}); {ANOTHER}") from error

    def size(self, frames: int) -> CompressedSize:
        """What the file takes, if so many frames decode from it. Raises ValueError if the KL it states is none."""
        kl = build(_Rate, self.facts, more=True).kl_bits
        values = [len(self._records) * prod(shape) for shape in self._shapes]
        return CompressedSize(
            bytes=self.bytes,
            windows=self._sizes,
            structure=sum(record.structure for record in self._records),
            dynamics=sum(record.dynamics for record in self._records),
            structure_values=values[0],
            dynamics_values=values[1] + values[2],
            pixels=self._pixels * frames,
            step=self.coder.step,
            kl_bits=kl,
        )


def _unpacked(text: bytes, path: Path) -> dict[str, Any]:
    """The header's JSON, of MOST_HEADER bytes at most."""
    try:
        facts = parse_json(zlib.decompressobj().decompress(text, MOST_HEADER))
    except (zlib.error, ValueError) as error:
        raise ValueError(f"{path}: its header is damaged; {ANOTHER}") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{path}: its header is damaged; {ANOTHER}")
    return facts


def _front(file: Any, index: int, start: int, size: int, most: int) -> _Record:
    """What a record of `size` bytes says before its coded values; `most`: frames of a window."""
    damaged = ValueError(f"the record of window {index} is damaged")
    head = file.read(FRONT.size) if size >= FRONT.size else b""
    if len(head) < FRONT.size:
        raise damaged
    crc, number, frames, timing, structure, dynamics, payload = FRONT.unpack(head)
    if not 1 <= frames <= most or timing > VARINT * frames:
        raise damaged
    cuts = -(-frames // 8)
    rest = file.read(timing + cuts)
    if zlib.crc32(head[4:] + rest) != crc or FRONT.size + timing + cuts + structure + dynamics != size:
        raise damaged
    if number != index:
        raise ValueError(f"has the record of window {number} in place of window {index}")
    flags = np.unpackbits(np.frombuffer(rest, np.uint8, cuts, timing), count=frames)
    begin = start + FRONT.size + timing + cuts
    ticks = _ticks(rest[:timing], frames)
    if ticks is None:
        raise damaged
    return _Record(begin, structure, dynamics, payload, ticks, tuple(bool(flag) for flag in flags))


def _timing(ticks: Sequence[int]) -> bytes:
    """Timestamps as the module describes: 0, 3003, 6006, 9010 are 0, 3003, 0, 1, and evenly spaced ones two numbers."""
    first = [tick - before for before, tick in zip((0, *ticks), ticks, strict=False)]  # the first timestamp, then differences
    numbers = first[:2] + [b - a for a, b in pairwise(first[1:])]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    data = bytearray()
    for number in numbers:
        rest = 2 * number if number >= 0 else -2 * number - 1
        while rest > 127:
            data.append(rest & 127 | 128)
            rest >>= 7
        data.append(rest)
    return bytes(data)


def _ticks(data: bytes, frames: int) -> tuple[int, ...] | None:
    """What `_timing` wrote, of so many frames; None if it is not that."""
    numbers, rest, shift = [], 0, 0
    for byte in data:
        rest |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(rest >> 1 if rest % 2 == 0 else -(rest >> 1) - 1)
            rest = shift = 0
        elif shift == 7 * VARINT:
            return None
    if shift or len(numbers) > frames:
        return None
    numbers += [0] * (frames - len(numbers))
    ticks = tuple(accumulate(numbers[:1] + list(accumulate(numbers[1:]))))
    return ticks if all(-(2**63) <= tick < 2**63 for tick in ticks) else None


def write(
    path: Path,
    header: Header,
    windows: Callable[[], Iterable[Window]],
    step: float,
    sigma: Sequence[np.ndarray] | None = None,
    prior: Prior = "fitted",
) -> None:
    """Windows to a file that has its name when it is whole; they are asked for twice, the first time to fit the coder.

    `header`: of the windows; the file's states no log-variances. `step`, `sigma`, `prior`: as `LatentCoder.fit`.

    Raises:
        ValueError: constriction is missing, values too large for the step, or as `LatentCoder.fit`.
        OSError: `path` cannot be written.
    """
    check_step(step)
    check_channels(header.config)
    needs_constriction()
    moments = Moments()
    for window in windows():
        moments.add(window.latents, window.logvar)
    coder = LatentCoder.fit(moments, step, sigma, prior)
    facts = replace(header, logvar=False).to_dict() | coder.to_dict()
    facts["kl_bits"] = moments.kl and [round(bits, 1) for bits in moments.kl]
    coder = LatentCoder.from_dict(facts, header.shapes)  # what will decode, and that it can be read
    text = zlib.compress(json.dumps(facts, separators=(",", ":")).encode(), 9)
    sizes = []
    with atomic_output(path) as partial:
        try:
            with partial.open("wb") as file:
                file.write(PREFIX.pack(MAGIC, VERSION, len(text), zlib.crc32(text)) + text)
                for record in _packed(coder, windows()):
                    sizes.append(file.write(record))
                index = struct.pack(f"<{len(sizes)}I", *sizes)
                file.write(index + TAIL.pack(zlib.crc32(index), len(sizes), END))
        except OSError as error:
            raise OSError(f"{path}: writing failed ({error.strerror}); free some space or choose another output") from error


def _packed(coder: LatentCoder, windows: Iterable[Window]) -> Iterator[bytes]:
    """A record of each window."""
    for window in windows:
        try:
            structure, dynamics = coder.encode(window.latents)
        except ValueError as error:
            raise ValueError(f"window {window.index}: {error}") from error
        timing, cuts = _timing(window.ticks), np.packbits(np.array(window.cuts, bool)).tobytes()
        lengths = len(timing), len(structure), len(dynamics)
        front = struct.pack("<6I", window.index, len(window.ticks), *lengths, zlib.crc32(structure + dynamics)) + timing + cuts
        yield struct.pack("<I", zlib.crc32(front)) + front + structure + dynamics
