"""What PyAV gives no access to in Matroska and WebM files: the display size, written afterwards, and whether a file is cut off.

For the display size, the element for the track's name is filled with a placeholder when the file is written; its bytes make room
for the two numbers, so that nothing else in the file moves.
"""

import mmap
from pathlib import Path

from vidtwin.video.read.decode import TarMember, VideoFile, file_holding

PLACEHOLDER = "display size " + "." * 27  # the title of the video stream
SEGMENT, TRACKS, TRACK, VIDEO, NAME, VOID = b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae", b"\xe0", b"\x53\x6e", b"\xec"
DISPLAY_WIDTH, DISPLAY_HEIGHT, DISPLAY_UNIT = b"\x54\xb0", b"\x54\xba", b"\x54\xb2"
EBML = b"\x1a\x45\xdf\xa3"  # the first four bytes of a file
ENTERED = (SEGMENT, b"\x1f\x43\xb6\x75")  # the file itself, and clusters: elements that may be without an end
# SeekHead, Info, tracks, Cues, Chapters, Tags, Attachments; of a cluster Timestamp, SilentTracks, Position, PrevSize, SimpleBlock,
# BlockGroup, EncryptedBlock; anywhere CRC-32 and Void.
_TOP = "1a45dfa3 114d9b74 1549a966 1654ae6b 1c53bb6b 1043a770 1254c367 1941a469"
KNOWN = frozenset(map(bytes.fromhex, f"{_TOP} e7 5854 a7 ab a3 a0 af bf ec".split()))
HEADER = 12  # bytes of an element's name and size, at most
BEGINNING = 4096  # bytes that hold its header and the size of all that follows
HEAD = 1 << 20  # bytes from the start of the file in which the tracks are looked for; they come before any picture


def set_display_size(path: Path, size: tuple[int, int]) -> None:
    """Say that the video, whose stream has the title PLACEHOLDER, is shown at (height, width) pixels of a square shape.

    The file was written without checksums (FFmpeg's option write_crc32).

    Raises ValueError when the file is not laid out so; OSError as it comes.
    """
    with path.open("r+b") as file:
        head = file.read(HEAD)
        try:
            begin, end = _find_track(head)
            file.seek(begin)
            file.write(_with_display_size(head[begin:end], size))
        except (IndexError, StopIteration) as error:
            raise ValueError(f"{path}: no place for the pixel aspect; write .mp4 instead") from error


def missing_bytes(path: VideoFile) -> int:
    """How many bytes a file lacks of those that it says to have; 0 if none, if it does not say, or if it is no Matroska or WebM."""
    file = file_holding(path)
    begin, size = (path.offset, path.size) if isinstance(path, TarMember) else (0, file.stat().st_size)
    with file.open("rb") as stream:
        stream.seek(begin)
        head = stream.read(min(size, BEGINNING))
    try:
        (first, *_), (name, start, contents, end), *_ = _elements(head, 0, len(head))
    except (IndexError, ValueError):  # not even the beginnings of two elements
        return 0
    unknown = end - contents == _unknown(contents - start - len(name))
    return max(0, end - size) if first == EBML and name == SEGMENT and not unknown else 0


def damage(data: mmap.mmap, begin: int, end: int) -> int | None:
    """The first byte from `begin` up to `end` that belongs to no element of a file, or None; what follows the file is ignored."""
    segment_end = end
    while begin < min(segment_end, end):
        try:
            (name, _, contents, after), *_ = _elements(data[begin : begin + HEADER], 0, 1)
        except (IndexError, ValueError):
            return begin
        if name == SEGMENT and after - contents != _unknown(contents - len(name)):
            segment_end = begin + after
        if name not in ENTERED and (name not in KNOWN or begin + after > end):
            return begin
        begin += contents if name in ENTERED else after
        if begin == segment_end and data[begin : begin + 4] == EBML:  # another file was joined to it
            segment_end = end
    return None


def _unknown(length: int) -> int:
    """The size, of so many bytes, of elements that do not state theirs, as live streams have them."""
    return (1 << 7 * length) - 1


def _find_track(data: bytes) -> tuple[int, int]:
    """Where in the head of a file the contents of the track with the placeholder are."""
    segment = next(begin for name, _, begin, _ in _elements(data, 0, len(data)) if name == SEGMENT)
    tracks, end = next((begin, end) for name, _, begin, end in _elements(data, segment, len(data)) if name == TRACKS)
    return next((a, b) for name, _, a, b in _elements(data, tracks, end) if name == TRACK and PLACEHOLDER.encode() in data[a:b])


def _with_display_size(track: bytes, size: tuple[int, int]) -> bytes:
    """The contents of a track, as long as before: the name is gone, the display size is there."""
    height, width = (side.to_bytes(4, "big") for side in size)
    result = b""
    for name, start, begin, end in _elements(track, 0, len(track)):
        if name == VIDEO:
            known = (track[a:b] for kind, a, _, b in _elements(track, begin, end) if kind != DISPLAY_UNIT)  # it is "unknown"
            result += _element(VIDEO, b"".join(known) + _element(DISPLAY_WIDTH, width) + _element(DISPLAY_HEIGHT, height))
        elif name != NAME:
            result += track[start:end]
    return result + _element(VOID, bytes(len(track) - len(result) - len(_element(VOID, b""))))


def _elements(data: bytes, begin: int, end: int) -> list[tuple[bytes, int, int, int]]:
    """(name, start, start of the contents, end) of elements that follow one another; the last may be cut off."""
    found = []
    while begin < end:
        size_at = begin + 9 - data[begin].bit_length()
        length = 9 - data[size_at].bit_length()
        number = int.from_bytes(data[size_at : size_at + length], "big")
        contents = size_at + length
        size = number & ((1 << 7 * length) - 1)
        found.append((data[begin:size_at], begin, contents, contents + size))
        begin = contents + size
    return found


def _element(name: bytes, contents: bytes) -> bytes:
    return name + _length(len(contents)) + contents


def _length(size: int) -> bytes:
    return (size | 1 << 28).to_bytes(4, "big")
