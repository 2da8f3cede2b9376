"""ONNX: what is written is the model, of any batch; what is read back goes through the engine as the model does."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import SMALL, made_once, seeded_model
from vidtwin import VidTwin
from vidtwin.cli import main
from vidtwin.inference.engine import Engine
from vidtwin.inference.reconstruct import reconstruct
from vidtwin.latents.file import LatentVideo
from vidtwin.latents.stream import Identity
from vidtwin.metrics import clip_psnr
from vidtwin.model.latents import Latents
from vidtwin.onnx.model import OUTPUTS, OnnxModel, is_exported
from vidtwin.video.read.reader import read_video

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from vidtwin.onnx.export import MOST_DIFFERENCE, _differences, export_onnx  # noqa: E402

# Not square and causal; square, full, and without downsampling.
CONFIGS = {
    "causal": replace(SMALL, query_layers=1, width=48),
    "full": replace(SMALL, query_layers=1, temporal_attention="full", dynamics_downsamples=0),
}


@pytest.fixture(scope="session", params=CONFIGS)
def exported(request, tmp_path_factory):
    """(model, folder) of each config, exported once."""
    model = seeded_model(CONFIGS[request.param])

    def make(folder: Path) -> None:
        report = export_onnx(model, folder / "out", weights=Identity.of(model, "small"))
        assert max(report.exported.encoder, report.exported.decoder) < MOST_DIFFERENCE

    return model, made_once(tmp_path_factory, f"exported-{request.param}", make) / "out"


@pytest.fixture(scope="session")
def int8(tmp_path_factory):
    """(model, folder) in int8, made by the command from a checkpoint folder; the folder's name is not there before."""
    model = seeded_model(replace(SMALL, query_layers=1))

    def make(folder: Path) -> None:
        model.save_pretrained(folder / "weights")
        assert main(["export", "--weights", str(folder / "weights"), "-o", str(folder / "out"), "--quantize", "int8"]) == 0
        assert sorted(os.listdir(folder)) == ["out", "weights"]

    return model, made_once(tmp_path_factory, "exported-int8", make) / "out"


def clips_of(model: VidTwin, count: int) -> torch.Tensor:
    return torch.rand(count, *model.config.clip_shape, generator=torch.Generator().manual_seed(7)) * 2 - 1


def relative(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x - y).norm() / y.norm())


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_files_alone_are_the_model_for_any_batch(exported, batch):
    model, folder = exported
    assert sorted(os.listdir(folder)) == ["config.json", "decoder.onnx", "encoder.onnx"]
    encoder, decoder = (
        onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"]) for name in ("encoder.onnx", "decoder.onnx")
    )
    assert [value.name for value in encoder.get_outputs()] == list(OUTPUTS)
    assert encoder.get_inputs()[0].shape == ["batch", *model.config.clip_shape]
    clips = clips_of(model, batch)
    with torch.inference_mode():
        posterior = model.posterior(clips)
        outputs = encoder.run(None, {"clip": clips.numpy()})
        for found, expected in zip(outputs, (*posterior.mean.tensors, *posterior.logvar.tensors), strict=True):
            assert relative(torch.from_numpy(found), expected) < MOST_DIFFERENCE
        latents = dict(zip(OUTPUTS, (tensor.numpy() for tensor in posterior.mean.tensors), strict=False))
        for only, parts in ((None, {}), ("structure", {"parts": np.array([1, 0], np.float32)})):
            (found,) = decoder.run(None, latents | parts)
            assert relative(torch.from_numpy(found), model.decode(posterior.mean, only)) < MOST_DIFFERENCE


def test_nothing_of_this_machine_is_in_the_files(exported):
    for file in exported[1].iterdir():
        content = file.read_bytes()
        assert str(Path(__file__).parents[2]).encode() not in content
        assert str(Path(torch.__file__).parent).encode() not in content


def test_the_engine_takes_it_for_the_model(exported):
    model, folder = exported
    clips = clips_of(model, 5)
    onnx, exact = Engine(OnnxModel(folder), batch=2), Engine(model, batch=2)
    assert onnx.plan.describe().startswith("2 at a time, onnx float32, about ")
    found, expected = (engine.encode(5, lambda index: clips[index]) for engine in (onnx, exact))
    for a, b in ((found.mean, expected.mean), (found.logvar, expected.logvar)):
        assert all(relative(x, y) < MOST_DIFFERENCE for x, y in zip(a.tensors, b.tensors, strict=True))
    for only in (None, "structure", "dynamics"):
        decoded = [torch.stack(list(engine.decode(expected.mean, only))) for engine in (onnx, exact)]
        assert decoded[0].shape == clips.shape
        assert relative(*decoded) < MOST_DIFFERENCE
    assert onnx.notes == []


