"""Episodes of LeRobot data sets: frames by their times, cameras stored as videos or as images, cameras chosen."""

import io
import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import CAMERAS, STEP, lerobot, numbers_in
from vidtwin.data.check import check_data
from vidtwin.data.clips import TrainingClips, validation_clips
from vidtwin.data.sources import recordings
from vidtwin.model.config import VidTwinConfig
from vidtwin.video.read.decode import VideoWarning
from vidtwin.video.read.reader import frame_count, iter_frames, probe, read_clip

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

CAMERA = "observation.images.top"
EACH = 10  # frames of an episode


def timed_video(path: Path, ticks: list[int], clock: Fraction) -> None:
    """Frame n is grey, STEP n, and shown at ticks[n]."""
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "1", "bf": "0", "g": "8"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = clock
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), STEP * number, np.uint8), format="rgb24")
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = tick, clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def v3(folder: Path, fps: float, features: dict, table: dict) -> Path:
    (folder / "meta" / "episodes").mkdir(parents=True)
    info = {
        "codebase_version": "v3.0", "fps": fps, "chunks_size": 1000, "features": features,
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    }  # fmt: skip
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    parquet.write_table(pyarrow.table(table), folder / "meta" / "episodes" / "file-000.parquet")
    return folder


def of_video(folder: Path, fps: float, ticks: list[int], spans: list[tuple[float, float]], suffix: str = "mp4", **more) -> Path:
    key = f"videos/{CAMERA}"
    columns = {
        "episode_index": list(range(len(spans))),
        f"{key}/chunk_index": [0] * len(spans),
        f"{key}/file_index": [0] * len(spans),
    }
    columns |= {f"{key}/from_timestamp": [a for a, _ in spans], f"{key}/to_timestamp": [b for _, b in spans]}
    v3(folder, fps, {CAMERA: {"dtype": "video"}}, columns | more)
    timed_video(folder / "videos" / CAMERA / "chunk-000" / f"file-000.{suffix}", ticks, Fraction(1, 30000))
    if suffix != "mp4":
        meta = folder / "meta" / "info.json"
        meta.write_text(meta.read_text().replace(".mp4", f".{suffix}"))
    return folder


def found(folder: Path) -> list[list[int]]:
    return [numbers_in(np.stack([f.image for f in iter_frames(r.file, r.start, r.stop)])) for r in recordings(folder)]


EPISODES = [list(range(EACH * e, EACH * e + EACH)) for e in range(3)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])  # of exact times, and of milliseconds
@pytest.mark.parametrize(("late", "tick"), [(0, 1000), (3000, 1000), (150, 1000), (0, 1001)])
def test_frames_are_those_whose_time_lies_in_the_episode(tmp_path, late, tick, suffix):
    """Files that begin late, and 29.97 frames a second; times of the index are those of the frames."""
    times = [(late + EACH * tick * e) / 30000 for e in range(4)]
    ticks = [late + tick * n for n in range(3 * EACH)]
    assert found(of_video(tmp_path / "set", 30, ticks, list(pairwise(times)), suffix)) == EPISODES


def test_gaps_between_episodes_move_no_frame(tmp_path):
    ticks = [1000 * ((EACH + 1) * e + n) for e in range(3) for n in range(EACH)]
    spans = [((EACH + 1) * e / 30, (EACH + 1) * (e + 1) / 30) for e in range(3)]
    assert found(of_video(tmp_path / "set", 30, ticks, spans, length=[EACH] * 3)) == EPISODES


def test_an_episode_of_other_frames_than_the_data_set_says_is_named(tmp_path):
    """A video of 30 frames a second beside data of 10: its frames do not join the data's."""
    ticks, spans = [1000 * n for n in range(3 * EACH)], [(EACH * e / 30, (EACH + EACH * e) / 30) for e in range(3)]
    folder = of_video(tmp_path / "set", 10, ticks, spans)
    assert found(folder) == EPISODES and recordings(folder)[0].length == 3
    assert "has 10 frames, the data set says 3" in check_data(folder, 2).damaged[0][1]


def test_an_episode_without_frames_has_a_problem(tmp_path):
    folder = of_video(tmp_path / "set", 30, [1000 * n for n in range(EACH)], [(0.0, EACH / 30), (5.0, 6.0)])
    good, bad = recordings(folder)
    assert good.problem is None and bad.problem == "has no frames from 5 to 6 s; get the data set again"
    with pytest.raises(ValueError, match="has no frames from 5 to 6 s"):
        bad.check()
    assert [reason for _, reason in check_data(folder, 2).broken] == [bad.problem]


def picture(number: int, form: str = "PNG") -> dict:
    data = io.BytesIO()
    Image.fromarray(np.full((32, 48, 3), STEP * number, np.uint8)).save(data, form)
    return {"bytes": data.getvalue(), "path": f"frame-{number}.png"}


