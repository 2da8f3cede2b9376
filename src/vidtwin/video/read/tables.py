"""Pictures in a column of a Parquet file, as LeRobot stores the images of cameras: frames at an even rate."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vidtwin.files import first_line
from vidtwin.parquet import check_pages
from vidtwin.video.read.decode import TableColumn, VideoWarning, check_file
from vidtwin.video.read.images import check_start, holds_several, info_of, open_image, rgb
from vidtwin.video.read.info import Frame, VideoInfo

AGAIN = "get the data set again"
NO_PICTURE = "holds no picture; write the data set with its images embedded"
MOST_ROWS = 2**22  # of columns of numbers: a few bytes may stand for any number of equal ones


@dataclass(frozen=True)
class Column:
    """Pictures in a column of a Parquet file, a frame each, as LeRobot stores the images of cameras."""

    path: TableColumn

    @cached_property
    def count(self) -> int:
        """Number of frames."""
        with _parquet(self.path.table, str(self.path)) as file:
            return int(file.metadata.num_rows)

    def info(self) -> VideoInfo:
        """`read.probe`."""
        row = next(self._rows(0, 1), None)
        if row is None:
            raise ValueError(f"{self.path}: has no rows; get it again")
        with self._open(0, row) as image:
            return info_of(self, image, rgb(self._name(0), image), self.path.fps, 1 / self.path.fps, self.count)

    def frames(self, start: int, stop: int | None) -> Iterator[Frame]:
        """`read.iter_frames`; what is read besides is the first picture, for its size."""
        check_start(self.path, start, self.count)
        info, several = self.info(), False
        for number, row in enumerate(self._rows(start, self.count if stop is None else min(stop, self.count)), start):
            with self._open(number, row) as image:
                yield Frame(rgb(self._name(number), image, info.stored_size), number, 1 / self.path.fps, 1)
                several = several or holds_several(image)
        if several:
            said = f"{self.path}: rows hold several pictures, of which only the first was read; write a row for each"
            warnings.warn(said, VideoWarning, stacklevel=2)

    def _name(self, number: int) -> str:
        return f"{self.path}[{number}]"

    def _open(self, number: int, row: Any) -> Any:
        data = row.get("bytes") if isinstance(row, dict) else row
        if not data:
            raise ValueError(f"{self._name(number)}: {NO_PICTURE}")
        return open_image(self._name(number), io.BytesIO(data))

    def _rows(self, start: int, stop: int) -> Iterator[Any]:
        """The values of rows start..stop-1, of the row groups that hold them.

        One at a time: in the file all rows may share one value.
        """
        with _parquet(self.path.table, str(self.path)) as file:
            first = 0
            for group in range(file.metadata.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                if first < stop and end > start:
                    leaf = self._leaf(file.schema_arrow)
                    check_pages(self.path.table, leaf, file.metadata, [group])
                    for batch in file.iter_batches(1, [group], [leaf]):
                        if start <= first < stop:
                            yield batch.column(0)[0].as_py()
                        first += 1
                        if first >= stop:
                            return
                first = end

    def _leaf(self, schema: Any) -> str:
        """The column of bytes. Raises ValueError if there is none."""
        from pyarrow import types

        name, place = self.path.name, schema.get_field_index(self.path.name)
        if place < 0:
            raise ValueError(f"{self.path}: has no such column; {AGAIN}")
        kind = schema.field(place).type
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            name, kind = f"{name}.bytes", kind.field("bytes").type
        if not types.is_binary(kind) and not types.is_large_binary(kind):
            raise ValueError(f"{self.path}: {NO_PICTURE}")
        return name


@contextmanager
def _parquet(table: Path, name: str) -> Iterator[Any]:
    """The file. What pyarrow raises becomes a ValueError of one line, which begins with `name`."""
    check_file(table)
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise ValueError(f"{name}: needs the package pyarrow: pip install 'vidtwin[dataset]'") from None
    try:
        with ParquetFile(table) as file:
            yield file
    except (ArrowException, OSError) as error:
        raise ValueError(f"{name}: cannot be read ({first_line(error)}); get it again") from error


def numbers(table: Path, whole: Sequence[str], real: Sequence[str] = (), maybe: Sequence[str] = ()) -> Any:
    """Columns of numbers of a Parquet file, without gaps, as an Arrow table: whole ones, any, and whole ones if they are there.

    Raises OSError or ValueError in one line.
    """
    with _parquet(table, str(table)) as file:
        from pyarrow import types

        schema, rows = file.schema_arrow, file.metadata.num_rows
        if rows > MOST_ROWS:
            raise ValueError(f"{table}: states {rows:,} rows, more than {MOST_ROWS:,}; split it")
        names = [*whole, *real, *(name for name in maybe if name in schema.names)]
        for name in names:
            place = schema.get_field_index(name)
            kind = None if place < 0 else schema.field(place).type
            if kind is None or not (types.is_integer(kind) or (name in real and types.is_floating(kind))):
                absent = kind is None or types.is_null(kind)
                what = "is missing" if absent else f"is not of {'' if name in real else 'whole '}numbers"
                raise ValueError(f"{table}: column {name} {what}; {AGAIN}")
            check_pages(table, name, file.metadata, range(file.metadata.num_row_groups))
        values = file.read(names)
        if gaps := next((name for name in names if values[name].null_count), None):
            raise ValueError(f"{table}: column {gaps} has gaps; {AGAIN}")
        return values
