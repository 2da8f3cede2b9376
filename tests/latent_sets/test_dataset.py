"""Reading back: in PyTorch, normalised, by rank and worker; and in pandas, DuckDB and datasets."""

import json
import os
import pickle
import re
import shutil

import numpy as np
import pyarrow.parquet
import pytest
import torch
from torch.utils.data import DataLoader

from tests.latent_sets.conftest import bytes_of, encode, table_of
from vidtwin import Latents
from vidtwin.cli.inspection import describe
from vidtwin.latent_sets import dataset as reading
from vidtwin.latent_sets.dataset import IterableLatents, LatentDataset
from vidtwin.latent_sets.rows import latents_in
from vidtwin.model.latents import NormalizedLatents


@pytest.fixture
def out(videos, model, plan, tmp_path, monkeypatch):
    monkeypatch.setattr("vidtwin.latent_sets.store.GROUP_ROWS", 2)
    monkeypatch.setattr("vidtwin.latent_sets.job.PART_BYTES", 8000)
    encode(videos, tmp_path / "out", model, plan, label=True)
    return tmp_path / "out"


def test_rows_are_normalised_and_back(out, model):
    rows = LatentDataset(out, columns=["video", "frame_index", "label"])
    stored = latents_in(table_of(out), model.config)
    assert len(rows) == len(stored)
    batch = next(iter(DataLoader(rows, batch_size=len(rows))))
    latents = rows.latents_of(batch)
    assert isinstance(latents, NormalizedLatents) and latents.structure.dtype == torch.float32
    for tensor in latents.tensors:
        flat = tensor.transpose(0, 1).flatten(1)
        torch.testing.assert_close(flat.mean(1), torch.zeros(len(flat)), atol=1e-4, rtol=0)
        torch.testing.assert_close(flat.std(1, correction=0), torch.ones(len(flat)), atol=1e-3, rtol=0)
    back = rows.normalizer.denormalize(latents)
    for a, b in zip(back.tensors, stored.tensors, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert [row["video"].partition("/")[0] for row in rows] == batch["label"]
    assert rows[-1]["video"] == rows[len(rows) - 1]["video"]
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_what_is_normalised_does_not_decode(out, model):
    rows = LatentDataset(out)
    latents = rows.latents_of(next(iter(DataLoader(rows, batch_size=2))))
    with pytest.raises(TypeError, match=r"normalised latents do not decode; undo it first: dataset.normalizer.denormalize"):
        model.decode(latents)
    decoded = model.decode(rows.normalizer.denormalize(latents))
    plain = LatentDataset(out, normalize=False)
    exact = plain.latents_of(next(iter(DataLoader(plain, batch_size=2))))
    assert isinstance(exact, Latents)
    torch.testing.assert_close(decoded, model.decode(exact), atol=1e-4, rtol=1e-4)
    with pytest.raises(TypeError, match="Latents are not normalised"):
        rows.normalizer.denormalize(exact)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 2), (3, 0)])
def test_each_row_comes_once(out, shuffle, world, workers):
    rows = LatentDataset(out, columns=["video", "frame_index"])
    expected = [(row["video"], row["frame_index"]) for row in rows]

    def epoch(number: int) -> list[tuple[str, int]]:
        found = []
        for rank in range(world):
            stream = IterableLatents(rows, shuffle, seed=3, rank=rank, world=world)
            stream.set_epoch(number)
            for batch in DataLoader(stream, batch_size=3, num_workers=workers):
                found += zip(batch["video"], batch["frame_index"].tolist(), strict=True)
        return found

    first = epoch(0)
    assert sorted(first) == sorted(expected) and first == epoch(0)
    if shuffle:
        assert first != expected and epoch(1) != first
    elif world == 1:
        assert first == expected
    with pytest.raises(ValueError, match="rank 2 of 2"):
        IterableLatents(rows, rank=2, world=2)


