"""Items of sources, with identities that do not depend on where they lie."""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import pytest

from tests.data.conftest import CAMERAS, lerobot, pack
from vidtwin.latent_sets.items import Item, content, list_items, opened, typed


def test_a_folder(clip, tmp_path):
    for name in ("b/2.mp4", "a/1.mp4", "0.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(clip, tmp_path / name)
    assert [item.key for item in list_items(str(tmp_path))] == ["0.mp4", "a/1.mp4", "b/2.mp4"]
    labelled = list_items(str(tmp_path), label=True)
    assert [dict(item.columns)["label"] for item in labelled] == ["", "a", "b"]


def test_columns_of_a_list(clip, tmp_path):
    shutil.copy(clip, tmp_path / "a.mp4")
    shutil.copy(clip, tmp_path / "b.mp4")
    (tmp_path / "list.csv").write_text("name,videos,score,class,zip\nx,a.mp4,0.5,3,007\ny,b.mp4,2,4,123\n")
    first, second = list_items(str(tmp_path / "list.csv"))
    assert dict(first.columns) == {"name": "x", "score": 0.5, "class": 3, "zip": "007"}
    assert dict(second.columns) == {"name": "y", "score": 2.0, "class": 4, "zip": "123"}
    assert all(isinstance(dict(item.columns)["score"], float) for item in (first, second))
    (tmp_path / "gaps.csv").write_text("videos,score,none\na.mp4,0.5,\nb.mp4,,\n")
    assert [dict(item.columns) for item in list_items(str(tmp_path / "gaps.csv"))] == [
        {"score": "0.5", "none": ""},
        {"score": "", "none": ""},
    ]
    (tmp_path / "twice.txt").write_text("a.mp4\na.mp4\n")
    with pytest.raises(ValueError, match=r"twice.txt: a.mp4 appears twice; keep one of them"):
        list_items(str(tmp_path / "twice.txt"))


def test_members_of_tars(clip, tmp_path):
    shard = pack(tmp_path / "s-000.tar", (clip, "x/1.mp4"))
    (item,) = list_items(str(shard))
    assert item.key == "s-000.tar!x/1.mp4"
    with opened(item) as (_, facts):
        assert (facts.size, facts.sha256) == (clip.stat().st_size, content(clip).sha256)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_episodes(tmp_path, version):
    items = list_items(str(lerobot(tmp_path / "set", version)))
    assert [dict(item.columns) for item in items] == [
        {"episode_index": episode, "camera": camera} for episode in range(3) for camera in sorted(CAMERAS)
    ]
    assert not any(str(tmp_path) in item.key for item in items)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def send_head(self):
        """ "/403/..." is answered with 403."""
        asked = self.path.split("/")[1]
        return self.send_error(int(asked)) if asked.isdigit() else super().send_head()


@pytest.fixture
def server(tmp_path):
    """A web server over a folder: its address, and the folder."""
    folder = tmp_path / "web"
    folder.mkdir()
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_address[1]}", folder
    served.shutdown()


def test_urls(clip, tmp_path, server):
    address, folder = server
    shutil.copy(clip, folder / "a.mp4")
    (tmp_path / "list.txt").write_text(f"{address}/a.mp4\n{address}/gone.mp4\n")
    there, gone = list_items(str(tmp_path / "list.txt"))
    assert there.key == f"{address}/a.mp4"
    (tmp_path / "odd.txt").write_text("s3://bucket/a//b.mp4\nhttps://x.org/?u=http://z.mp4\nfile:///data/x.mp4\n")
    odd = [item.key for item in list_items(str(tmp_path / "odd.txt"))]
    assert odd == ["s3://bucket/a//b.mp4", "https://x.org/?u=http://z.mp4", "file:///data/x.mp4"]
    with opened(there, tmp_path) as (file, facts):
        assert Path(file).read_bytes() == clip.read_bytes() and facts.sha256 == content(clip).sha256
    assert not list(tmp_path.glob("vidtwin-*"))
    with pytest.raises(OSError, match=r"gone.mp4: cannot be read \(.*\); check the address"), opened(gone):
        pass
    (folder / "list.csv").write_text(f"videos,label\na.mp4,dog\n{address}/a.mp4?x=1,cat\n")
    relative, absolute = list_items(f"{address}/list.csv")
    assert relative.key == f"{address}/a.mp4" and dict(relative.columns) == {"label": "dog"}
    assert absolute.key == f"{address}/a.mp4?x=1"
    with opened(absolute) as (file, _):
        assert file.name == "a.mp4"
    with pytest.raises(ValueError, match=r"nosuch://x: cannot be opened \(.*nosuch"):
        list_items("nosuch://x")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (403, r"HTTP 403 Forbidden\); ask for access to it, or copy it"),
        (404, r"HTTP 404 Not Found\); check the address"),
        (429, r"HTTP 429 Too Many Requests\); try again later"),
        (503, r"HTTP 503 Service Unavailable\); try again later"),
    ],
)
def test_what_a_server_answers_is_said_with_its_status(server, tmp_path, status, said):
    address = f"{server[0]}/{status}"
    (tmp_path / "list.txt").write_text(f"{address}/a.mp4\n")
    (item,) = list_items(str(tmp_path / "list.txt"))
    with pytest.raises(OSError, match=rf"/a.mp4: cannot be read \({said}$"), opened(item):
        pass
    for source, verb in ((f"{address}/list.csv", "read"), (f"{address}/folder/", "listed")):
        with pytest.raises(OSError, match=rf"{source}: cannot be {verb} \({said}$"):
            list_items(source)


