"""Data sets of latents end to end: real files, real processes, real kills."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
import torch

from tests.data.conftest import CAMERAS, LENGTHS, lerobot, pack
from tests.data.test_lerobot import of_images, of_video, picture
from tests.latent_sets.conftest import bytes_of, encode, table_of
from vidtwin.frames.clips import Geometry, to_clip
from vidtwin.inference.encode import encode_video
from vidtwin.inference.engine import Engine
from vidtwin.latent_sets import local, store
from vidtwin.latent_sets.job import verify_dataset
from vidtwin.latent_sets.plan import Plan
from vidtwin.latent_sets.rows import latents_in
from vidtwin.latent_sets.spool import METADATA
from vidtwin.latent_sets.statistics import Statistics
from vidtwin.latents.stream import Identity
from vidtwin.video.read.reader import read_video

GOOD = {"h/h264_aac.mp4": 4, "r/rot90.mp4": None, "v/vfr_jitter.mp4": None, "v/vp8_alpha.webm": None, "t/tiny_2x2.mp4": None}


def test_rows_are_what_encoding_each_video_gives(videos, model, plan, tmp_path):
    summary = encode(videos, tmp_path / "out", model, plan)
    assert (summary.items, summary.encoded, summary.kept, len(summary.failures)) == (7, 5, 0, 2)
    rows = table_of(tmp_path / "out")
    assert rows.num_rows == summary.rows and set(rows.column("video").to_pylist()) == GOOD.keys()
    torch.set_num_threads(1)
    row = 0
    for name in sorted(GOOD):
        latents = encode_video(Engine(model), videos / name, tmp_path / "one.vidtwin", overlap=0)
        for window in latents.stream().windows:
            found = latents_in(rows.slice(row, 1), plan.config)
            for a, b in zip(found.tensors, window.latents.tensors, strict=True):
                assert torch.equal(a, b.half().float())
            facts = rows.slice(row, 1).drop_columns(["structure", "dynamics_x", "dynamics_y"]).to_pylist()[0]
            assert (facts["video"], facts["frame_index"], facts["valid"]) == (name, 16 * window.index, len(window.ticks))
            seconds = [float(tick * latents.header.clock) for tick in window.ticks]
            if window.index == 0:
                first = seconds[0]
            np.testing.assert_allclose(facts["times"][: len(seconds)], np.array(seconds) - first, atol=1e-6)
            assert facts["size"] == (videos / name).stat().st_size
            row += 1
    assert row == rows.num_rows
    failures = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert [failure["video"] for failure in failures] == ["broken.mp4", "cut.mp4"]
    assert all(failure["reason"] and "broken.mp4" not in failure["reason"] for failure in failures)
    assert not (tmp_path / "out" / "work").exists()
    with pytest.raises(ValueError, match="has something else in it"):
        encode(videos, videos, model, plan)


@pytest.mark.slow
def test_engines_give_the_same_files(videos, model, plan, tmp_path, monkeypatch):
    monkeypatch.setattr("vidtwin.latent_sets.job.PART_BYTES", 8000)  # several parts
    engines = {"here": {}, "one": {"processes": 1}, "two": {"processes": 2}}
    for name, options in engines.items():
        encode(videos, tmp_path / name, model, plan, **options)
    here, one, two = (bytes_of(tmp_path / name) for name in engines)
    assert here == one == two and len(one) > 1
    records = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in engines]
    assert [record.pop("run")["encoded"] for record in records] == [5, 5, 5] and records[0] == records[1] == records[2]


def test_statistics_are_those_of_a_single_pass(videos, model, plan, tmp_path, monkeypatch):
    monkeypatch.setattr("vidtwin.latent_sets.job.PART_BYTES", 8000)
    encode(videos, tmp_path / "out", model, plan)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    statistics = Statistics.from_dict(manifest["statistics"])
    for tensor, moments in zip(latents_in(table_of(tmp_path / "out"), plan.config).tensors, statistics.moments, strict=True):
        flat = tensor.double().transpose(0, 1).flatten(1)
        np.testing.assert_allclose(moments.mean, flat.mean(1).numpy(), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(moments.std, flat.std(1, correction=0).numpy(), rtol=1e-6)
        assert moments.count == flat.shape[1]


def test_only_what_is_missing_or_changed_is_encoded(videos, model, plan, tmp_path, assets):
    out = tmp_path / "out"
    encode(videos, out, model, plan)
    before = bytes_of(out)
    again = encode(videos, out, model, plan)
    assert (again.kept, again.encoded, len(again.failures)) == (5, 0, 2) and bytes_of(out) == before
    os.utime(videos / "r" / "rot90.mp4")  # as a copy would: the content decides
    shutil.copy(assets / "h264_fullrange.mp4", videos / "v" / "vfr_jitter.mp4")  # changed
    shutil.copy(assets / "h264_aac.mp4", videos / "new.mp4")
    (videos / "t" / "tiny_2x2.mp4").unlink()
    shutil.copy(assets / "h264_aac.mp4", videos / "broken.mp4")  # mended
    more = encode(videos, out, model, plan)
    assert (more.items, more.kept, more.encoded, more.gone) == (7, 3, 3, 1) and [key for key, _ in more.failures] == ["cut.mp4"]
    fresh = encode(videos, tmp_path / "fresh", model, plan)

    def rows(folder: Path) -> list[dict]:
        found = [row for row in table_of(folder).to_pylist() if row["video"] != "t/tiny_2x2.mp4"]
        return sorted(found, key=lambda row: (row["video"], row["frame_index"]))

    assert rows(out) == rows(tmp_path / "fresh") and len(rows(out)) == fresh.rows
    assert encode(videos, out, model, plan, retry=True).encoded == 0
    for name, data in before.items():  # as if it had been killed before it deleted what it had replaced
        (out / "data" / name).write_bytes(data)
    (out / "manifest.json").unlink()
    assert encode(videos, out, model, plan).encoded == 0 and rows(out) == rows(tmp_path / "fresh")
    check = verify_dataset(str(videos), out, model, 3)
    assert check.items == 3 and check.rows == more.rows


@pytest.mark.slow
def test_what_cannot_be_reached_keeps_its_rows(videos, model, plan, tmp_path):
    """A list whose files are away for a time, as a disk that is not mounted."""
    (videos / "list.csv").write_text("videos,label\nh/h264_aac.mp4,dog\nr/rot90.mp4,cat\n")
    out = tmp_path / "out"
    encode(videos / "list.csv", out, model, plan)
    before = table_of(out).to_pylist()
    (videos / "h").rename(videos / "away")
    summary = encode(videos / "list.csv", out, model, plan)
    assert [key for key, _ in summary.failures] == ["h/h264_aac.mp4"] and table_of(out).to_pylist() == before
    (videos / "away").rename(videos / "h")
    again = encode(videos / "list.csv", out, model, plan)
    assert (again.kept, again.encoded, again.failures) == (2, 0, ()) and table_of(out).to_pylist() == before
    (videos / "list.csv").write_text("videos,label\nh/h264_aac.mp4,wolf\nr/rot90.mp4,cat\n")
    assert encode(videos / "list.csv", out, model, plan).encoded == 1
    rows = table_of(out)
    assert rows.num_rows == len(before) and set(rows.column("label").to_pylist()) == {"wolf", "cat"}
    (videos / "h" / "h264_aac.mp4").write_bytes(b"it is broken now")
    assert len(encode(videos / "list.csv", out, model, plan).failures) == 1
    assert set(table_of(out).column("label").to_pylist()) == {"cat"}


def test_damage_inside_an_episode_is_a_failure(model, plan, tmp_path):
    source = lerobot(tmp_path / "set", "v3.0")
    shared = source / "videos" / CAMERAS[0] / "chunk-000" / "file-000.mp4"  # episodes 0 and 1, of 12 and 20 frames
    with av.open(str(shared)) as container:
        sizes = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(shared.read_bytes())
    place, size = sizes[5]
    data[place + 4 : place + size] = bytes(size - 4)
    shared.write_bytes(data)
    summary = encode(source, tmp_path / "out", model, plan)
    assert any(key.endswith("[0:12]") and CAMERAS[0] in key for key, _ in summary.failures)
    episodes = source / "meta" / "episodes"
    table = pyarrow.parquet.read_table(next(episodes.rglob("*.parquet")))
    longer = table.column(f"videos/{CAMERAS[1]}/to_timestamp").to_numpy() + 5
    index = table.schema.get_field_index(f"videos/{CAMERAS[1]}/to_timestamp")
    pyarrow.parquet.write_table(
        table.set_column(index, table.schema.field(index), pyarrow.array(longer)).drop_columns(["length"]),
        next(episodes.rglob("*.parquet")),
    )
    reasons = dict(encode(source, tmp_path / "other", model, plan).failures)
    assert "has 9 frames from 0 on, the data set says 59; get it again" in reasons.values()


def test_processes_that_never_begin_are_said(videos, model, plan, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif os.environ.get('DEADLY') and '--multiprocessing-fork' in sys.orig_argv: os._exit(9)\n"
    )
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        patch.setenv("DEADLY", "1")
        with pytest.raises(RuntimeError, match="the processes that encode end before they begin; free some memory"):
            encode(videos, tmp_path / "out", model, plan, processes=1)
    assert encode(videos, tmp_path / "out", model, plan).encoded == 5


def test_another_plan_is_refused(videos, model, plan, tmp_path):
    encode(videos, tmp_path / "out", model, plan)
    with pytest.raises(ValueError, match=r'out: was made with policy "crop", not "pad"; use the same options, or another folder'):
        encode(videos, tmp_path / "out", model, replace(plan, policy="pad"))
    with pytest.raises(ValueError, match="another run is writing it"), store.Store(tmp_path / "out", plan):
        encode(videos, tmp_path / "out", model, plan)


def test_int8_takes_a_byte_a_value(videos, model, plan, tmp_path):
    sizes = {}
    for stored in ("float32", "int8"):
        encode(videos, tmp_path / stored, model, replace(plan, stored=stored, every=1))
        (part,) = (tmp_path / stored / "data").iterdir()
        group = pyarrow.parquet.read_metadata(part).row_group(0)
        chunks = [group.column(i) for i in range(group.num_columns)]
        sizes[stored] = sum(c.total_compressed_size for c in chunks if c.path_in_schema == "structure.list.element")
    assert sizes["int8"] < sizes["float32"] / 3.5  # a dictionary of 1 kB beside them


@pytest.mark.parametrize("stored", ["float32", "int8"])
def test_other_ways_to_store(videos, model, plan, tmp_path, stored):
    encode(videos, tmp_path / "half", model, plan)
    encode(videos, tmp_path / stored, model, replace(plan, stored=stored, logvar=True))
    half, other = (latents_in(table_of(tmp_path / name), plan.config) for name in ("half", stored))
    for a, b in zip(half.tensors, other.tensors, strict=True):
        largest = b.abs().flatten(2).amax(2)
        bound = largest / 127 / 2 * 1.01 if stored == "int8" else torch.zeros_like(largest)
        assert ((a - b).abs().flatten(2).amax(2) <= bound + 1e-3 * largest).all()
    logvar = latents_in(table_of(tmp_path / stored), plan.config, "_logvar")
    assert logvar.shapes == other.shapes and logvar.structure.abs().sum() > 0


def test_rows_for_each_frame_of_an_episode(model, plan, tmp_path):
    """A LeRobot data set: past windows, which join on (episode_index, frame_index)."""
    source = lerobot(tmp_path / "set", "v3.0")
    summary = encode(source, tmp_path / "out", model, replace(plan, every=1, anchor="last", sample_fps=5))
    assert summary.rows == 2 * sum(LENGTHS) and not summary.failures
    rows = table_of(tmp_path / "out").select(["episode_index", "frame_index", "camera", "frames", "times", "valid"]).to_pylist()
    keys = [(row["camera"], row["episode_index"], row["frame_index"]) for row in rows]
    assert sorted(keys) == [(c, e, n) for c in sorted(CAMERAS) for e, length in enumerate(LENGTHS) for n in range(length)]
    last = next(row for row in rows if row["episode_index"] == 1 and row["frame_index"] == 7)
    assert last["frames"] == [1] * 12 + [1, 3, 5, 7] and last["valid"] == 4  # every second of 10 frames a second
    assert last["times"][-1] == pytest.approx(0.7) and last["times"][0] == pytest.approx(0.1)


def test_cameras_stored_as_images_give_rows_that_join(model, plan, tmp_path):
    source = of_images(tmp_path / "set", [picture(number) for number in range(30)])
    summary = encode(source, tmp_path / "out", model, replace(plan, every=1))
    assert summary.rows == 30 and not summary.failures
    rows = table_of(tmp_path / "out").select(["episode_index", "frame_index", "start", "times"]).to_pylist()
    assert [(row["episode_index"], row["frame_index"], row["start"]) for row in rows] == [
        (episode, frame, 10 * episode) for episode in range(3) for frame in range(10)
    ]
    assert rows[13]["times"][:2] == pytest.approx([0.3, 0.4])


def test_episodes_that_would_not_join_and_tars_that_are_cut_off_are_failures(model, plan, tmp_path, clip):
    spans = [(10 * e / 30, (10 + 10 * e) / 30) for e in range(3)]
    source = of_video(tmp_path / "set", 30, [1000 * number for number in range(30)], spans, length=[10, 3, 20])
    summary = encode(source, tmp_path / "out", model, replace(plan, every=1))
    assert summary.rows == 10 and {reason for _, reason in summary.failures} == {
        "has 10 frames from 10 on, the data set says 3; get it again",
        "has 10 frames from 20 on, the data set says 20; get it again",
    }
    shards = [pack(tmp_path / f"s-{number}.tar", (clip, f"{number}.mp4")) for number in range(2)]
    shards[0].write_bytes(shards[0].read_bytes()[:5000])
    summary = encode(tmp_path / "s-{0..1}.tar", tmp_path / "tars", model, plan)
    (failure,) = summary.failures
    assert (summary.encoded, failure[0]) == (1, "s-0.tar") and "it is cut off in 0.mp4" in failure[1]


def test_a_real_robot_data_set(model, plan, tmp_path, assets):
    """Two episodes in one file, as LeRobot v3 has them: rows are of their own frames, and join its table."""
    source, camera, lengths = tmp_path / "set", "observation.images.side", (24, 36)
    video = source / "videos" / camera / "chunk-000" / "file-000.mp4"
    video.parent.mkdir(parents=True)
    shutil.copy(assets / "robot_droid.mp4", video)
    info = {
        "codebase_version": "v3.0", "fps": 25, "chunks_size": 1000, "features": {camera: {"dtype": "video"}},
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }  # fmt: skip
    (source / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    (source / "meta" / "info.json").write_text(json.dumps(info))
    begin = [0.0, lengths[0] / 25]
    facts = {"chunk_index": [0, 0], "file_index": [0, 0], "from_timestamp": begin, "to_timestamp": [begin[1], sum(lengths) / 25]}
    columns = {"episode_index": [0, 1]} | {f"videos/{camera}/{name}": values for name, values in facts.items()}
    pyarrow.parquet.write_table(pyarrow.table(columns), source / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    frames = [(episode, frame) for episode, length in enumerate(lengths) for frame in range(length)]
    actions = pandas.DataFrame(frames, columns=["episode_index", "frame_index"]).assign(action=range(sum(lengths)))

    summary = encode(source, tmp_path / "out", model, replace(plan, every=4, anchor="last"))
    assert not summary.failures and summary.rows == 6 + 9
    rows = pandas.read_parquet(tmp_path / "out" / "data")
    joined = rows.merge(actions, on=["episode_index", "frame_index"])
    assert len(joined) == len(rows) and (joined.action == joined.start + joined.frame_index).all()
    pixels = read_video(video).frames
    for row in joined.itertuples():
        window = pixels[[row.start + number for number in row.frames]]
        clip = to_clip(window, Geometry.plan("crop", (90, 160), (32, 32)))
        with torch.no_grad():
            expected = model.encode(clip[None]).structure.flatten().half().float()
        torch.testing.assert_close(torch.from_numpy(row.structure.astype(np.float32)), expected, atol=2e-3, rtol=2e-3)


@pytest.mark.slow
def test_a_process_that_dies_is_replaced(videos, model, plan, tmp_path, monkeypatch):
    """One video ends the process that opens it; the others come, and it is a failure with its reason."""
    (videos / "deadly.mp4").write_bytes(b"x")
    (tmp_path / "sitecustomize.py").write_text(
        "import os, builtins\n"
        "real = builtins.open\n"
        "def deadly(path, *more, **options):\n"
        "    if str(path).endswith('deadly.mp4') and os.environ.get('DEADLY'): os._exit(9)\n"
        "    return real(path, *more, **options)\n"
        "builtins.open = deadly\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("DEADLY", "1")
    summary = encode(videos, tmp_path / "out", model, plan, processes=2)
    assert dict(summary.failures)["deadly.mp4"] == local.KILLED and summary.encoded == 5 and len(summary.failures) == 3


PROGRAM = """
import sys, torch
from pathlib import Path
from vidtwin import VidTwin
from vidtwin.latent_sets import job
from vidtwin.latent_sets.plan import Plan
from vidtwin.latents.stream import Identity
job.PART_BYTES = 2000
if __name__ == "__main__":
    model = VidTwin.from_pretrained(sys.argv[3])
    print("begun", flush=True)
    job.encode_dataset(sys.argv[1], Path(sys.argv[2]), model, Plan(model.config, Identity.of(model)), processes=2)
