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


def _swapped(rng: Random, data: bytes, other: bytes) -> bytes:
    """Two numbers of four bytes near each other trade places, as sizes, rates and times would."""
    place, gap = _place(rng, data) & ~3, rng.choice((4, 4, 8, 12, 16, 20))
    first, second = data[place : place + 4], data[place + gap : place + gap + 4]
    return data if len(second) < 4 else data[:place] + second + data[place + 4 : place + gap] + first + data[place + gap + 4 :]


def _repeat(rng: Random, data: bytes, other: bytes) -> bytes:
    """A piece of the middle, a few or thousands of times."""
    place = _place(rng, data)
    piece = data[place : place + min(4096, _length(rng, data))]
    return (data[:place] + piece * rng.choice((2, 5, 2000)) + data[place:])[:MOST]


ANYWHERE = (
    *(_flip, _overwrite, _number, _number_near_name) * 2,
    _flip,
    _cut_out,
    _double,
    _insert,
    _truncate,
    _splice,
    _swapped,
    _repeat,
)


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
    if rng.random() < 0.5:
        name, body = rng.choice(PNG_CHUNKS)
        chunks.insert(rng.choice((1, number)), (name, _about_picture(rng) if body is None else body))
    elif rng.random() < 0.3:  # a part in the middle twice, or cut short
        name, body = chunks[number]
        chunks.insert(number, (name, body[: rng.randrange(len(body) + 1)]))
    else:
        chunks[number] = chunks[number][0], damage(rng, chunks[number][1], data)
    packed = [struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks]
    return data[:8] + b"".join(packed)


def _in_y4m(rng: Random, data: bytes) -> bytes:
    """Another size, rate, aspect or kind of pixels in the first line."""
    head, end, rest = data.partition(b"\n")
    words = head.split(b" ")
    values = (b"W0", b"W99999999", b"H1", b"F0:0", b"F1:2000000000", b"F2000000000:1", b"F" + b"9" * 40 + b":1", b"A0:1",
              b"A9999:1", b"Cmono", b"C444p16", b"C420p9", b"It", b"XCOLORRANGE=FULL")  # fmt: skip
    words.insert(rng.randrange(1, len(words) + 1), rng.choice(values))
    return b" ".join(words) + end + rest


def _in_jpeg(rng: Random, data: bytes) -> bytes:
    """Another segment of EXIF, of a profile or of a comment behind the first marker."""
    marker, begin = rng.choice(((0xE1, b"Exif\0\0"), (0xE2, b"ICC_PROFILE\0\1\1"), (0xEE, b"Adobe\0d\0\0\0\0"), (0xFE, b"")))
    body = begin + _about_picture(rng)[:60_000]
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


def _in_webp(rng: Random, data: bytes) -> bytes:
    """A chunk more, doubled or of another kind; the file's size goes with it."""
    chunks, place = [], 12
    while place + 8 <= len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        chunks.append((data[place : place + 4], data[place + 8 : place + 8 + size]))
        place += 8 + size + size % 2
    number, kind = rng.randrange(len(chunks)), rng.choice((b"EXIF", b"ICCP", b"XMP ", b"ANIM", b"ANMF", b"ALPH", b"VP8X"))
    more = rng.choice(((kind, _about_picture(rng)), chunks[number], (kind, chunks[number][1])))
    chunks.insert(number + rng.randrange(2), more)
    body = b"".join(name + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2) for name, part in chunks)
    return data[:4] + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _about_picture(rng: Random) -> bytes:
    """EXIF, whole or not, with one number of any kind; or a profile that says little."""
    tag, kind = rng.choice((0x0112, 0x8769, 0x8825, 0x0201, 0x011A, 0x02BC)), rng.randrange(1, 14)
    number, value = rng.choice((0, 1, 2, 0xFFFF, 0x7FFFFFFF)), rng.choice((0, 1, 6, 8, 9, 0xFFFFFFFF))
    exif = struct.pack("<4sIHHHIII", b"II*\0", 8, rng.choice((1, 0xFFFF)), tag, kind, number, value, rng.choice((0, 8)))
    return rng.choice(
        (exif, exif[: rng.randrange(len(exif))], b"Exif\0\0" + exif, struct.pack(">I", 128) + bytes(124), bytes(9000))
    )


# Chunks that a PNG may have and this one has not, in front of its pixels; texts and profiles are compressed.
PNG_CHUNKS = (
    (b"eXIf", None), (b"gAMA", bytes(4)), (b"cHRM", bytes(32)), (b"tRNS", bytes(6)), (b"sBIT", b"\0\0\0"),
    (b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 22))), (b"iCCP", b"a\0\0" + zlib.compress(b"\0\0\0\x80" + bytes(124))),
    (b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 22))), (b"pHYs", struct.pack(">IIB", 0, 1, 1)),
    (b"acTL", struct.pack(">II", 1 << 31, 0)), (b"acTL", struct.pack(">II", 2, 0)),
    (b"fcTL", struct.pack(">IIIIIHHBB", 0, 1 << 30, 1 << 30, 9, 9, 0, 0, 9, 9)),
    (b"IHDR", struct.pack(">IIBBBBB", 1 << 15, 1 << 15, 16, 6, 0, 0, 0)),
)  # fmt: skip


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
    ".jpg": _in_jpeg,
    ".webp": _in_webp,
    ".y4m": _in_y4m,
}
