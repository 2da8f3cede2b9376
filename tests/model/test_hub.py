"""Weights of the hub, from a server on this machine that speaks its protocol."""

import json

import pytest
import torch

from tests.conftest import SMALL, seeded_model
from tests.generation.conftest import small_pipeline
from tests.model.hub_server import serving
from tests.tools.golden import CONFIGS
from vidtwin import VidTwin, VidTwinPipeline, export_released
from vidtwin.cli import main
from vidtwin.model.checkpoint import weights_hash
from vidtwin.model.hub import PUBLISHED, PUBLISHED_FILE
from vidtwin.model.loading import load_weights
from vidtwin.training.initialize import trained_weights

TINY = CONFIGS["tiny"]
FILE = PUBLISHED_FILE.removeprefix(f"{PUBLISHED}/")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server, and a cache that is empty."""
    with serving(tmp_path / "hub") as server:
        template = "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in (
            ("ENDPOINT", server.address),
            ("HUGGINGFACE_CO_URL_TEMPLATE", server.address + template),
            ("HF_HUB_CACHE", str(tmp_path / "cache")),
            ("HF_HUB_DISABLE_XET", True),
        ):
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.chdir(tmp_path)
        yield server


@pytest.fixture
def published(hub) -> VidTwin:
    """Weights of small size in Microsoft's layout, where Microsoft's are."""
    model = seeded_model(TINY)
    path = hub.folder(PUBLISHED) / FILE
    path.parent.mkdir()
    export_released(model, path)
    return model


def same(a: VidTwin, b: VidTwin) -> bool:
    return weights_hash(a) == weights_hash(b)


@pytest.mark.parametrize("name", [PUBLISHED, "released", PUBLISHED_FILE])
def test_microsofts_checkpoint_is_a_line_away_and_downloaded_once(hub, published, name, capsys):
    model = VidTwin.from_pretrained(name, config=TINY)
    assert same(model, published) and not model.training
    said = capsys.readouterr().err
    assert said.startswith(f"downloading {PUBLISHED}: {FILE} (") and "MB), kept in" in said
    assert same(load_weights(name, TINY), published)
    assert hub.downloads() == [FILE] and capsys.readouterr().err == ""


def test_a_cached_file_loads_where_there_is_no_network(hub, published, monkeypatch, capsys):
    VidTwin.from_pretrained("released", config=TINY)
    hub.got.clear()
    assert same(VidTwin.from_pretrained("released", config=TINY, local_files_only=True), published)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert same(VidTwin.from_pretrained("released", config=TINY), published)
    assert hub.got == []
    with pytest.raises(FileNotFoundError, match="cannot be reached, and its cache does not hold it"):
        VidTwin.from_pretrained("owner/other")


def test_a_folder_of_ours_is_read_of_any_revision_and_subfolder(hub):
    first, second, inner = (seeded_model(seed=seed) for seed in range(3))
    first.save_pretrained(hub.folder("me/mine"))
    second.save_pretrained(hub.folder("me/mine", "v2"))
    inner.save_pretrained(hub.folder("me/mine") / "a" / "vae")
    assert same(VidTwin.from_pretrained("me/mine"), first)
    assert same(VidTwin.from_pretrained("me/mine", revision="v2"), second)
    assert same(VidTwin.from_pretrained("me/mine", subfolder="a/vae"), inner)
    assert same(VidTwin.from_pretrained("me/mine", local_files_only=True), first)
    assert same(VidTwin.from_pretrained("me/mine", subfolder="a/vae", local_files_only=True), inner)
    assert "README.md" not in hub.downloads()  # nothing that is not used
    second.save_pretrained(hub.folder("me/mine"))  # a new commit
    assert same(VidTwin.from_pretrained("me/mine"), second)
    with pytest.raises(FileNotFoundError, match="has no revision 'v3'; give a branch, tag or commit"):
        VidTwin.from_pretrained("me/mine", revision="v3")


def test_a_file_in_microsofts_layout_is_found_alone_and_chosen_among_several(hub):
    one, two = seeded_model(TINY), seeded_model(TINY, seed=1)
    export_released(one, hub.folder("me/ckpt") / "a[1].ckpt")
    assert same(VidTwin.from_pretrained("me/ckpt", config=TINY), one)
    export_released(two, hub.folder("me/ckpt") / "b.safetensors")
    with pytest.raises(FileNotFoundError, match=r"it has a\[1\].ckpt, b.safetensors; choose one of these by 'owner/name/FILE'"):
        VidTwin.from_pretrained("me/ckpt", config=TINY)
    assert same(VidTwin.from_pretrained("me/ckpt/b.safetensors", config=TINY), two)
    assert same(trained_weights("me/ckpt/a[1].ckpt", TINY), one)
    with pytest.raises(FileNotFoundError, match=r"c.ckpt: not in it; it has a\[1\].ckpt, b.safetensors"):
        VidTwin.from_pretrained("me/ckpt/c.ckpt", config=TINY)


def test_a_broken_download_leaves_nothing_behind(hub, published, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)  # between its attempts
    hub.cut = 1000
    with pytest.raises(FileNotFoundError, match="the hub did not provide it") as caught:
        VidTwin.from_pretrained("released", config=TINY)
    assert "\n" not in str(caught.value)
    hub.cut = None
    assert same(VidTwin.from_pretrained("released", config=TINY), published)


def test_what_is_not_there_or_closed_is_said_in_a_line(hub, published):
    with pytest.raises(FileNotFoundError, match="weights 'no/thing': .* there is no such repository, or it is private"):
        VidTwin.from_pretrained("no/thing")
    hub.gated.add(PUBLISHED)
    with pytest.raises(FileNotFoundError, match=f"it is gated; accept its terms at {hub.address}/{PUBLISHED}, then run"):
        VidTwin.from_pretrained(PUBLISHED, config=TINY)
    assert same(VidTwin.from_pretrained(PUBLISHED, config=TINY, token="hf_x"), published)
    (hub.folder("me/empty") / "notes.txt").write_text("nothing")
    with pytest.raises(FileNotFoundError, match=r"it holds no config.json and model.safetensors; it has no weights"):
        VidTwin.from_pretrained("me/empty")


def test_names_of_files_on_this_machine_do_not_go_to_the_hub(hub, tmp_path):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    for name in ("runs/a/typo.ckpt", "typo.ckpt", "a/typo.ckpt", "./a/b", "a/b/c", "../a.safetensors"):
        with pytest.raises(FileNotFoundError, match="no such file; give a .ckpt|no such file or folder; shipped names"):
            VidTwin.from_pretrained(name)
    seeded_model().save_pretrained("released")  # a folder of this name is not Microsoft's
    assert VidTwin.from_pretrained("released").config == SMALL
    with pytest.raises(ValueError, match="revision='v2': 'released' is not on the hub"):
        VidTwin.from_pretrained("released", revision="v2")
    assert hub.got == []


def test_a_model_is_placed_and_cast_as_asked(weights):
    for options in ({"dtype": torch.bfloat16}, {"torch_dtype": torch.bfloat16}, {"dtype": "bfloat16", "device": "cpu"}):
        assert VidTwin.from_pretrained(weights, **options).dtype == torch.bfloat16
    assert VidTwin.from_pretrained(weights, device="meta").device.type == "meta"
    for options, message in (
        ({"dtype": "int8"}, "dtype='int8': give torch.float32"),
        ({"torch_dtype": "auto"}, "torch_dtype='auto': give torch.float32"),
        ({"dtype": torch.float16, "torch_dtype": torch.float32}, "are two names of the same; give one"),
        ({"device": "abacus"}, "device='abacus': unknown"),
    ):
        with pytest.raises(ValueError, match=message):
            VidTwin.from_pretrained(weights, **options)
    with pytest.raises(TypeError, match="unknown option colour: .* subfolder, revision, token"):
        VidTwin.from_pretrained(weights, colour="red")


def test_what_is_pushed_comes_back_with_a_card_of_what_is_known(hub, model):
    address = model.push_to_hub("me/pushed", figures={"PSNR": "24.55 dB"}, token="hf_x", commit_message="first")
    assert address.startswith(f"{hub.address}/me/pushed/commit/")
    assert same(VidTwin.from_pretrained("me/pushed"), model) and hub.messages == ["first"]
    card = (hub.folder("me/pushed") / "README.md").read_text()
    for text in (
        'from_pretrained("me/pushed")',
        "16 frames of 32x32",
        f"{model.config.compression_rate:.4%}",
        "| PSNR | 24.55 dB |",
    ):
        assert text in card
    (hub.folder("me/pushed") / "README.md").write_text("mine")
    model.push_to_hub("me/pushed", token="hf_x")
    with pytest.raises(ValueError, match="me/pushed has a README.md, which is kept"):
        model.push_to_hub("me/pushed", token="hf_x", figures={"PSNR": "1 dB"})
    assert (hub.folder("me/pushed") / "README.md").read_text() == "mine"


def test_a_generator_is_pushed_and_found_by_its_id(hub):
    pipeline = small_pipeline()
    pipeline.push_to_hub("me/generator", token="hf_x")
    again = VidTwinPipeline.from_pretrained("me/generator", torch_dtype=torch.float32, device="cpu")
    draw = [p("cat", num_inference_steps=1, generator=torch.Generator().manual_seed(0)).videos for p in (pipeline, again)]
    assert torch.equal(*draw)
    card = (hub.folder("me/generator") / "README.md").read_text()
    assert 'VidTwinPipeline.from_pretrained("me/generator")' in card and "cat, dog" in card
    with pytest.raises(FileNotFoundError, match="generator 'no/thing': .* there is no such repository"):
        VidTwinPipeline.from_pretrained("no/thing")
    with pytest.raises(TypeError, match="unknown option colour"):
        VidTwinPipeline.from_pretrained("me/generator", colour="red")


def test_commands_take_names_of_the_hub(hub, published, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict()))
    assert main(["info", "released"]) == 0
    shown = capsys.readouterr()
    assert "layout        released (Microsoft)" in shown.out and f"downloading {PUBLISHED}: {FILE}" in shown.err
    assert main(["convert", PUBLISHED, "-o", "out", "--config", "config.json"]) == 0
    assert same(VidTwin.from_pretrained("out"), published) and hub.downloads() == [FILE]
    assert main(["info", "nobody/a.mp4"]) == 1  # what is no weights is not looked up
    assert "no such file or folder" in capsys.readouterr().err