"""


def workers_of(process: subprocess.Popen) -> list[int]:
    """Processes that encode, of those that another one has begun."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_killed_at_random_and_gone_on_with(assets, model, weights, tmp_path, monkeypatch):
    """SIGKILL to the driver, to a worker and then the driver, and to a worker alone; then it is as if nothing had been."""
    folder, out = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    for number in range(30):
        shutil.copy(assets / "h264_aac.mp4", folder / f"{number:03d}.mp4")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    monkeypatch.setattr("vidtwin.latent_sets.job.PART_BYTES", 2000)
    encode(folder, tmp_path / "whole", model, Plan(model.config, Identity.of(model)))

    def parts() -> int:
        return len(list(out.glob("data/part-*.parquet")))

    def spooled() -> set[Path]:
        return set(out.glob("work/*.arrow"))

    draw, total = random.Random(0), len(bytes_of(tmp_path / "whole"))
    for more, *victims in ((0, "driver"), (2, "worker", "driver"), (1, "worker")):
        command = [sys.executable, str(program), str(folder), str(out), str(weights)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        known = spooled()
        for victim in victims:
            wanted = parts() + more
            while parts() < wanted or (victim == "worker" and not spooled() - known):
                assert process.poll() is None
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.05 if more else 1))
            os.kill(process.pid if victim == "driver" else draw.choice(workers_of(process)), signal.SIGKILL)
        assert process.wait(timeout=300) == (-signal.SIGKILL if victim == "driver" else 0)
        assert parts() < total or victim == "worker"
    assert bytes_of(out) == bytes_of(tmp_path / "whole")
    keys = table_of(out).select(["video", "frame_index"]).to_pylist()
    assert len({tuple(key.values()) for key in keys}) == len(keys) == 30 * 4


