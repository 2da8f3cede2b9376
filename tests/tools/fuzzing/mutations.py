"""Damaged copies of a file, as accidents and attackers make them. Everything is drawn from the generator that is given.

Bytes are flipped, overwritten, taken out, doubled and put in anywhere; and each kind of file is also damaged behind its first
check: JSON headers, records, zip members and PNG chunks, with the lengths and checksums that go with them.
"""

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from itertools import accumulate
from random import Random

import numpy as np
import yaml

from tests.tools.fuzzing.json_values import damaged_json
from tests.tools.fuzzing.seeds import Seed
from vidtwin.latents import compressed
from vidtwin.latents.file import KEY, record_dtype
from vidtwin.latents.records import MAGIC, PREFIX, checksum
from vidtwin.latents.stream import Header

MOST = 1 << 20  # bytes of a damaged file
EDGE = 4096  # bytes at both ends of a file, where half of the damage is done
EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62, 1 << 63, (1 << 64) - 1)


def mutate(rng: Random, seed: Seed, other: bytes) -> bytes:
    """The seed's bytes, damaged; `other` is what a splice takes its second half from."""
    data = seed.data
    behind = BEHIND.get(seed.kind) or BEHIND.get(seed.suffix)
    if behind is not None and rng.random() < 0.6:
        data = behind(rng, data)
        if rng.random() < 0.8:
            return data
    return damage(rng, data, other)[:MOST]


def damage(rng: Random, data: bytes, other: bytes) -> bytes:
    """One or some of ANYWHERE."""
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3, 8))):
        data = rng.choice(ANYWHERE)(rng, data, other)
    return data


def _place(rng: Random, data: bytes) -> int:
    """Half of the time in the first or last EDGE bytes."""
    end = len(data)
    low, high = rng.choice(((0, min(end, EDGE)), (max(0, end - EDGE), end), (0, end), (0, end)))
    return rng.randrange(low, high) if high > low else 0


