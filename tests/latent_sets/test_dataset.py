"""Reading back: in PyTorch, normalised, by rank and worker; and in pandas, DuckDB and datasets."""

import json
import re

import numpy as np
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


def _exact(out, model) -> Latents:
    return latents_in(table_of(out), model.config)
