"""What pages of Parquet files take, by their own headers."""

from pathlib import Path

import pytest

from vidtwin.parquet import check_pages

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

WAYS = (
    {},
    {"compression": "gzip", "write_page_checksum": True, "write_page_index": True},
    {"compression": "zstd", "use_dictionary": False, "data_page_version": "2.0"},
    {"compression": "none", "row_group_size": 1000, "data_page_size": 100},
)


def written(path: Path, **way: object) -> object:
    rows = 10_000
    columns = {"a": list(range(rows)), "b": [{"bytes": b"1" * (i % 100), "path": "p"} for i in range(rows)]}
    parquet.write_table(pyarrow.table(columns), path, **way)
    return parquet.read_metadata(path)


@pytest.mark.parametrize("way", WAYS)
def test_usual_pages_pass(tmp_path, way):
    footer = written(tmp_path / "t.parquet", **way)
    for name in ("a", "b", "b.bytes"):
        check_pages(tmp_path / "t.parquet", name, footer, range(footer.num_row_groups))


def test_pages_that_grow_in_memory_are_refused_by_name(tmp_path):
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"x.y": [bytes(2**27 + 2**20)]}), path, compression="zstd")
    with pytest.raises(ValueError, match=r"t.parquet: column x.y has a page of .* that would take 135,\d+,\d+ in memory; write it"):
        check_pages(path, "x.y", parquet.read_metadata(path), [0])
    check_pages(path, "z", parquet.read_metadata(path), [0])  # another column


@pytest.mark.parametrize("header", [b"\x00", b"\xff" * 64, b"\x1c" * 64, b"\x15\x01\x15\x01\x15\x01\x00"])  # the last: below 0
def test_a_page_without_a_header_is_refused(tmp_path, header):
    path = tmp_path / "t.parquet"
    footer = written(path)
    path.write_bytes(b"PAR1" + header + path.read_bytes()[4 + len(header) :])
    with pytest.raises(ValueError, match=r"t.parquet: column a has a page without a header; get it again"):
        check_pages(path, "a", footer, [0])