def test_verifying_finds_what_is_wrong(videos, model, plan, tmp_path):
    out = tmp_path / "out"
    encode(videos, out, model, plan)
    assert verify_dataset(str(videos), out, model, 100).items == 5
    (part,) = (out / "data").iterdir()
    good = part.read_bytes()
    part.write_bytes(good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])
    with pytest.raises(ValueError, match=r"part-00000.parquet: is missing or has changed"):
        verify_dataset(str(videos), out, model)
    part.write_bytes(good)
    with pytest.raises(ValueError, match="was encoded with weights"):
        other = type(model)(model.config)
        verify_dataset(str(videos), out, other)
    manifest = json.loads((out / "manifest.json").read_text())
    table = pyarrow.parquet.read_table(part)
    changed = table.column("structure").combine_chunks().flatten().to_numpy().copy()
    changed[5] += 1
    values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(changed), len(changed) // len(table))
    forged = table.set_column(table.schema.get_field_index("structure"), table.schema.field("structure"), values)
    items = pyarrow.parquet.read_metadata(part).metadata[b"vidtwin.items"]
    with pyarrow.parquet.ParquetWriter(part, forged.schema) as writer:
        writer.write_table(forged)
        writer.add_key_value_metadata({"vidtwin.items": items.decode()})
    manifest["files"][0]["sha256"] = store.file_hash(part)
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="structure of .* is not what encoding it again gives"):
        verify_dataset(str(videos), out, model, 100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "tile"}, "policy='tile': choose one of 'crop', 'squash', 'pad'"),
        ({"every": 0}, "every=0: give at least 1 frame"),
        ({"sample_fps": -1.0}, "sample_fps=-1: give a positive number"),
        ({"stored": "float8"}, "stored='float8': choose one of 'float16', 'float32', 'int8'"),
    ],
)
def test_bad_plans_are_refused(plan, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(plan, **changes)


def test_plans_are_read_back(plan):
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan and plan.difference(plan) is None


def stopped_before_the_parts(videos, out, model, plan, monkeypatch) -> list[Path]:
    """A run that ends when its items are encoded; their files."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("vidtwin.latent_sets.store.Store.write_part", interrupted)
        encode(videos, out, model, plan)
    return sorted((out / "work").glob("*.arrow"))


def interrupted(*arguments):
    raise KeyboardInterrupt


def without_statistics(table):
    facts = json.loads(table.schema.metadata[METADATA])
    del facts["statistics"]
    return table.replace_schema_metadata({METADATA: json.dumps(facts)})


@pytest.mark.parametrize(
    "change",
    [
        without_statistics,
        lambda table: table.replace_schema_metadata({METADATA: "{}"}),
        lambda table: table.replace_schema_metadata({METADATA: "[" * 10_000}),
        lambda table: table.replace_schema_metadata(None),
        lambda table: table.drop(["geometry"]),
        lambda table: table.slice(1),
        lambda table: pyarrow.concat_tables([table, table]),
    ],
)
def test_rows_in_work_that_are_not_what_they_say_are_encoded_again(videos, model, plan, tmp_path, monkeypatch, change):
    encode(videos, tmp_path / "whole", model, plan)
    first, *_ = stopped_before_the_parts(videos, tmp_path / "out", model, plan, monkeypatch)
    with pyarrow.OSFile(str(first)) as file:
        table = change(pyarrow.ipc.open_file(file).read_all())
    with pyarrow.OSFile(str(first), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    assert encode(videos, tmp_path / "out", model, plan).encoded == 1
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


def test_a_lock_that_is_a_link_changes_nothing_elsewhere(videos, model, plan, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other.txt"
    (out / "work").mkdir(parents=True)
    other.write_text("mine")
    (out / "work" / "lock").symlink_to(other)
    (out / "data").mkdir()
    (out / "data" / ".part.partial-1").mkdir()  # what is left of a folder goes, too
    encode(videos, out, model, plan)
    assert other.read_text() == "mine" and not list(out.rglob(".*.partial-*"))
