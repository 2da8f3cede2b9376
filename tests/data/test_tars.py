"""Tars, header by header: what is inside, and what no header can make it do."""

import io
import tarfile

import pytest

from tests.data.conftest import pack
from vidtwin.data.sources import expand_braces, recordings
from vidtwin.data.tars import tar_members


def header(name: str, size: int = 0, kind: bytes = b"0") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.USTAR_FORMAT)


def pax(**records: str) -> bytes:
    body = b""
    for key, value in records.items():
        text = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(text) + 1
        while len(str(length)) + len(text) != length:
            length += 1
        body += str(length).encode() + text
    return header("x", len(body), b"x") + body + b"\0" * (-len(body) % 512)


END = bytes(1024)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_members_are_those_of_tarfile(tmp_path, form):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=form) as tar:
        for name, size in (("a.mp4", 700), ("é/" + "long" * 20 + "/b.mp4", 0), ("c.txt", 512), ("d.mp4", 1)):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(b"x" * size))
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("z.mp4")
            info.type, info.linkname = kind, "y" * 90
            tar.addfile(info)
    with tarfile.open(path) as tar:
        expected = [(member.name, member.offset_data, member.size) for member in tar if member.isreg()]
    assert [(member.name, member.offset, member.size) for member in tar_members(path)] == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pax(size="-1536") + header("a.mp4"), "a member of -1536 bytes"),
        (pax(size="9" * 40) + header("a.mp4"), "a member of 9999999"),
        (header("a.mp4")[:124] + b"\xff" * 12 + header("a.mp4")[136:], "bad checksum"),
        (pax(size="4096") + header("a.mp4"), "it is cut off in a.mp4"),
        (header("x", 2**21, b"x") + bytes(2**21), "a header of 2,097,152 bytes"),
        (header("x", 2**33 - 1, b"L"), "it is cut off in x"),
        (header("x", 8, b"x") + b"99 a=b\n\n".ljust(512, b"\0"), "a damaged pax header"),
        (header("a.mp4", 600), "it is cut off in a.mp4"),
        (header("a.mp4")[:300], "truncated header"),
    ],
)
def test_headers_that_lie_are_refused_in_one_line(tmp_path, data, message):
    (tmp_path / "a.tar").write_bytes(header("readme.txt") + data + (END if len(data) % 512 == 0 and "cut" not in message else b""))
    with pytest.raises(ValueError, match=f"not a whole, uncompressed tar .*{message}") as caught:
        list(tar_members(tmp_path / "a.tar"))
    assert "\n" not in str(caught.value)


def test_thousands_of_extended_headers_in_a_row_are_walked(tmp_path):
    (tmp_path / "a.tar").write_bytes(pax(comment="x") * 20_000 + header("a.mp4", 3) + b"abc".ljust(512, b"\0") + END)
    assert [member.name for member in tar_members(tmp_path / "a.tar")] == ["a.mp4"]


def test_sparse_files_are_no_recordings(tmp_path):
    data = pax(GNU__sparse__major="1", GNU__sparse__minor="0") + header("a.mp4") + header("b.mp4") + END
    (tmp_path / "a.tar").write_bytes(data)
    assert [member.name for member in tar_members(tmp_path / "a.tar")] == ["b.mp4"]


def test_a_tar_that_is_cut_off_costs_itself_only(tmp_path, clip):
    shards = [pack(tmp_path / f"s-{n}.tar", (clip, "a.mp4"), (clip, "b.mp4")) for n in range(3)]
    shards[1].write_bytes(shards[1].read_bytes()[: clip.stat().st_size + 5000])
    for source in (tmp_path, tmp_path / "s-{0..2}.tar"):
        names = [recording.name.removeprefix(f"{tmp_path}/s-") for recording in recordings(source)]
        assert names == ["0.tar!a.mp4", "0.tar!b.mp4", "1.tar!a.mp4", "1.tar", "2.tar!a.mp4", "2.tar!b.mp4"]
        (broken,) = [recording for recording in recordings(source) if recording.problem]
        with pytest.raises(ValueError, match="it is cut off in b.mp4"):
            broken.check()


@pytest.mark.parametrize("pattern", ["s-{0..99999999}.tar", "{0..999}{0..999}.tar", "{0..9}" * 2000 + ".tar"])
def test_patterns_are_bounded(pattern):
    with pytest.raises(ValueError, match="names more than 100,000 tars; give a smaller range"):
        expand_braces(pattern)
    with pytest.raises(ValueError, match="a descending range"):
        expand_braces("s-{2..1}.tar")