def of_images(folder: Path, pictures: list, **more) -> Path:
    features = {CAMERA: {"dtype": "image", "shape": [32, 48, 3]}}
    columns = {"episode_index": [0, 1, 2], "data/chunk_index": [0] * 3, "data/file_index": [0] * 3, "length": [EACH] * 3}
    v3(folder, 10, features, columns)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    rows = {"episode_index": [e for e in range(3) for _ in range(EACH)], "frame_index": list(range(EACH)) * 3} | more
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table(rows | {CAMERA: pyarrow.array(pictures, kind)})
    parquet.write_table(table, folder / "data" / "chunk-000" / "file-000.parquet", row_group_size=7)
    return folder


def test_cameras_stored_as_images_are_read_like_videos(tmp_path):
    folder = of_images(tmp_path / "set", [picture(n) for n in range(3 * EACH)])
    assert found(folder) == EPISODES
    one = recordings(folder)[1]
    assert one.name == f"{folder}/data/chunk-000/file-000.parquet!{CAMERA}[10:20]" and one.columns == (
        ("episode_index", 1),
        ("camera", CAMERA),
    )
    assert (frame_count(one.file), probe(one.file).fps, probe(one.file).stored_size) == (30, 10, (32, 48))
    assert numbers_in(read_clip(one.file, 5, 4, 6)) == [5, 11, 17, 23]
    assert [float(frame.time) for frame in iter_frames(one.file, 10, 12)] == [1.0, 1.1]
    report = check_data(folder, 10)
    assert (report.recordings, report.usable, report.frames) == (3, 3, 30)


def test_a_row_of_several_pictures_is_said(tmp_path):
    pages, buffer = [Image.new("RGB", (48, 32), colour) for colour in ("red", "blue")], io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    folder = of_images(tmp_path / "set", [{"bytes": buffer.getvalue(), "path": None}] * (3 * EACH))
    with pytest.warns(VideoWarning, match="rows hold several pictures, of which only the first was read"):
        list(iter_frames(recordings(folder)[0].file, 0, 3))


def test_images_that_are_not_there_are_named(tmp_path):
    pictures = [picture(n) for n in range(3 * EACH)]
    pictures[3], pictures[14] = {"bytes": None, "path": "/etc/passwd"}, {"bytes": b"no", "path": None}
    folder = of_images(tmp_path / "set", pictures, frame_index=list(range(EACH)) * 2 + [0] * EACH)
    first, second, third = recordings(folder)
    with pytest.raises(ValueError, match=r"top\[3\]: holds no picture; write the data set with its images embedded"):
        list(iter_frames(first.file, first.start, first.stop))
    with pytest.raises(ValueError, match=r"top\[14\]: is not an image of a known kind"):
        list(iter_frames(second.file, second.start, second.stop))
    assert "rows of episode 2 are not frames 0, 1, ... in order" in third.problem
    (folder / "data" / "chunk-000" / "file-000.parquet").write_bytes(b"PAR1")
    assert {recording.problem is None for recording in recordings(folder)} == {False}


def test_rows_that_share_a_large_picture_are_read_one_at_a_time(tmp_path):
    one = picture(1)
    folder = of_images(tmp_path / "set", [{"bytes": one["bytes"] + bytes(2**20), "path": "x" * 2**20}] * (3 * EACH))
    assert found(folder) == [[1] * EACH] * 3


def test_a_page_that_would_take_a_thousand_times_its_bytes_is_refused(tmp_path):
    folder = of_images(tmp_path / "set", [picture(1)] * (3 * EACH))
    table = folder / "data" / "chunk-000" / "file-000.parquet"
    rows = {"episode_index": [0], "frame_index": [0], CAMERA: [{"bytes": bytes(2**28), "path": None}]}
    parquet.write_table(pyarrow.table(rows), table, compression="zstd")
    assert table.stat().st_size < 30_000
    with pytest.raises(ValueError, match=r"column .*top.bytes has a page of [\d,]+ bytes that would take 268,43[\d,]+ in memory"):
        list(iter_frames(recordings(folder)[0].file, 0, 1))


@pytest.mark.parametrize("name", ["episode_index", f"videos/{CAMERA}/from_timestamp", "length"])
def test_columns_of_another_kind_are_not_read(tmp_path, name):
    """Text that all rows share would take a thousand times the file."""
    rows = 1000
    key = f"videos/{CAMERA}"
    columns = {
        "episode_index": list(range(rows)),
        f"{key}/chunk_index": [0] * rows,
        f"{key}/file_index": [0] * rows,
        "length": [1] * rows,
    }
    columns |= {f"{key}/from_timestamp": [0.0] * rows, f"{key}/to_timestamp": [1.0] * rows, name: ["x" * 2**14] * rows}
    folder = v3(tmp_path / "set", 10, {CAMERA: {"dtype": "video"}}, columns)
    with pytest.raises(ValueError, match=f"column {name} is not of (whole )?numbers; get the data set again"):
        recordings(folder)


