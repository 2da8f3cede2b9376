import json
import shutil
import sys

import numpy as np
import pytest

from tests.data.conftest import CAMERAS, episode_numbers, grey_video, lerobot, numbers_in, pack
from vidtwin.data.sources import Recording, expand_braces, find_videos, recordings
from vidtwin.video import frame_count, probe, read_clip, read_video


def test_a_folder_gives_its_videos_sorted(tmp_path, assets):
    for name in ("b.mp4", "sub/a.MP4", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [r.name for r in recordings(tmp_path)] == [str(tmp_path / "b.mp4"), str(tmp_path / "sub" / "a.MP4")]
    assert [r.file for r in recordings(assets)] == find_videos(assets)


def test_lists_name_files_beside_them_or_anywhere(tmp_path, clip):
    (tmp_path / "list.csv").write_text(f'\ufeffid,videos\n1,"sub/a, b.mp4"\n2,{clip}\n')
    (tmp_path / "list.txt").write_text(f"# mine\n\n  sub/a, b.mp4\n{clip}\n")
    expected = [Recording(tmp_path / "sub" / "a, b.mp4"), Recording(clip)]  # the first is not there: found out when drawn
    assert recordings(tmp_path / "list.csv") == recordings(str(tmp_path / "list.txt")) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"path,fps\nx.mp4,3\n", "a.csv: no column 'videos', only path, fps"),
        ("a.csv", b"", "no column 'videos', only none"),
        ("a.csv", b"id,videos\n1,x.mp4\n2\n", "line 3 has no path"),
        ("a.csv", b"videos,label\na, b.mp4,1\n", "line 2 has more fields than the header"),
        ("a.csv", b"videos,label,label\nx.mp4,1,2\n", "column 'label' appears twice"),
        ("a.txt", b"# nothing\n", "a.txt: no videos in it"),
        ("a.txt", b"\xff\xfe\n", "a.txt: not a list of paths in UTF-8"),
        ("a.tar", b"x" * 2000, "a.tar: not a whole, uncompressed tar"),
        ("a.mp4", b"x", "a.mp4: not a source of videos"),
    ],
)
def test_what_is_no_source_is_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        recordings(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no videos"):
        recordings(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        recordings(tmp_path / "no")
    with pytest.raises(FileNotFoundError, match="s-1.tar: no such tar"):
        recordings(tmp_path / "s-{1..2}.tar")


def test_tar_members_are_read_in_place_and_alike(tmp_path, assets):
    """Every container, a tar with an odd name, and names inside that would lead out if anything were unpacked."""
    names = ("h264_aac.mp4", "start_offset.ts", "vp8_alpha.webm", "mpeg4.avi", "rot90.mp4")
    members = [(assets / name, f"../../{name}") for name in names]
    tar = pack(tmp_path / "a, b:c,,start,0 {x}%20ü.tar", *members, (assets / "ATTRIBUTION.md", "000.json"))
    found = recordings(tar)
    assert [r.name for r in found] == [f"{tar}!../../{name}" for name in names]
    for recording, name in zip(found, names, strict=True):
        assert frame_count(recording.file) == frame_count(assets / name)
        assert np.array_equal(read_clip(recording.file, 7, 5, 2), read_clip(assets / name, 7, 5, 2))
        assert np.array_equal(read_video(recording.file).frames, read_video(assets / name).frames)
        assert probe(recording.file).fps == probe(assets / name).fps
    assert sorted(path.name for path in tmp_path.iterdir()) == [tar.name]


def test_shards_are_a_folder_or_a_pattern(tmp_path, clip):
    shards = [pack(tmp_path / f"s-{n:03d}.tar", (clip, f"{n}.mp4")) for n in (8, 9, 10)]
    assert [r.name for r in recordings(tmp_path)] == [f"{shard}!{int(shard.stem[2:])}.mp4" for shard in shards]
    assert recordings(tmp_path / "s-{009..010}.tar") == recordings(tmp_path)[1:]
    shutil.copy(clip, tmp_path)
    assert [r.file for r in recordings(tmp_path)] == [tmp_path / clip.name]


def test_braces_expand_as_in_a_shell():
    assert expand_braces("s-{08..10}.tar") == ["s-08.tar", "s-09.tar", "s-10.tar"]
    assert expand_braces("{0..1}/{0..1}") == ["0/0", "0/1", "1/0", "1/1"]
    assert expand_braces("plain.tar") == ["plain.tar"]


def test_broken_members_are_refused_by_name(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "half.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(500))
    tar = pack(tmp_path / "a.tar", (tmp_path / "empty.mp4", "e.mp4"), (tmp_path / "half.mp4", "h.mp4"))
    empty, half = recordings(tar)
    with pytest.raises(ValueError, match=r"a.tar!e.mp4: is empty"):
        frame_count(empty.file)
    with pytest.raises(ValueError, match=r"a.tar!h.mp4: is cut off"):
        frame_count(half.file)
    tar.unlink()
    with pytest.raises(FileNotFoundError, match=r"a.tar!h.mp4: no such file"):
        frame_count(half.file)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot_episodes_hold_their_own_frames(tmp_path, version):
    found = recordings(lerobot(tmp_path / "set", version))
    assert len(found) == 3 * len(CAMERAS)
    for place, recording in enumerate(found):
        stop = frame_count(recording.file) if recording.stop is None else recording.stop
        frames = read_clip(recording.file, recording.start, stop - recording.start)
        assert numbers_in(frames) == episode_numbers(*divmod(place, 2))
    if version == "v3.0":
        shared = tmp_path / "set" / "videos" / CAMERAS[0] / "chunk-000" / "file-000.mp4"
        assert found[2] == Recording(shared, 12, 32)
        assert found[2].name == f"{shared}[12:32]"


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("template", ["../{video_key}.mp4", "/etc/{video_key}.mp4", "videos/../../{video_key}.mp4"])
def test_lerobot_videos_outside_the_data_set_are_refused(tmp_path, version, template):
    with pytest.raises(ValueError, match="points outside the data set"):
        recordings(lerobot(tmp_path / "set", version, template))


def test_lerobot_cameras_and_templates_are_not_trusted(tmp_path):
    folder = lerobot(tmp_path / "set", "v2.1")
    meta = folder / "meta" / "info.json"
    info = json.loads(meta.read_text())

    def refused(message, **changes):
        meta.write_text(json.dumps(info | changes))
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            recordings(folder)
        assert "\n" not in str(caught.value)

    refused("points outside", features={"../../../x": {"dtype": "video"}})
    refused("asks for {user}", video_path="{user}.mp4")
    refused("no videos", features={"action": {"dtype": "float32"}})
    refused("v1.6 is not read", codebase_version="v1.6")
    refused("not a number of at least 0.001", fps=0)
    refused("not the index", features=[])
    meta.write_text("{")
    with pytest.raises(ValueError, match="not the index"):
        recordings(folder)


def test_lerobot_indexes_that_are_damaged_are_refused(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = lerobot(tmp_path / "three", "v3.0")
    path = folder / "meta" / "episodes" / "chunk-000" / "file-001.parquet"
    table = parquet.read_table(path)
    column = f"videos/{CAMERAS[0]}/to_timestamp"
    place = table.column_names.index(column)

    def refused(message):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            recordings(folder)
        assert "\n" not in str(caught.value)

    for values, message in [
        ([None], f"{column} is missing"),
        (["soon"], f"{column} is not of numbers"),
        ([float("nan")], "is no range"),
    ]:
        parquet.write_table(table.set_column(place, column, pyarrow.array(values)), path)
        refused(message)
    parquet.write_table(table.drop_columns([column]), path)
    refused(f"{column} is missing")
    path.write_bytes(b"PAR1")
    refused("cannot be read")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        refused(r"pip install 'vidtwin\[dataset\]'")
    shutil.rmtree(path.parent)
    refused("no episodes")

    two = lerobot(tmp_path / "two", "v2.1")
    (two / "meta" / "episodes.jsonl").write_text('{"episode_index": 0}\n{"epi')
    with pytest.raises(ValueError, match="episodes.jsonl: not a list of episodes"):
        recordings(two)
    (two / "meta" / "episodes.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="incomplete"):
        recordings(two)


def test_grey_videos_say_their_numbers(tmp_path):
    assert numbers_in(read_video(grey_video(tmp_path / "a.mp4", range(64))).frames) == list(range(64))
