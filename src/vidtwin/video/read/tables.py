"""Pictures in a column of a Parquet file, as LeRobot stores the images of cameras: frames at an even rate."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vidtwin.video.read.decode import TableColumn, VideoWarning, check_file
from vidtwin.video.read.images import check_start, holds_several, info_of, open_image, rgb
from vidtwin.video.read.info import Frame, VideoInfo

ROWS = 16  # that are read at once
MOST_ROWS = 2**26  # of a column of numbers


@dataclass(frozen=True)
class Column:
    """Pictures in a column of a Parquet file, a frame each, as LeRobot stores the images of cameras."""

    path: TableColumn

    @cached_property
    def count(self) -> int:
        """Number of frames."""
        with _parquet(self.path) as file:
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
        if not isinstance(data, bytes) or not data:
            raise ValueError(f"{self._name(number)}: holds no picture; write the data set with its images embedded")
        return open_image(self._name(number), io.BytesIO(data))

    def _rows(self, start: int, stop: int) -> Iterator[Any]:
        """The values of rows start..stop-1, of the row groups that hold them, a few at a time."""
        with _parquet(self.path) as file:
            first = 0
            for group in range(file.metadata.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                for batch in file.iter_batches(ROWS, [group], [self.path.name]) if first < stop and end > start else ():
                    here = slice(max(0, start - first), max(0, min(stop - first, len(batch))))
                    yield from batch.column(0)[here].to_pylist()
                    first += len(batch)
                first = end


@contextmanager
def _parquet(path: TableColumn) -> Iterator[Any]:
    """The file, which has the column. What pyarrow raises becomes a ValueError of one line."""
    check_file(path)
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise ValueError(f"{path}: needs the package pyarrow: pip install 'vidtwin[dataset]'") from None
    try:
        with ParquetFile(path.table) as file:
            if path.name not in file.schema_arrow.names:
                raise ValueError(f"{path}: has no such column; get the data set again")
            yield file
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({str(error).splitlines()[0]}); get it again") from error


def numbers(table: Path, name: str) -> np.ndarray:
    """A column of whole numbers of a Parquet file, as int64. Raises OSError or ValueError in one line."""
    with _parquet(TableColumn(table, name, Fraction(1))) as file:
        if file.metadata.num_rows > MOST_ROWS:  # a few bytes may stand for any number of equal ones
            raise ValueError(f"{table}: states {file.metadata.num_rows:,} rows, more than {MOST_ROWS:,}; split it")
        values = file.read([name]).column(0)
        if values.null_count or str(values.type) not in ("int64", "int32"):
            raise ValueError(f"{table}: column {name} is not of whole numbers; get the data set again")
        return np.asarray(values.to_numpy(), np.int64)
