"""docs/formats.md is enough to read our files: its Python, which knows nothing of ours, reads them as the package does."""

import json
import re
from collections.abc import Iterable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import SMALL, seeded_model
from tests.generation.conftest import small_pipeline
from tests.latents.test_file import header, windows, write
from vidtwin import VidTwin, VidTwinConfig
from vidtwin.evaluation.results import Result
from vidtwin.generation.pipeline import VidTwinPipeline
from vidtwin.inference.encode import encode_video
from vidtwin.latent_sets.plan import Plan
from vidtwin.latent_sets.rows import schema
from vidtwin.latents.file import LatentVideo, LatentWriter, compress, partial_path
from vidtwin.latents.stream import Identity, latent_names
from vidtwin.model.checkpoint import SHIPPED, Uninitialized, weights_hash
from vidtwin.model.config import PRESETS
from vidtwin.training.checkpoints import Checkpoint

DOCS = Path(__file__).parents[1] / "docs"
PAGE, CHECKPOINTS = ((DOCS / name).read_text() for name in ("formats.md", "checkpoints.md"))


@cache
def readers() -> dict[str, Any]:
    """What the page's Python defines."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    imported = re.findall(r"^(?:import|from) (\w+)", "\n".join(blocks), flags=re.MULTILINE)
    assert set(imported) == {"bisect", "hashlib", "itertools", "json", "numpy", "pathlib", "struct", "zlib"}
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "formats.md", "exec"), names)
    return names


def same(found: Any, video: LatentVideo, kind: str = "float32") -> None:
    """What a reader of the page found is what the package reads, in every bit."""
    facts, ticks, cuts, tensors = found
    assert video.header.to_dict().items() <= facts.items()
    assert ticks.dtype == np.int64 and (ticks == video.ticks).all() and list(cuts) == video.cuts
    expected = dict(zip(("structure", "dynamics_x", "dynamics_y"), video.latents.tensors, strict=True))
    if video.logvar is not None:
        expected |= {f"{name}_logvar": tensor for name, tensor in zip(expected, video.logvar.tensors, strict=True)}
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].dtype == np.dtype(kind) and np.array_equal(tensors[name], tensor.numpy()), name
    assert readers()["latent_shapes"](facts) == latent_names(video.header)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_checkpoint_folder(model, tmp_path, dtype):
    model.save_pretrained(tmp_path, dtype=dtype)
    loaded = VidTwin.from_pretrained(tmp_path)
    metadata, tensors = readers()["read_tensors"](tmp_path / "model.safetensors")
    assert metadata == {"format": "pt"} and tensors.keys() == loaded.state_dict().keys()
    for name, tensor in loaded.state_dict().items():
        assert np.array_equal(tensors[name].astype(np.float32), tensor.numpy()), name
    assert readers()["weights_hash"](tmp_path) == weights_hash(loaded)
    assert VidTwinConfig.from_dict(json.loads((tmp_path / "config.json").read_text())) == loaded.config


def test_the_hash_of_an_ablation_and_of_tiny(tmp_path):
    ablated = seeded_model(replace(SMALL, structure_branch="convolution", query_dropout=0.3))
    ablated.save_pretrained(tmp_path)
    assert readers()["weights_hash"](tmp_path) == weights_hash(ablated)
    for name in ("tiny", "mini"):
        assert f"`{readers()['weights_hash'](SHIPPED / name)}`" in CHECKPOINTS


@pytest.mark.parametrize("stored", ["float16", "float32"])
def test_a_finished_latent_file(model, clip, tmp_path, stored):
    video = encode_video(model, clip, tmp_path / "x.vidtwin", overlap=4, logvar=True, stored=stored)
    facts, ticks, cuts, tensors = readers()["read_finished"](video.path)
    same((facts, ticks, cuts, tensors), video, stored)
    assert (facts["source"], len(ticks), len(tensors["structure_logvar"])) == (clip.name, 50, 4)


@pytest.mark.parametrize(("overlap", "logvar"), [(0, True), (5, False)])
def test_a_finished_latent_file_of_tiles(tmp_path, overlap, logvar):
    video = write(tmp_path / "x.vidtwin", header("tile", overlap, logvar), 60, (20, 31))
    same(readers()["read_finished"](video.path), video)


@pytest.mark.parametrize(("policy", "overlap"), [("crop", 0), ("tile", 5)])
def test_a_growing_latent_file(tmp_path, policy, overlap):
    path, head = tmp_path / "x.vidtwin", header(policy, overlap, logvar=policy == "tile")
    with pytest.raises(KeyboardInterrupt):
        with LatentWriter(path, head, job={"stop": None, "batch": 1}) as writer:
            for window in windows(head, 60, cuts=(20, 31)):
                writer.write(window)
                if window.index == 2:
                    raise KeyboardInterrupt
    growing = partial_path(path)
    data = growing.read_bytes()
    for content in (data, data[:-5], data[:-5] + b"other", data + data[-300:]):
        growing.write_bytes(content)
        same(readers()["read_growing"](growing), LatentVideo.load(growing))
    with LatentWriter(path, head, resume=True, job={"stop": None, "batch": 1}, stored="float32") as writer:
        for window in windows(head, 60, cuts=(20, 31), first=writer.count):
            writer.write(window)
        growing_whole = readers()["read_growing"](growing)
    same(growing_whole, LatentVideo.load(path))


@pytest.mark.parametrize(("policy", "overlap", "step"), [("crop", 4, 1.0), ("crop", 0, 30.0), ("tile", 0, 1e-4)])
def test_a_compressed_latent_file(tmp_path, policy, overlap, step):
    """With escapes, differences, and low bits."""
    path, head = tmp_path / "x.vidtwin", header(policy, overlap, logvar=True)
    with LatentWriter(path, head) as writer:
        for window in windows(head, 100, cuts=(20, 31)):
            for tensor in window.latents.tensors:
                tensor[:, 1] = tensor[:, 1].cumsum(1)  # walks along its entries
                tensor[0, 2, 1, 0] = 1e4 if window.index == 1 else tensor[0, 2, 1, 0]
            writer.write(window)
    compress(LatentVideo.load(path), tmp_path / "c.vidtwin", step)
    video = LatentVideo.load(tmp_path / "c.vidtwin")
    assert video.coder is not None and any(channels.differences.any() for channels in video.coder.channels) == (step < 30)
    same(readers()["read_compressed"](video.path), video)


def test_a_generator_folder(tmp_path):
    small_pipeline(previous=True).save_pretrained(tmp_path)
    facts = json.loads((tmp_path / "generator.json").read_text())
    _, tensors = readers()["read_tensors"](tmp_path / "generator.safetensors")
    loaded = VidTwinPipeline.from_pretrained(tmp_path)
    expected = {f"denoiser.{name}": tensor for name, tensor in loaded.denoiser.state_dict().items()}
    for kind, values in (("mean", loaded.normalizer.mean), ("std", loaded.normalizer.std)):
        expected |= {f"{kind}.{name}": v for name, v in zip(("structure", "dynamics_x", "dynamics_y"), values, strict=True)}
    assert tensors.keys() == expected.keys()
    assert all(np.array_equal(tensors[name], tensor.numpy()) for name, tensor in expected.items())
    assert (facts["format"], facts["classes"], facts["fps"]) == (1, list(loaded.classes), loaded.fps)
    assert facts["process"]["method"] == loaded.process.method and facts["denoiser"] == loaded.denoiser.config.to_dict()
    assert readers()["weights_hash"](tmp_path / "autoencoder") == weights_hash(loaded.autoencoder)
    section = PAGE.split("## Generator folder")[1].split("\n## ")[0]
    assert_named(section, [*facts, *facts["process"], *facts["denoiser"]])
    assert_tensors_named(section, (name for name in expected if name.startswith("denoiser.")))


def test_all_keys_and_columns_are_named():
    plan = Plan(SMALL, Identity("small", "0" * 64), stored="int8", logvar=True)
    data = PAGE.split("## Data set of latents")[1].split("\n## ")[0]
    assert_named(data, plan.to_dict())
    assert_named(data, (name for name in schema(plan).names if not name.startswith("dynamics") or "logvar" not in name))
    assert_named(PAGE.split("### The header")[1].split("\n### ")[0], header().to_dict())
    assert_named(PAGE.split("## Run folder")[1].split("\n## ")[0], (field.name for field in fields(Checkpoint)))
    results = PAGE.split("## Results of an evaluation")[1].split("\n## ")[0]
    assert_named(results, (field.name for field in fields(Result)))
    evaluation = json.loads((DOCS.parent / "benchmarks" / "results" / "evaluation-tiny.json").read_text())
    assert_named(results, [*evaluation, *evaluation["protocol"], *evaluation["run"]])


@pytest.mark.parametrize("name", ["released", "tiny"])
def test_the_config_and_its_tensors_are_named(name):
    section = PAGE.split("## Checkpoint folder")[1].split("\n### ")[0]
    assert_named(section, (field.name for field in fields(VidTwinConfig) if not field.name.endswith("_downsamples")))
    assert_tensors_named(section, shapes_of(PRESETS[name]))


def test_the_table_of_presets():
    rows = re.findall(r"^\| `([\w.-]+)` \| ([\d,]+) \| (\d+) \((\S+) %\)", CHECKPOINTS, flags=re.MULTILINE)
    assert {name for name, *_ in rows} == set(PRESETS)
    for name, parameters, values, rate in rows:
        config = PRESETS[name]
        count = sum(int(np.prod(shape)) for shape in shapes_of(config).values())
        assert (parameters, values, rate) == (f"{count:,}", f"{config.latent_values}", f"{100 * config.compression_rate:.4f}")
    for name in ("tiny", "mini"):
        stored = (SHIPPED / name / "model.safetensors").stat().st_size
        assert f"{len(shapes_of(PRESETS[name]))} tensors, float16, {stored:,} bytes" in CHECKPOINTS


def shapes_of(config: VidTwinConfig) -> dict[str, tuple[int, ...]]:
    """Of a model's weights."""
    with torch.device("meta"), Uninitialized():
        return {name: tuple(tensor.shape) for name, tensor in VidTwin(config).state_dict().items()}


def assert_named(section: str, names: Iterable[str]) -> None:
    """Each stands in code style in a section of the page."""
    known = set(re.findall(r"`([^`]+)`", section))
    assert not [name for name in names if name not in known]


def assert_tensors_named(section: str, names: Iterable[str]) -> None:
    """Each fits a pattern in the first column of a table: `{i}` is a number, `{a,b}` one of these, `.b` goes after `x.a`."""
    patterns = []
    for line in re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE):
        first, *others = re.findall(r"`([^`]+)`", line)
        for text in (first, *(first.rpartition(".")[0] + other if other.startswith(".") else other for other in others)):
            text = re.escape(text).replace(r"\{i\}", r"\d+")
            patterns.append(re.sub(r"\\\{(.*?)\\\}", lambda match: f"(?:{match[1].replace(',', '|')})", text))
    known = re.compile(f"(?:{'|'.join(patterns)})(?:\\.weight|\\.bias)?")
    assert not [name for name in names if not known.fullmatch(name)]