def test_a_real_video_through_both(exported, clip, tmp_path):
    model, folder = exported
    engine = Engine(OnnxModel(folder))
    reports = [reconstruct(e, clip, tmp_path / f"{n}.mp4", stop=20) for n, e in enumerate((Engine(model), engine))]
    assert reports[0].psnr == pytest.approx(reports[1].psnr, abs=1e-3)
    assert "onnx float32" in reports[1].table()
    frames = [read_video(tmp_path / f"{n}.mp4").frames.astype(int) for n in range(2)]
    assert frames[0].shape == frames[1].shape
    assert np.abs(frames[0] - frames[1]).mean() < 0.01  # a value in ten thousand is rounded the other way, and compressed


@pytest.mark.slow
def test_int8_is_near_and_says_how_near(int8, clip, tmp_path):
    model, folder = int8
    facts = json.loads((folder / "config.json").read_text())["onnx"]
    clips = clips_of(model, 2)
    engine = Engine(OnnxModel(folder))
    assert "onnx int8" in engine.plan.describe()
    with torch.inference_mode():
        mean = model.encode(clips)
        exact = model.decode(mean).clamp(-1, 1)
        recoded = model.decode(engine.encode(2, lambda index: clips[index]).mean).clamp(-1, 1)
    decoded = torch.stack(list(engine.decode(mean)))
    assert not torch.equal(decoded, exact)
    assert min(facts["psnr"].values()) > 40
    assert min(clip_psnr(x, y) for x, y in zip((*decoded, *recoded), (*exact, *exact), strict=True)) > 40
    assert [note.split(" was ")[0] for note in engine.notes] == ["a clip encoded in onnx int8", "a clip decoded in onnx int8"]
    with pytest.raises(ValueError, match="was .* dB from float32 .*, below check_db=90; export in float32, or use a lower limit"):
        Engine(OnnxModel(folder), check_db=90)


def test_on_the_command_line(int8, clip, tmp_path, capsys):
    model, folder = int8
    weights, video, latents = folder.parent / "weights", tmp_path / "v.mp4", tmp_path / "v.vidtwin"
    onnx = ["--backend", "onnx", "--weights", str(folder)]
    assert main(["reconstruct", str(clip), "-o", str(video), "--frames", ":20", "--side-by-side", *onnx]) == 0
    assert "onnx int8" in capsys.readouterr().out
    assert main(["encode", str(clip), "-o", str(latents), "--frames", ":20", *onnx]) == 0
    header = LatentVideo.load(latents).header
    assert (header.precision, header.weights.hash) == ("onnx int8", Identity.of(model).hash)
    for options in (onnx, ["--weights", str(weights)]):  # the same weights, so either decodes it
        assert main(["decode", str(latents), "-o", str(video), *options]) == 0
        assert len(read_video(video).frames) == 20


def test_info_of_an_export(int8, capsys):
    assert main(["info", str(int8[1])]) == 0
    out = capsys.readouterr().out
    assert ", int8\n" in out and "PSNR in dB: encoder" in out and "hidden=" in out