@pytest.mark.parametrize("shuffle", [False, True])
def test_processes_get_rows_alike_however_few_row_groups_there_are(out, shuffle):
    rows = LatentDataset(out)
    for world in (2, 3, len(rows)):
        shares = [sum(1 for _ in IterableLatents(rows, shuffle, rank=rank, world=world)) for rank in range(world)]
        assert sum(shares) == len(rows) and max(shares) - min(shares) <= 1
    with pytest.raises(ValueError, match=f"world={len(rows) + 1}: {out} has {len(rows)} rows, too few for each process to get one"):
        IterableLatents(rows, world=len(rows) + 1)


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_workers_of_every_start_method_read(out, start):
    rows = LatentDataset(out, columns=["video"])
    expected = [row["video"] for row in rows]
    for data in (rows, IterableLatents(rows)):
        loader = DataLoader(data, batch_size=4, num_workers=1, multiprocessing_context=start)
        assert [video for batch in loader for video in batch["video"]] == expected


def test_a_data_set_that_was_updated_while_it_is_open_says_so(out, videos, model, plan):
    rows = LatentDataset(out)
    shutil.copy(videos / "r" / "rot90.mp4", videos / "z.mp4")
    encode(videos, out, model, plan, label=True)
    with pytest.warns(UserWarning, match="out: was updated since it was opened; open it again for its new rows"):
        before = [row["structure"] for row in rows]
    assert len(before) == len(rows) < len(LatentDataset(out))
    shutil.copy(videos / "v" / "vfr_jitter.mp4", videos / "h" / "h264_aac.mp4")  # the first part is written again
    encode(videos, out, model, plan, label=True)
    for stale in (rows, pickle.loads(pickle.dumps(rows))):
        with pytest.raises(ValueError, match="out: was updated since it was opened .part-00000.parquet is another file or gone"):
            list(IterableLatents(stale))
        with pytest.raises(ValueError, match="open it again"):
            stale.column("video")


def _change(values, path, value):
    """Plain values with another value at a path of keys; without the last key if that is ..."""
    *above, last = path
    inner = values
    for key in above:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return values


HUGE = 10**40
WRONG = [
    (("format",), "1"), (("rows",), 1), (("rows",), HUGE), (("items",), -1), (("failures",), True), (("columns",), [1]),
    (("files",), {}), (("files", 0, "file"), 3), (("files", 0, "file"), "/etc/passwd"), (("files", 0, "rows"), 1.5),
    (("files", 0, "sha256"), ...), (("plan",), []), (("plan", "logvar"), "no"), (("plan", "every"), 2.5), (("plan", "batch"), HUGE),
    (("plan", "dtype"), "float8"), (("plan", "device"), ["cpu"]), (("plan", "sample_fps"), "5"), (("plan", "model"), 5),
    (("plan", "sample_fps"), float("nan")), (("plan", "model", "hidden"), "x"), (("plan", "model", "unknown"), 1),
    (("plan", "weights_hash"), None), (("plan", "policy"), ...), (("statistics",), ...),
    (("statistics", "structure", "mean"), [0.0]),
    (("statistics", "structure", "mean", 0), float("inf")), (("statistics", "dynamics_x", "count"), HUGE),
    (("statistics", "dynamics_y", "m2", 0), -1.0), (("statistics", "structure", "m2", 0), "1"),
]  # fmt: skip


def test_a_manifest_that_is_well_formed_and_wrong_is_refused(out):
    path = out / "manifest.json"
    text = path.read_text()
    values = [json.dumps(_change(json.loads(text), place, value)) for place, value in WRONG if place != ("format",)]
    for damaged in (*values, "[" * 100_000, "3", "null", text.replace('"rows": ', '"rows": 1e999, "x": ', 1), text[:-20]):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=r"manifest.json: (not the manifest of a data set of latents|damaged) \(") as caught:
            LatentDataset(out)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_a_plan_that_is_well_formed_and_wrong_is_refused(out, videos, model, plan):
    path = out / "plan.json"
    text = path.read_text()
    places = [(place[1:], value) for place, value in WRONG if place[0] == "plan" and len(place) > 1]
    for place, value in (*places, (("columns",), [["label"]]), (("columns",), "label"), (("format",), 1.5)):
        path.write_text(json.dumps(_change(json.loads(text), place, value)))
        with pytest.raises(ValueError, match=r"plan.json: not the plan of a data set of latents \(") as caught:
            encode(videos, out, model, plan, label=True)
        assert "\n" not in str(caught.value)