def test_a_few_bytes_state_no_millions_of_episodes(tmp_path):
    columns = {name: np.zeros(1_000_001, np.int64) for name in ("episode_index", "data/chunk_index", "data/file_index")}
    folder = v3(tmp_path / "set", 10, {CAMERA: {"dtype": "image"}}, columns)
    with pytest.raises(ValueError, match="states more than 1,000,000 episodes with those before; split the data set"):
        recordings(folder)


def test_cameras_are_chosen(tmp_path):
    folder = lerobot(tmp_path / "set", "v2.1")
    assert [dict(r.columns)["camera"] for r in recordings(folder, cameras=["wrist"])] == [CAMERAS[1]] * 3
    assert recordings(folder, cameras=[CAMERAS[1], "top"]) == recordings(folder)
    for name in ("left", "images.top.x", ""):
        with pytest.raises(ValueError, match=f"cameras='{name}': .* has {CAMERAS[0]}, {CAMERAS[1]}; choose of these"):
            recordings(folder, cameras=[name])
    with pytest.raises(ValueError, match="cameras='top': is for LeRobot data sets"):
        recordings(tmp_path, cameras=["top"])


@pytest.mark.parametrize(
    ("name", "feature"),
    [
        ("observation.images.wrist_depth", {}),
        ("observation.images.wrist", {"info": {"is_depth_map": True}}),
        ("observation.images.wrist", {"info": {"video.is_depth_map": True, "video.fps": 10}}),
    ],
)
def test_depth_maps_are_taken_only_if_named(tmp_path, name, feature):
    folder = lerobot(tmp_path / "set", "v2.1")
    meta = folder / "meta" / "info.json"
    info = json.loads(meta.read_text())
    info["features"] = {CAMERAS[0]: {"dtype": "video", "info": None}, name: {"dtype": "video"} | feature}
    meta.write_text(json.dumps(info))
    assert {dict(r.columns)["camera"] for r in recordings(folder)} == {CAMERAS[0]}
    assert {dict(r.columns)["camera"] for r in recordings(folder, cameras=[name])} == {name}
    del info["features"][CAMERAS[0]]
    meta.write_text(json.dumps(info))
    with pytest.raises(FileNotFoundError, match=f"has no videos but depth maps \\({name}\\); name one with cameras"):
        recordings(folder)


def test_an_episode_shorter_than_a_clip_is_no_failure(tmp_path):
    folder = lerobot(tmp_path / "set", "v2.1")  # of 12, 20 and 9 frames
    config = VidTwinConfig(frames=16, height=32, width=32, patch=16, hidden=32, depth=1, heads=2)
    clips = TrainingClips(recordings(folder), config, None, False, None, 0)
    assert [clips[number].failures for number in range(6)] == [()] * 6
    found, failures = validation_clips(recordings(folder), config, 6)
    assert (len(found), failures) == (2, ())
    with pytest.raises(ValueError, match="10 recordings in a row could not be used, the last one .*frames, a clip needs 301"):
        TrainingClips(recordings(folder), config, 0.5, False, None, 0)[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"fps": "30"}, {"fps": True}, {"fps": 1e999}, {"fps": 1e-9}, {"chunks_size": 2.5}, {"chunks_size": 10**40},
        {"features": {CAMERA: []}}, {"features": {CAMERA: {"dtype": 3}}}, {"codebase_version": 2}, {"video_path": 7},
    ],
)  # fmt: skip
def test_an_index_that_is_well_formed_and_wrong_is_refused(tmp_path, changes):
    folder = lerobot(tmp_path / "set", "v2.1")
    meta = folder / "meta" / "info.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | changes))
    with pytest.raises(ValueError, match="info.json: not the index of a LeRobot data set") as caught:
        recordings(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    ['{"episode_index": "0"}', '{"episode_index": 1.5}', '{"episode_index": -1}', f'{{"episode_index": {10**40}}}',
     '{"episode_index": 0}\n{"episode_index": 0}', '{"episode_index": 0, "length": NaN}', "[" * 100_000, "3"],
)  # fmt: skip
def test_a_list_of_episodes_that_is_well_formed_and_wrong_is_refused(tmp_path, line):
    folder = lerobot(tmp_path / "set", "v2.1")
    (folder / "meta" / "episodes.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match="episodes.jsonl: not a list of episodes") as caught:
        recordings(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
