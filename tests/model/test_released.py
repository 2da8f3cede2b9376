import io
import json
import os
import struct
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tools.golden import CONFIGS, recipe_weight
from vidtwin import VidTwin, VidTwinConfig, export_released, load_released
from vidtwin.model.released import position_tables, read_released, released_shapes

TINY = CONFIGS["tiny"]


@pytest.fixture(scope="module")
def released_tensors() -> dict[str, torch.Tensor]:
    """A state_dict in Microsoft's layout, with two of the loss.* tensors that come with it."""
    tensors = {name: recipe_weight("public", name, shape) for name, shape in released_shapes(TINY).items()}
    extra = {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.ones(4)}
    tables = position_tables(TINY)
    tables["encoder.pos_embed"] += 1e-12  # another library's sines
    return tensors | tables | extra


@pytest.fixture
def lightning_file(released_tensors, tmp_path) -> Path:
    """A checkpoint as Lightning writes it: optimizer and scheduler states with numpy scalars beside the state_dict."""
    content = {
        "epoch": 3,
        "global_step": 40_000,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": OrderedDict(released_tensors),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2), "step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4}]}],
        "lr_schedulers": [{"base_lrs": [np.float64(3e-5)], "last_epoch": np.int64(7), "_last_lr": [np.float32(1e-5)]}],
    }
    path = tmp_path / "model.ckpt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("case", ["tiny", "tiny_q4", "tiny_crop", "released"])
def test_the_layout_is_microsofts(case):
    layout = json.loads((Path(__file__).parents[1] / "golden" / "released_layout.json").read_text())[case]
    assert released_shapes(CONFIGS[case]) == {name: tuple(shape) for name, (shape, _) in layout.items()}
    if case == "released":
        assert len(layout) == 587


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_round_trip_is_bit_identical(lightning_file, released_tensors, tmp_path, suffix):
    model = load_released(lightning_file, TINY)
    assert not model.training
    path = tmp_path / f"again{suffix}"
    export_released(model, path)
    again = read_released(path)
    assert again.keys() == released_tensors.keys()
    for name, tensor in released_tensors.items():
        assert again[name].dtype == tensor.dtype, name
        assert torch.equal(again[name], tensor), name
    twice = load_released(path, TINY)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twice.state_dict().values(), strict=True))


def test_a_model_of_ours_exports_with_zeros_for_what_is_never_used(tmp_path):
    model = VidTwin(TINY)
    export_released(model, tmp_path / "x.safetensors")
    tensors = load_file(tmp_path / "x.safetensors")
    assert {name: tuple(t.shape) for name, t in tensors.items()} == released_shapes(TINY)
    assert tensors["encoder.final_layer.linear.weight"].abs().sum() == 0
    assert tensors["encoder.pos_embed"].dtype == torch.float64


def test_bare_and_safetensors_files_load_and_missing_tables_follow_from_the_config(released_tensors, tmp_path):
    torch.save(released_tensors, tmp_path / "bare.pt")
    load_released(tmp_path / "bare.pt", TINY)
    save_file({k: v for k, v in released_tensors.items() if "pos_embed" not in k}, tmp_path / "stripped.safetensors")
    load_released(tmp_path / "stripped.safetensors", TINY)


class RunsCode:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["state_dict", "hyper_parameters"])
def test_a_pickle_that_would_run_code_is_refused_and_has_not_run(released_tensors, tmp_path, place):
    content = {"state_dict": dict(released_tensors)}
    content[place] = RunsCode(tmp_path / "ran") if place != "state_dict" else content[place] | {"x": RunsCode(tmp_path / "ran")}
    torch.save(content, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=r"refused.*mkdir.*nothing was run"):
        load_released(tmp_path / "evil.ckpt", TINY)
    assert not (tmp_path / "ran").exists()


def pickled(*operations: bytes) -> bytes:
    return b"\x80\x02" + b"".join(operations) + b"."