def test_parts_that_are_not_of_the_manifest_are_refused(out):
    part = out / "data" / "part-00000.parquet"
    table = pyarrow.parquet.read_table(part)
    for other, message in (
        (table.slice(1), "the manifest says"),
        (table.drop_columns(["structure"]), "column structure is not that of its plan"),
        (table.set_column(0, "video", pyarrow.array(range(len(table)))), "column video is not that of its plan"),
    ):
        pyarrow.parquet.write_table(other, part)
        with pytest.raises(ValueError, match=f"part-00000.parquet: .*{message}.*; run vidtwin encode-dataset again"):
            LatentDataset(out)
    part.unlink()
    with pytest.raises(FileNotFoundError, match=r"part-00000.parquet: no such file"):
        LatentDataset(out)
    os.mkfifo(part)
    with pytest.raises(OSError, match=r"part-00000.parquet: is a pipe"):
        LatentDataset(out)


def test_little_is_kept_in_memory(out, monkeypatch):
    monkeypatch.setattr(reading, "GROUPS_KEPT", 2)
    rows = LatentDataset(out)
    for index in np.random.default_rng(0).permutation(len(rows)):
        rows[int(index)]
    assert len(rows._kept) <= 2 and len(rows.groups) > 2


def test_info_says_what_it_is(out, model):
    facts = describe(out)
    assert facts["latent values"] == str(model.config.latent_values)
    assert facts["rows"].startswith(f"{len(LatentDataset(out))} of ")
    text = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(re.sub(r'"rows": \d+,\n  "items"', '"rows": "many",\n  "items"', text))
    with pytest.raises(ValueError, match="manifest.json: damaged .*; run vidtwin encode-dataset again"):
        describe(out)


def test_a_data_set_with_the_former_key_of_the_hash_is_read_and_brought_up_to_date(out, videos, model, plan):
    assert json.loads((out / "manifest.json").read_text())["plan"]["weights_hash"] == plan.weights.hash
    for path in (out / "manifest.json", out / "plan.json"):
        path.write_text(path.read_text().replace('"weights_hash"', '"weights_sha256"'))
    assert LatentDataset(out).plan == plan
    before = bytes_of(out)
    assert encode(videos, out, model, plan, label=True).encoded == 0 and bytes_of(out) == before
    assert json.loads((out / "manifest.json").read_text())["plan"] == plan.to_dict()


def test_refusals(out, tmp_path):
    with pytest.raises(ValueError, match="no column 'class' beside the latents; there are video, size"):
        LatentDataset(out, columns=["class"])
    with pytest.raises(FileNotFoundError, match="is no data set of latents; make one with vidtwin encode-dataset"):
        LatentDataset(tmp_path)
    (out / "manifest.json").rename(out / "m.json")
    with pytest.raises(FileNotFoundError, match="is not finished; run the same vidtwin encode-dataset again"):
        LatentDataset(out)
    (out / "manifest.json").write_text((out / "m.json").read_text().replace('"data/part', '"../part'))
    with pytest.raises(ValueError, match="not the manifest of a data set of latents"):
        LatentDataset(out)


def test_pandas(out, model):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(out / "data")
    assert (np.stack(frame.structure).reshape(-1, *model.config.structure_shape) == _exact(out, model).structure.numpy()).all()
    assert set(frame.label) == {"h", "r", "t", "v"}


def test_duckdb(out, model):
    duckdb = pytest.importorskip("duckdb")
    query = f"select video, frame_index, structure from '{out}/data/*.parquet' order by video, frame_index"
    found = duckdb.sql(query).fetchall()
    table = table_of(out).to_pylist()
    assert len(found) == len(table)
    by_key = {(row["video"], row["frame_index"]): row["structure"] for row in table}
    for video, frame, values in found:
        np.testing.assert_array_equal(np.array(values, np.float32), np.array(by_key[video, frame], np.float32))


def test_polars(out, model):
    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(f"{out}/data/*.parquet")
    values = np.stack([np.asarray(row, np.float32) for row in frame["dynamics_x"].to_list()])
    assert (values.reshape(-1, *model.config.dynamics_x_shape) == _exact(out, model).dynamics_x.numpy()).all()


def test_hugging_face_datasets(out, model, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = sorted(str(path) for path in (out / "data").glob("*.parquet"))
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "hf")).with_format("torch")
    found = torch.stack([row["structure"].float() for row in rows]).reshape(-1, *model.config.structure_shape)
    assert torch.equal(found, _exact(out, model).structure)


