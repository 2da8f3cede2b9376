"""Members of an uncompressed tar, header by header: nothing is unpacked, and the next header always lies behind the last one."""

import re
from collections.abc import Iterator
from pathlib import Path
from tarfile import (
    AREGTYPE,
    BLOCKSIZE,
    CONTTYPE,
    GNUTYPE_LONGLINK,
    GNUTYPE_LONGNAME,
    GNUTYPE_SPARSE,
    NUL,
    REGTYPE,
    SOLARIS_XHDTYPE,
    SUPPORTED_TYPES,
    XGLTYPE,
    XHDTYPE,
    HeaderError,
    TarInfo,
)
from typing import BinaryIO, NamedTuple

from vidtwin.files import check_regular, in_line
from vidtwin.video.read.decode import TarMember

FILES = (REGTYPE, AREGTYPE, CONTTYPE)
EXTENDED = (XHDTYPE, SOLARIS_XHDTYPE, XGLTYPE, GNUTYPE_LONGNAME, GNUTYPE_LONGLINK)  # headers that are about the next one
MOST_EXTENDED = 2**20  # bytes of such a header
MOST_MEMBERS = 10_000_000
RECORD = re.compile(rb"(\d{1,7}) ([^=\n]+)=")  # of a pax header: "30 mtime=1700000000.123\n"


class _About(NamedTuple):
    """What headers before a member's own say of it."""

    name: str | None = None
    size: int | None = None
    sparse: bool = False


def tar_members(tar: Path) -> Iterator[TarMember]:
    """The regular files in a tar, in its order, holes (sparse files) and links left out.

    Raises:
        OSError: the tar is missing, no regular file, or cannot be read.
        ValueError: it is no uncompressed tar, is cut off, or a header is damaged; what came before is whole.
    """
    check_regular(tar)
    with tar.open("rb") as file:
        try:
            yield from _members(tar, file, tar.stat().st_size)
        except (ValueError, HeaderError) as error:
            reason = in_line(" ".join(str(error).split()))
            raise ValueError(f"{tar}: not a whole, uncompressed tar ({reason}); unpack it with gunzip or get it again") from error


def _members(tar: Path, file: BinaryIO, end: int) -> Iterator[TarMember]:
    offset, about = 0, _About()
    for _ in range(MOST_MEMBERS):
        file.seek(offset)
        head = file.read(BLOCKSIZE)
        if not head.strip(NUL) and (head or offset):  # some writers leave the closing blocks out
            return
        header = TarInfo.frombuf(head, "utf-8", "surrogateescape")
        offset += BLOCKSIZE
        if header.type in EXTENDED:
            offset, about = _skipped(header, offset, header.size, end), _about(header, file, about)
            continue
        while header.type == GNUTYPE_SPARSE and head[482 if head[257:262] == b"ustar" else 504]:  # goes on in more headers
            head = file.read(BLOCKSIZE).ljust(BLOCKSIZE, NUL)
            offset += BLOCKSIZE
        size = header.size if about.size is None else about.size
        if header.type in (*FILES, GNUTYPE_SPARSE) or header.type not in SUPPORTED_TYPES:
            begin, offset = offset, _skipped(header, offset, size, end)
            if header.type in FILES and not about.sparse:
                yield TarMember(tar, header.name if about.name is None else about.name, begin, size)
        about = _About()
    raise ValueError(f"more than {MOST_MEMBERS:,} members")


def _skipped(header: TarInfo, offset: int, size: int, end: int) -> int:
    """Where the next header is."""
    if size < 0:
        raise ValueError(f"{header.name} has {size} bytes")
    if offset + size > end:
        raise ValueError(f"it is cut off in {header.name}")
    return offset + -(-size // BLOCKSIZE) * BLOCKSIZE


def _about(header: TarInfo, file: BinaryIO, about: _About) -> _About:
    if header.size > MOST_EXTENDED:
        raise ValueError(f"a header of {header.size:,} bytes")
    data = file.read(header.size)
    if header.type == GNUTYPE_LONGNAME:
        return about._replace(name=data.partition(NUL)[0].decode("utf-8", "surrogateescape"))
    if header.type in (GNUTYPE_LONGLINK, XGLTYPE):  # where a link leads; what holds for all members
        return about
    begin = 0
    while begin < len(data) and data[begin]:
        record = RECORD.match(data, begin)
        end = begin + int(record[1]) if record else 0
        if record is None or not record.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise ValueError("a damaged pax header")
        key, value = record[2], data[record.end() : end - 1]
        if key == b"path":
            about = about._replace(name=value.decode("utf-8", "surrogateescape"))
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise ValueError(f"a member of {in_line(value.decode('ascii', 'replace'), 40)} bytes")
            about = about._replace(size=int(value))
        elif key.startswith(b"GNU.sparse"):
            about = about._replace(sparse=True)
        begin = end
    return about
