"""Parquet files that anybody may have written: what their pages take in memory is held against what they take in the file.

pyarrow takes as much memory as the header of a page says, so a few kB may ask for gigabytes. The footer's sums need not be true.
"""

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vidtwin.files import in_line

MOST_PAGE = 2**27  # bytes of a page in memory, and EXPANSION times its bytes in the file
EXPANSION = 8
STOP, TRUE, FALSE, I8, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(13)  # types of Thrift's compact protocol
MOST_DEEP = 8  # of a page's header


class Page(NamedTuple):
    """Bytes in memory and in the file."""

    memory: int
    file: int


def check_pages(path: Path, name: str, footer: Any, groups: Iterable[int]) -> None:
    """Refuse a column whose pages take much more memory than they take in the file.

    Args:
        path, footer: of the file, with its `pyarrow.parquet.FileMetaData`. name: of the column, or of what is in it (a.b). groups:
            numbers of row groups.

    Raises:
        ValueError: there is one, or a page without a header.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for group in groups:
            columns = footer.row_group(group)
            for column in map(columns.column, range(columns.num_columns)):
                if column.path_in_schema == name or column.path_in_schema.startswith(f"{name}."):
                    _check(path, data, column)


def _check(path: Path, data: mmap.mmap, column: Any) -> None:
    try:
        page = next((page for page in _pages(data, column) if page.memory > MOST_PAGE + EXPANSION * page.file), None)
    except (IndexError, KeyError, _DamagedError):
        raise ValueError(f"{path}: column {in_line(column.path_in_schema)} has a page without a header; get it again") from None
    if page is not None:
        raise ValueError(
            f"{path}: column {in_line(column.path_in_schema)} has a page of {page.file:,} bytes that would take {page.memory:,} in "
            "memory; write it again with smaller pages"
        )


class _DamagedError(Exception):
    """Of a page's header."""


def _pages(data: mmap.mmap, column: Any) -> Iterator[Page]:
    """The pages of a column of a row group."""
    place = column.data_page_offset
    if column.dictionary_page_offset is not None and 0 < column.dictionary_page_offset < place:
        place = column.dictionary_page_offset
    end = min(place + column.total_compressed_size, len(data))
    while 0 <= place < end:
        numbers: dict[int, int] = {}
        place = _struct(data, place, MOST_DEEP, numbers)
        page = Page(numbers[2], numbers[3])
        if min(page) < 0:
            raise _DamagedError
        yield page
        place += page.file


def _struct(data: mmap.mmap, place: int, deep: int, numbers: dict[int, int] | None = None) -> int:
    """Where a struct that begins at `place` ends; its own whole numbers go into `numbers`, by field."""
    field = 0
    while (head := data[place]) != STOP:
        place += 1
        if head >> 4:
            field += head >> 4
        else:
            step, place = _number(data, place)
            field = _signed(step)
        kind = head & 15
        if kind in (I16, I32, I64):
            value, place = _number(data, place)
            if numbers is not None:
                numbers[field] = _signed(value)
        elif kind not in (TRUE, FALSE):  # which the type says already
            place = _after(data, place, kind, deep)
    return place + 1


def _after(data: mmap.mmap, place: int, kind: int, deep: int) -> int:
    """Where a value that begins at `place` ends; one of those that a page's header has."""
    if kind == STRUCT and deep:
        return _struct(data, place, deep - 1)
    if kind == BINARY:
        size, place = _number(data, place)
        return place + size
    if kind in (TRUE, FALSE, I8):
        return place + 1
    if kind == DOUBLE:
        return place + 8
    raise _DamagedError


def _number(data: mmap.mmap, place: int) -> tuple[int, int]:
    """A whole number of seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise _DamagedError


def _signed(value: int) -> int:
    """Zigzag."""
    return value >> 1 ^ -(value & 1)