def test_a_column_that_changes_its_kind_is_named(videos, model, plan, tmp_path):
    path = videos / "list.csv"
    path.write_text("videos,score\nh/h264_aac.mp4,1\n")
    encode(path, tmp_path / "scores", model, plan)
    path.write_text("videos,score\nh/h264_aac.mp4,0.5\n")
    with pytest.raises(
        ValueError, match="made with whole numbers in column 'score' of the source, which holds numbers now; use the"
    ):
        encode(path, tmp_path / "scores", model, plan)
    path.write_text("videos,other\nh/h264_aac.mp4,1\n")
    with pytest.raises(ValueError, match="was made with score of the source, now other; use the same options, or another folder"):
        encode(path, tmp_path / "scores", model, plan)


@pytest.mark.parametrize("streaming", [False, True])
def test_the_folder_itself_loads_in_hugging_face_datasets(out, tmp_path, streaming):
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_dataset(str(out), split="train", streaming=streaming, cache_dir=str(tmp_path / "hf"))
    assert [row["video"] for row in rows] == table_of(out).column("video").to_pylist()


def test_a_card_that_is_there_is_kept_and_failures_of_former_versions_are_read(out, videos, model, plan):
    (out / "README.md").write_text("mine")
    rows = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert {row["video"] for row in rows} == {"broken.mp4", "cut.mp4"}
    (out / "failures.jsonl").unlink()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out / "failures.parquet")
    summary = encode(videos, out, model, plan, label=True)  # without a process, as nothing is tried again
    assert (summary.encoded, summary.kept, len(summary.failures)) == (0, 5, 2)
    assert (out / "README.md").read_text() == "mine" and not (out / "failures.parquet").exists()
    for line in ('{"key": 3}', "[]", '{"key": "a", "sha256": "x", "size": NaN, "modified": 1, "reason": ""}', "[" * 100_000):
        (out / "failures.jsonl").write_text(line + "\n")
        with pytest.raises(ValueError, match="failures.jsonl: cannot be read .*; delete it and run again"):
            encode(videos, out, model, plan, label=True)


def _exact(out, model) -> Latents:
    return latents_in(table_of(out), model.config)


def rewritten(out, change) -> str:
    """The first part with other rows, and a manifest that agrees; its name."""
    manifest = json.loads((out / "manifest.json").read_text())
    facts = manifest["files"][0]
    path = out / facts["file"]
    table = change(pyarrow.parquet.read_table(path))
    pyarrow.parquet.write_table(table, path, compression="zstd")
    manifest["rows"] += len(table) - facts["rows"]
    facts["rows"] = len(table)
    (out / "manifest.json").write_text(json.dumps(manifest))
    return path.name


def test_a_row_group_that_takes_gigabytes_is_refused(out, monkeypatch):
    name = rewritten(out, lambda table: table.take([0] * 1000))
    monkeypatch.setattr(reading, "GROUP_BYTES", 2**20)
    with pytest.raises(ValueError, match=f"{name}: has a row group of 1,000 rows, more than 819; run vidtwin encode-dataset again"):
        LatentDataset(out)


def test_text_that_rows_share_is_in_memory_once(out):
    def long(table):
        place = table.schema.get_field_index("label")
        return table.set_column(place, table.schema.field("label"), pyarrow.array(["x" * 2**20] * len(table)))

    rewritten(out, lambda table: long(table.take([0] * 100)))
    rows = LatentDataset(out, columns=["label"])
    assert len({id(label) for label in rows.column("label")[:100]}) == 1
    assert rows[0]["label"] is rows[99]["label"] and rows[99]["label"] == "x" * 2**20


def test_parts_without_what_the_manifest_says_are_refused(out):
    name = rewritten(out, lambda table: table.drop(["label"]))
    with pytest.raises(ValueError, match=f"{name}: column label is not that of its plan; run vidtwin encode-dataset again"):
        LatentDataset(out, columns=["label"])


def test_rows_with_gaps_are_refused_when_they_are_read(out):
    def gap(table):
        place, field = table.schema.get_field_index("structure"), table.schema.field("structure")
        values = table.column("structure").to_pylist()
        return table.set_column(place, field, pyarrow.array([None, *values[1:]], field.type))

    name = rewritten(out, gap)
    with pytest.raises(ValueError, match=f"{name}: column structure has gaps; run vidtwin encode-dataset again"):
        LatentDataset(out)[0]