def text(word: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word


MADE = b"cbuiltins\nbytearray\n" + b"\x8a\x08" + struct.pack("<q", 1 << 34) + b"\x85R"
DOUBLED = b"c_codecs\nencode\n" * 35 + text(b"a") + (text(b"hex") + b"\x86R") * 35


@pytest.mark.parametrize(
    ("content", "compression", "why"),
    [
        (pickled(MADE), zipfile.ZIP_STORED, "bytearray"),
        (pickled(DOUBLED), zipfile.ZIP_STORED, "hex"),
        (pickled(text(bytes(10**7))), zipfile.ZIP_DEFLATED, "compressed"),
    ],
    ids=["a length", "a codec", "a compressed record"],
)
def test_a_file_that_would_grow_in_memory_is_refused_before_it_does(tmp_path, content, compression, why):
    path = tmp_path / "small.ckpt"
    torch.save({"state_dict": {}}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, content if name.endswith("data.pkl") else data)
    with pytest.raises(ValueError, match=why):
        read_released(path)


@pytest.mark.parametrize(
    "change", [lambda t: t.to("meta"), lambda t: t.long(), lambda t: t.to(torch.complex64), lambda t: t.to_sparse()]
)
def test_tensors_that_are_no_weights_are_refused(released_tensors, tmp_path, change):
    name = next(name for name in released_shapes(TINY) if name.endswith("weight"))
    torch.save({"state_dict": released_tensors | {name: change(released_tensors[name].float())}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt: .* not of weights"):
        load_released(tmp_path / "a.ckpt", TINY)


def test_differences_are_listed_and_counted(released_tensors, tmp_path):
    tensors = dict(released_tensors) | {"novel.weight": torch.zeros(1), "conv_in.bias": torch.zeros(3)}
    del tensors["motion_head.bias"], tensors["encoder.final_layer.linear.bias"]
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="1 unknown: novel.weight; 2 missing: .*; 1 misshaped: conv_in.bias") as caught:
        load_released(tmp_path / "x.safetensors", TINY)
    assert "motion_head.bias" in str(caught.value)
    assert "encoder.final_layer.linear.bias" in str(caught.value)


def test_another_config_is_refused_with_the_one_that_fits(tmp_path):
    with torch.device("meta"):
        shapes = released_shapes(VidTwinConfig(structure_channels=4))
    assert shapes != released_shapes(VidTwinConfig())
    export_released(VidTwin(TINY), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="`vidtwin info` prints"):
        load_released(tmp_path / "x.safetensors")


def test_another_position_table_is_refused(released_tensors, tmp_path):
    tensors = released_tensors | {"encoder.pos_embed": released_tensors["encoder.pos_embed"].flip(1)}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="encoder.pos_embed is not the position table"):
        load_released(tmp_path / "x.safetensors", TINY)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 not a zip either", bytes(range(256)) * 40])
def test_files_that_are_no_checkpoints_are_refused(tmp_path, content):
    for name in ("x.ckpt", "x.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load_released(tmp_path / name)


def test_a_truncated_checkpoint_and_one_without_tensors_are_refused(lightning_file, tmp_path):
    data = lightning_file.read_bytes()
    (tmp_path / "half.ckpt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cut short"):
        load_released(tmp_path / "half.ckpt", TINY)
    buffer = io.BytesIO()
    torch.save({"state_dict": {"a": 1}}, buffer)
    (tmp_path / "empty.ckpt").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="no state_dict of tensors"):
        load_released(tmp_path / "empty.ckpt", TINY)
    for content in ({"state_dict": [1]}, {1: torch.ones(1)}, [torch.ones(1)]):
        torch.save(content, tmp_path / "empty.ckpt")
        with pytest.raises(ValueError, match="no state_dict of tensors"):
            load_released(tmp_path / "empty.ckpt", TINY)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_released(tmp_path / "missing.ckpt")


def test_what_the_released_code_cannot_hold_is_not_exported(tmp_path):
    with pytest.raises(ValueError, match="does not exist in the released layout; use 'causal'"):
        export_released(VidTwin(replace(TINY, temporal_attention="full")), tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="square size"):
        export_released(VidTwin(replace(TINY, width=128)), tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"\.ckpt or \.safetensors"):
        export_released(VidTwin(TINY), tmp_path / "x.bin")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="square size"):
        released_shapes(replace(TINY, width=128))


def test_the_same_model_gives_the_same_bytes_under_any_name(tmp_path):
    model = VidTwin(TINY)
    for name in ("a.ckpt", "another.ckpt"):
        export_released(model, tmp_path / name)
    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "another.ckpt").read_bytes()