def _length(rng: Random, data: bytes) -> int:
    """Of a piece: from a byte to half of the file, short ones more often."""
    return min(max(1, len(data) // 2), 1 << rng.randrange(17))


def _flip(rng: Random, data: bytes, other: bytes) -> bytes:
    flipped = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64)) if data else 0):
        flipped[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def _overwrite(rng: Random, data: bytes, other: bytes) -> bytes:
    place, length = _place(rng, data), rng.choice((1, 2, 4, 16, 64, 512))
    return data[:place] + rng.choice((rng.randbytes(length), bytes(length), b"\xff" * length)) + data[place + length :]


def _cut_out(rng: Random, data: bytes, other: bytes) -> bytes:
    place = _place(rng, data)
    return data[:place] + data[place + _length(rng, data) :]


def _double(rng: Random, data: bytes, other: bytes) -> bytes:
    place = _place(rng, data)
    end = place + _length(rng, data)
    return (data[:end] + data[place:])[:MOST]


def _insert(rng: Random, data: bytes, other: bytes) -> bytes:
    place, start = _place(rng, data), _place(rng, other)
    piece = rng.choice((rng.randbytes(rng.choice((1, 4, 100))), other[start : start + _length(rng, other)]))
    return data[:place] + piece + data[place:]


def _truncate(rng: Random, data: bytes, other: bytes) -> bytes:
    return data[: _place(rng, data)]


def _splice(rng: Random, data: bytes, other: bytes) -> bytes:
    return data[: _place(rng, data)] + other[_place(rng, other) :]


def _write_number(rng: Random, data: bytes, place: int) -> bytes:
    size, order = rng.choice((1, 2, 3, 4, 4, 8)), rng.choice(("little", "big"))
    number = (rng.choice(EXTREMES) & ((1 << 8 * size) - 1)).to_bytes(size, order)  # type: ignore[arg-type]
    return data[:place] + number + data[place + size :]


def _number(rng: Random, data: bytes, other: bytes) -> bytes:
    return _write_number(rng, data, _place(rng, data))


def _number_near_name(rng: Random, data: bytes, other: bytes) -> bytes:
    """Beside four letters, as containers name their parts."""
    names = [match.start() for match in re.finditer(rb"[A-Za-z0-9 ]{4}", data[: 1 << 16] if rng.random() < 0.5 else data[-EDGE:])]
    place = rng.choice(names) + rng.choice((-4, 4, 8, 12, 16, 20, 24, 28, 32)) if names else 0
    return _write_number(rng, data, max(0, min(place, len(data))))


ANYWHERE = (*(_flip, _overwrite, _number, _number_near_name) * 2, _flip, _cut_out, _double, _insert, _truncate, _splice)


def _in_safetensors(rng: Random, data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].decode()
    header = json.loads(text)
    if KEY in header.get("__metadata__", {}) and rng.random() < 0.6:  # the latent file's own header, as text inside of it
        header["__metadata__"][KEY] = damaged_json(rng, header["__metadata__"][KEY])
        text = json.dumps(header)
    else:
        text = damaged_json(rng, text)
    encoded = text.encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + data[8 + length :]


def _in_records(rng: Random, data: bytes) -> bytes:
    _, length, _ = PREFIX.unpack_from(data)
    text, rest = data[PREFIX.size : PREFIX.size + length], data[PREFIX.size + length :]
    if rng.random() < 0.5:
        text = damaged_json(rng, text.decode()).encode()
    else:
        dtype = record_dtype(Header.from_dict(json.loads(text)))
        records = np.frombuffer(rest, dtype, len(rest) // dtype.itemsize).copy()
        for _ in range(rng.choice((1, 1, 3))):
            number, name = rng.randrange(len(records)), rng.choice(("index", "frames", "last", "ticks", "cuts", "structure"))
            kind = dtype[name].base
            raw = struct.pack("<Q", rng.choice((*EXTREMES, 3, 4, 5, 17))), struct.pack("<f", rng.choice((np.nan, -np.inf, 3e38)))
            values = records[name][number : number + 1].reshape(-1)
            values[rng.randrange(len(values))] = np.frombuffer(raw[kind.kind == "f"][: kind.itemsize], kind)[0]
        for number in range(len(records)):
            records[number : number + 1]["crc"] = checksum(records[number : number + 1])
        rest = records.tobytes()
    return PREFIX.pack(MAGIC, len(text), zlib.crc32(text)) + text + rest


def _in_compressed(rng: Random, data: bytes) -> bytes:
    """The header's JSON; or a number at the front of a record, its timing and cuts, or its coded values."""
    _, version, length, _ = compressed.PREFIX.unpack_from(data)
    text, place = data[compressed.PREFIX.size : compressed.PREFIX.size + length], compressed.PREFIX.size + length
    _, count, end = compressed.TAIL.unpack(data[-compressed.TAIL.size :])
    sizes = struct.unpack_from(f"<{count}I", data, len(data) - compressed.TAIL.size - 4 * count)
    records = [data[start : start + size] for size, start in zip(sizes, accumulate(sizes, initial=place), strict=False)]
    if rng.random() < 0.5:
        text = zlib.compress(damaged_json(rng, zlib.decompress(text).decode()).encode())
    else:
        number = rng.randrange(count)
        _, *front = compressed.FRONT.unpack_from(records[number])
        body = records[number][compressed.FRONT.size :]
        coded = len(body) - front[3] - front[4]
        times, values = body[:coded], body[coded:]
        match rng.randrange(3):
            case 0:
                front[rng.randrange(5)] = rng.choice((*EXTREMES[:11], 3, 4, 5, 17))
            case 1:
                times = damage(rng, times, data)
                front[2] = max(0, len(times) - 1)
            case _:
                values = damage(rng, values, data)
                front[3] = rng.randrange(len(values) // 4 + 1) * 4
                front[4] = len(values) - front[3]
        front[5] = zlib.crc32(values)
        head = struct.pack("<6I", *front) + times
        records[number] = struct.pack("<I", zlib.crc32(head)) + head + values
    index = struct.pack(f"<{count}I", *map(len, records))
    header = compressed.PREFIX.pack(compressed.MAGIC, version, len(text), zlib.crc32(text)) + text
    return header + b"".join(records) + index + compressed.TAIL.pack(zlib.crc32(index), count, end)


def _in_json(rng: Random, data: bytes) -> bytes:
    return damaged_json(rng, data.decode()).encode()


def _in_yaml(rng: Random, data: bytes) -> bytes:
    """JSON, which is YAML; or a value that refers to itself over and over: short, and endless when it is printed."""
    values = yaml.safe_load(data)
    if rng.random() < 0.9:
        return damaged_json(rng, json.dumps(values)).encode()
    levels = ["&a0 [1]", *(f"&a{level} [{', '.join([f'*a{level - 1}'] * 8)}]" for level in range(1, 12))]
    key = rng.choice([*values])
    return json.dumps(values | {key: "mark"}).replace('"mark"', f"[{', '.join(levels)}]").encode()


def _in_zip(rng: Random, data: bytes) -> bytes:
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return damage(rng, data, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([*members, *[name for name in members if name.endswith("data.pkl")] * len(members)])
    members[name] = damage(rng, members[name], rng.choice([*members.values()]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _in_png(rng: Random, data: bytes) -> bytes:
    chunks, place = [], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    number = rng.randrange(len(chunks))
    chunks[number] = chunks[number][0], damage(rng, chunks[number][1], data)
    packed = [struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks]
    return data[:8] + b"".join(packed)


# By kind or suffix: damage behind the first check.
BEHIND: dict[str, Callable[[Random, bytes], bytes]] = {
    "latents": _in_safetensors,
    "growing latents": _in_records,
    "compressed latents": _in_compressed,
    "folder, weights": _in_safetensors,
    "folder, config": _in_json,
    "config": _in_json,
    "recipe": _in_yaml,
    ".safetensors": _in_safetensors,
    ".ckpt": _in_zip,
    ".png": _in_png,
}