@pytest.mark.parametrize(
    "options, line",
    [
        (["--backend", "onnx", "--weights", "{weights}"], "holds no exported model; make one with `vidtwin export"),
        (["--backend", "onnx"], "mini: holds no exported model"),
        (["--weights", "{folder}"], "was exported to ONNX; add --backend onnx"),
        (["--backend", "onnx", "--weights", "{folder}", "--dtype", "bfloat16"], "has the precision of its export; leave them out"),
        (["--backend", "onnx", "--weights", "{folder}", "--low-memory"], "--compile and --low-memory: not for an exported model"),
        (["--backend", "onnx", "--weights", "{folder}", "--device", "cuda"], "--device cuda:"),
        (["--backend", "onnx", "--weights", "{folder}", "--check", "90"], "below --check 90"),
    ],
)
def test_wrong_options_are_one_line(int8, clip, tmp_path, capsys, options, line):
    _, folder = int8
    places = {"folder": folder, "weights": folder.parent / "weights"}
    filled = [option.format(**places) for option in options]
    assert main(["reconstruct", str(clip), "-o", str(tmp_path / "out.mp4"), *filled]) in (1, 2)
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1
    assert os.listdir(tmp_path) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(1000))


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx", "config.json"])
@pytest.mark.parametrize("damage", [Path.unlink, cut, noise, lambda path: path.write_bytes(b"")])
def test_broken_folders_are_one_line(int8, tmp_path, name, damage):
    folder = tmp_path / "broken"
    shutil.copytree(int8[1], folder)
    damage(folder / name)
    with pytest.raises((ValueError, FileNotFoundError), match="broken") as caught:
        OnnxModel(folder)
    assert "\n" not in str(caught.value)
    assert "vidtwin export" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts["onnx"].update(weights_hash="0" * 64),
        lambda facts: facts["onnx"].update(precision="float32"),
        lambda facts: facts["onnx"].update(precision="int4"),
        lambda facts: facts["onnx"].pop("psnr"),
        lambda facts: facts.update(onnx=None),
        lambda facts: facts.update(width=64),
        lambda facts: facts.update(frames="16"),
        lambda facts: facts.update(more=1),
    ],
)
def test_a_config_that_is_not_of_the_files_is_one_line(int8, tmp_path, change):
    folder = tmp_path / "broken"
    shutil.copytree(int8[1], folder)
    facts = json.loads((folder / "config.json").read_text())
    change(facts)
    (folder / "config.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="broken.*vidtwin export") as caught:
        OnnxModel(folder)
    assert "\n" not in str(caught.value)


def test_wrong_input_is_refused_by_shape(int8):
    model, folder = int8
    onnx = OnnxModel(folder)
    clips = clips_of(model, 1)
    for wrong in (clips[0], clips[:, :, :8], clips[:0]):
        with pytest.raises(ValueError, match="clip of shapes .*: this model expects"):
            onnx.posterior(wrong)
    latents = onnx.posterior(clips).mean
    with pytest.raises(ValueError, match="structure and dynamics_x and dynamics_y of shapes"):
        onnx.decode(Latents(latents.structure[:, :1], latents.dynamics_x, latents.dynamics_y))
    with pytest.raises(ValueError, match="only='both': choose"):
        onnx.decode(latents, "both")
    with pytest.raises(ValueError, match="latents decode to NaN or infinite values"):
        list(Engine(onnx).decode(latents.map(lambda tensor: tensor * float("nan"))))
    for options in ({"dtype": torch.bfloat16}, {"encode_dtype": "auto", "dtype": torch.bfloat16}):
        with pytest.raises(ValueError, match="not for an exported model"):
            Engine(onnx, **options)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space by what Linux says")
def test_running_out_of_memory_is_a_memory_error_and_halves_the_batch(int8):
    code = f"""if True:
    import resource, torch
    from vidtwin.inference.engine import Engine
    from vidtwin.onnx.model import OnnxModel
    torch.set_num_threads(1)
    model = OnnxModel({str(int8[1])!r})
    clips = torch.zeros(512, *model.config.clip_shape)
    engine = Engine(model, batch=512)
    model.posterior(clips[:1])
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    limit = used + clips.nbytes + 2**25
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print(len(engine.encode(512, lambda index: clips[index]).mean), engine.batch)
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    count, batch = map(int, done.stdout.split())
    assert (count, batch < 512) == (512, True)


def test_what_cannot_be_written_is_said_before_any_work(weights, tmp_path, model, capsys):
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(weights, checkpoint)
    before = (checkpoint / "config.json").read_bytes()
    with pytest.raises(FileExistsError, match="is not of an export; choose another folder"):
        export_onnx(model, checkpoint)
    assert (checkpoint / "config.json").read_bytes() == before
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotADirectoryError, match="file: is a file; name a folder"):
        export_onnx(model, file)
    with pytest.raises(ValueError, match="quantize='int4': choose 'int8'"):
        export_onnx(model, tmp_path / "new", quantize="int4")
    assert main(["export", "--weights", str(tmp_path / "nothing"), "-o", str(tmp_path / "new")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "file"]


def test_a_difference_is_refused(exported):
    model, folder = exported
    with pytest.raises(ValueError, match="encoder.onnx: differs from torch by .*e.* .relative L2., above 1.0e-05; use the"):
        _differences(seeded_model(model.config, seed=1), OnnxModel(folder))


@pytest.mark.slow
def test_when_exporting_fails_an_earlier_export_stays(int8, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(int8[1], folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    broken = seeded_model(replace(SMALL, query_layers=1, structure_downsamples=0, dynamics_downsamples=0))
    with torch.no_grad():  # NaN for both, which no bound holds
        broken.decoder.head.linear.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="decoder.onnx: differs from torch by inf .relative L2., above .*; use the versions"):
        export_onnx(broken, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert os.listdir(tmp_path) == ["out"]
    assert is_exported(folder) and not is_exported(tmp_path)


def test_without_the_extra_it_is_one_line_and_nothing_is_imported_early(int8, tmp_path):
    names = ["onnx", "onnxruntime", "onnxscript"]
    code = f"import sys, vidtwin.cli, vidtwin.onnx.export; print([n for n in {names} if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    for arguments, package in (
        (["export", "-o", str(tmp_path / "new")], "onnx"),
        (["reconstruct", "-o", str(tmp_path / "new.mp4"), "--backend", "onnx", "--weights", str(int8[1])], "onnxruntime"),
    ):
        code = f"import sys; sys.modules[{package!r}] = None; from vidtwin.cli import main; sys.exit(main({arguments!r}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 1
        assert f"needs the package {package}: pip install 'vidtwin[export]'" in done.stderr
        assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []
