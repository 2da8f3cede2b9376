import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import SMALL, seeded_model
from vidtwin import VidTwin
from vidtwin.model.checkpoint import SHIPPED, Uninitialized, own_float32, shipped_names, weights_hash


def same(a: VidTwin, b: VidTwin) -> bool:
    return all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


def test_a_folder_round_trip_is_exact_and_in_eval_mode(model, weights):
    loaded = VidTwin.from_pretrained(weights)
    assert same(model, loaded)
    assert loaded.config == model.config
    assert not loaded.training
    assert sorted(path.name for path in weights.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_shipped_weights_load_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "tiny" in shipped_names()
    model = VidTwin.from_pretrained("tiny")
    assert next(model.parameters()).dtype == torch.float32


def test_saving_again_keeps_the_model_card_and_half_precision_is_rounding_only(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path, dtype=torch.float16)
    assert (tmp_path / "README.md").read_text() == "mine"
    loaded = VidTwin.from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().float() if tensor.ndim > 1 else tensor)  # biases are kept


def test_the_hash_tells_weights_apart_and_not_files(model, weights):
    assert weights_hash(VidTwin.from_pretrained(weights)) == weights_hash(model)
    assert weights_hash(seeded_model(seed=1)) != weights_hash(model)


@pytest.mark.parametrize("name", ["nothing-here", "./no/such", "no/such/folder"])
def test_unknown_names_are_answered_with_the_known_ones(name):
    with pytest.raises(FileNotFoundError, match="shipped names: mini"):
        VidTwin.from_pretrained(name)


def test_a_folder_around_weights_is_answered_with_the_weights(weights, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(weights)
    for name, meant in ((tmp_path / "run", tmp_path / "run" / "model"), ("sprites", SHIPPED / "sprites" / "autoencoder")):
        with pytest.raises(FileNotFoundError, match=f"did you mean {meant}\\?"):
            VidTwin.from_pretrained(name)
    with pytest.raises(
        FileNotFoundError, match="weights 'large': a preset, whose weights are not shipped; shipped names: mini, tiny"
    ):
        VidTwin.from_pretrained("large")


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="the hub did not provide it") as caught:
        VidTwin.from_pretrained("nobody/nothing", local_files_only=True)
    assert "\n" not in str(caught.value)


def test_differences_are_listed(model, weights, tmp_path):
    tensors = load_file(weights / "model.safetensors")
    tensors["extra"] = torch.zeros(1)
    tensors.pop("structure_encoder.conv_in.bias")
    tensors["decoder.head.modulation"] = torch.zeros(2, 3)
    (tmp_path / "config.json").write_text((weights / "config.json").read_text())
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="1 unknown: extra; 1 missing: structure_encoder.conv_in.bias; 1 misshaped") as caught:
        VidTwin.from_pretrained(tmp_path)
    assert "decoder.head.modulation (2, 3) instead of (2, 16)" in str(caught.value)


def test_damaged_folders_are_refused(weights, tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json: missing"):
        VidTwin.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json"):
        VidTwin.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SMALL.to_dict() | {"colour": 1}))
    with pytest.raises(ValueError, match="unknown field.*colour"):
        VidTwin.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SMALL.to_dict()))
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        VidTwin.from_pretrained(tmp_path)
    whole = (weights / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut short"):
        VidTwin.from_pretrained(tmp_path)


def test_weights_are_read_from_the_file_and_a_changed_model_does_not_change_it(model, weights, tmp_path):
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    loaded = VidTwin.from_pretrained(tmp_path)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    loaded.save_pretrained(tmp_path)  # over the file that it is read from
    assert same(VidTwin.from_pretrained(tmp_path), loaded) and not same(loaded, model)


def test_loading_makes_no_random_numbers_and_is_quick_to_begin(weights):
    state = torch.get_rng_state()
    with Uninitialized():
        torch.nn.Linear(3, 3)
    assert torch.equal(torch.get_rng_state(), state)
    load = "import sys, vidtwin; vidtwin.VidTwin.from_pretrained(sys.argv[1])"
    code = f"{load}; print({{'torch._dynamo', 'sympy'}} & sys.modules.keys())"  # 3 s of imports
    command = [sys.executable, "-c", code, str(weights)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"


def test_weights_do_not_share_memory():
    one = torch.arange(6.0)
    owned = own_float32({"a": one, "b": one, "c": one[:3], "d": one.view(2, 3).T, "e": one.half()}, "a test")
    assert owned["a"] is one and all(tensor.is_contiguous() and tensor.dtype == torch.float32 for tensor in owned.values())
    assert len({tensor.untyped_storage().data_ptr() for tensor in owned.values()}) == 5
    assert torch.equal(owned["d"], one.view(2, 3).T) and torch.equal(owned["c"], one[:3])


def test_a_config_that_is_a_pipe_is_refused_and_not_waited_for(weights, tmp_path):
    (tmp_path / "model.safetensors").symlink_to(weights / "model.safetensors")
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(OSError, match="is a pipe"):
        VidTwin.from_pretrained(tmp_path)