def test_a_server_that_is_not_there_is_said_with_the_reason(tmp_path):
    with pytest.raises(OSError, match=r"http://127.0.0.1:9/a.csv: cannot be read \(Cannot connect to host 127.0.0.1:9 .*\); check"):
        list_items("http://127.0.0.1:9/a.csv")


@pytest.mark.parametrize(
    "url",
    ["reference://a.mp4::file:///x.json", "simplecache::https://x.org/a.mp4", "zip://a.mp4::https://x.org/b.zip", "github://o:r@/a.mp4",
     "https://x.org/a.mp4::file:///b", "local:///a.mp4", "filecache://x/a.mp4", "dir://a.mp4::s3://b", "git://a.mp4", "FILE:///a.mp4"],
)  # fmt: skip
def test_schemes_that_are_not_known_to_be_harmless_and_chains_are_refused(tmp_path, url):
    (tmp_path / "list.csv").write_text(f"videos\n{url}\n")
    for source in (str(tmp_path / "list.csv"), url):
        with pytest.raises(ValueError, match=r"cannot be opened \((:: makes it a chain|.* is none of file, http)") as caught:
            list_items(source)
        assert "\n" not in str(caught.value)


def test_a_remote_list_names_no_files_of_this_machine(clip, server):
    address, folder = server
    (folder / "list.txt").write_text(f"file://{clip}\n")
    with pytest.raises(ValueError, match="list.txt: names file://.*, a file of this machine"):
        list_items(f"{address}/list.txt")


def test_a_pipe_behind_a_url_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    (tmp_path / "list.txt").write_text(f"file://{tmp_path}/a.mp4\na.mp4\n")
    for item in list_items(str(tmp_path / "list.txt")):
        with pytest.raises(OSError, match="a.mp4: is a pipe, a socket or a device"), opened(item):
            pass


def test_labels_stay_text_and_long_numbers_keep_their_digits(clip, tmp_path):
    for name in ("0/a.mp4", "1/a.mp4"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(clip, tmp_path / name)
    assert [dict(item.columns) for item in list_items(str(tmp_path), label=True)] == [{"label": "0"}, {"label": "1"}]
    big = 1234567890123456789012345678901234567890
    (tmp_path / "list.csv").write_text(f"videos,label,id,exact\n0/a.mp4,0,{big},123456789012345678\n1/a.mp4,1,{big + 1},0.5\n")
    assert dict(list_items(str(tmp_path / "list.csv"))[0].columns) == {"label": "0", "id": str(big), "exact": "123456789012345678"}


def test_a_folder_of_a_remote_file_system(clip):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/b/1.mp4", clip.read_bytes())
    memory.pipe("/bucket/notes.txt", b"")
    (item,) = list_items("memory://bucket", label=True)
    assert item.key == "memory:///bucket/b/1.mp4" and dict(item.columns) == {"label": "b"}
    with opened(item) as (file, _):
        assert Path(file).read_bytes() == clip.read_bytes()
    with pytest.raises(FileNotFoundError, match="no videos there"):
        list_items("memory://nothing")


def test_many_columns_of_numbers_are_typed_in_one_pass():
    """Column by column, this would take minutes."""
    names = [f"c{number}" for number in range(1000)]
    items = [Item(str(row), str(row), columns=tuple((name, str(row)) for name in names)) for row in range(100)]
    assert typed(items)[7].columns == tuple((name, 7) for name in names)
