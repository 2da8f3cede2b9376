"""LPIPS: against a plain re-computation, always in eval mode, loading from every source."""

import functools
import http.server
import importlib.util
import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from vidtwin.losses import lpips
from vidtwin.losses.lpips import BACKBONE, HEADS, LPIPS, RELEASED, load_lpips

NARROW = (4, 4, 8, 8, 6)
# Slice and number of every convolution of VGG16, and of what comes after it.
VGG16 = {1: (0, 2), 2: (5, 7), 3: (10, 12, 14), 4: (17, 19, 21), 5: (24, 26, 28)}


def _seeded(widths: tuple[int, ...] = NARROW) -> LPIPS:
    torch.manual_seed(0)
    model = LPIPS(widths)
    for head in (model.lin0, model.lin1, model.lin2, model.lin3, model.lin4):
        nn.init.uniform_(head.model[1].weight)
    return model


@pytest.fixture
def model() -> LPIPS:
    return _seeded()


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, x_hat = torch.rand(2, 3, 3, 32, 48, generator=generator) * 2 - 1
    return x, x_hat


def _plain(tensors: dict[str, Tensor], x: Tensor, x_hat: Tensor) -> Tensor:
    """LPIPS a frame at a time, from the tensors alone."""

    def features(frame: Tensor) -> list[Tensor]:
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        y, found = ((frame.permute(1, 2, 0) - shift) / scale).permute(2, 0, 1), []
        for stage, numbers in VGG16.items():
            y = y if stage == 1 else F.max_pool2d(y, 2)
            for number in numbers:
                name = f"net.slice{stage}.{number}"
                y = F.conv2d(y, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding=1).clamp(min=0)
            found.append(y / (y.pow(2).sum(0).sqrt() + 1e-10))
        return found

    totals = []
    for frame, frame_hat in zip(x, x_hat, strict=True):
        total = torch.zeros(())
        for stage, (a, b) in enumerate(zip(features(frame), features(frame_hat), strict=True)):
            weights = tensors[f"lin{stage}.model.1.weight"].flatten()
            total = total + torch.einsum("c,chw->hw", weights, (a - b) ** 2).mean()
        totals.append(total)
    return torch.stack(totals)


def _folder(path: Path, model: LPIPS) -> Path:
    """A folder as a user has it: torchvision's backbone with its classifier, and the heads."""
    tensors = model.state_dict()
    backbone = {"features." + name.split(".", 2)[2]: t for name, t in tensors.items() if name.startswith("net.")}
    path.mkdir(exist_ok=True)
    torch.save(backbone | {"classifier.0.weight": torch.zeros(2, 2)}, path / BACKBONE)
    torch.save({name: t for name, t in tensors.items() if name.startswith("lin")}, path / HEADS)
    return path


def _assert_same(loaded: LPIPS, model: LPIPS) -> None:
    expected = model.state_dict()
    assert list(loaded.state_dict()) == list(expected)
    assert all(torch.equal(t, expected[name]) for name, t in loaded.state_dict().items())
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


def test_equals_the_plain_computation(model, pair):
    distances = model(*pair)
    assert distances.shape == (3,)
    torch.testing.assert_close(distances, _plain(model.state_dict(), *pair), atol=1e-6, rtol=1e-5)
    double = model.double()(*(frames.double() for frames in pair))
    torch.testing.assert_close(double, distances.double(), atol=1e-6, rtol=1e-5)


def test_names_and_sizes_are_those_of_the_released_checkpoint():
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in LPIPS().state_dict().items()}
    widths, expected, c_in = (64, 128, 256, 512, 512), {}, 3
    expected |= {"scaling_layer.shift": (1, 3, 1, 1), "scaling_layer.scale": (1, 3, 1, 1)}
    for stage, (c, numbers) in enumerate(zip(widths, VGG16.values(), strict=True), 1):
        for number in numbers:
            expected |= {f"net.slice{stage}.{number}.weight": (c, c_in, 3, 3), f"net.slice{stage}.{number}.bias": (c,)}
            c_in = c
        expected[f"lin{stage - 1}.model.1.weight"] = (1, c, 1, 1)
    assert shapes == expected
    assert sum(torch.Size(shape).numel() for name, shape in shapes.items() if name.startswith("net.")) == 14_714_688


def test_identical_frames_are_at_distance_zero(model, pair):
    x, x_hat = pair
    assert torch.equal(model(x, x.clone()), torch.zeros(3))
    assert (LPIPS(NARROW)(x, x_hat) > 0).all()  # an untrained stand-in is a distance too


def test_gradient_reaches_x_hat_only(model, pair):
    x, x_hat = (frames.requires_grad_() for frames in pair)
    model(x, x_hat).sum().backward()
    assert x.grad is None and all(p.grad is None for p in model.parameters())
    assert torch.isfinite(x_hat.grad).all() and (x_hat.grad.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("bias", [-100.0, 0.0])
def test_gradient_is_finite_where_features_are_zero(model, pair, bias):
    x, x_hat = pair
    nn.init.constant_(model.net.slice3[1].bias, bias)
    for same in (x_hat.clone().requires_grad_(), x.clone().requires_grad_()):
        model(x, same).sum().backward()
        assert torch.isfinite(same.grad).all()


def test_it_stays_in_eval_mode(model, pair):
    outer = nn.ModuleDict({"lpips": model, "other": nn.Dropout()})
    before = model(*pair)
    outer.train()
    assert outer["other"].training and not any(module.training for module in model.modules())
    assert torch.equal(model(*pair), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_compared_in_float32(model, pair, dtype):
    x, x_hat = pair[0], pair[1].clone().requires_grad_()
    expected = model(x, x_hat).detach()
    with torch.autocast("cpu", dtype):
        distances = model(x, x_hat)
    distances.sum().backward()
    torch.testing.assert_close(distances.float(), expected, atol=0.02, rtol=0.05)
    assert torch.isfinite(x_hat.grad).all()


def test_loads_a_folder(model, pair, tmp_path):
    loaded = load_lpips(_folder(tmp_path / "vgg", model))
    _assert_same(loaded, model)
    assert torch.equal(loaded(*pair), model(*pair))


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_loads_a_released_checkpoint(model, tmp_path, suffix):
    tensors = {RELEASED + name: t for name, t in model.state_dict().items()}
    tensors |= {"loss.logvar": torch.zeros(()), "conv_in.bias": torch.zeros(4)}
    path = tmp_path / f"model{suffix}"
    if suffix == ".ckpt":
        torch.save({"epoch": 3, "state_dict": tensors}, path)
    else:
        save_file(tensors, path)
    _assert_same(load_lpips(str(path)), model)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_loads_its_own_state_dict(model, tmp_path, suffix):
    path = tmp_path / f"lpips{suffix}"
    (torch.save if suffix == ".pth" else save_file)(model.half().state_dict(), path)
    _assert_same(load_lpips(path), model.float())


def test_reads_the_heads_that_travel_with_torchmetrics(tmp_path):
    spec = importlib.util.find_spec("torchmetrics")
    if spec is None or spec.origin is None:
        pytest.skip("torchmetrics is not installed")
    heads = Path(spec.origin).parent / "functional" / "image" / "lpips_models" / HEADS
    _, kind, checksum = lpips.DOWNLOADS[HEADS]
    assert lpips._digest(heads, kind) == checksum
    folder = _folder(tmp_path / "vgg", LPIPS())
    (folder / HEADS).write_bytes(heads.read_bytes())
    loaded = load_lpips(folder)
    weights = torch.load(heads, map_location="cpu", weights_only=True)
    for stage in range(5):
        name = f"lin{stage}.model.1.weight"
        assert torch.equal(loaded.state_dict()[name], weights[name]) and weights[name].min() >= 0


def _refused(kind: type[Exception], source: str | Path | None) -> str:
    with pytest.raises(kind) as error:
        load_lpips(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_refuses_what_is_not_there(model, tmp_path):
    assert f"{tmp_path}: no {BACKBONE} and no {HEADS} in it" in _refused(FileNotFoundError, tmp_path)
    folder = _folder(tmp_path / "vgg", model)
    (folder / HEADS).unlink()
    message = _refused(FileNotFoundError, folder)
    assert f"{folder}: no {HEADS} in it" in message and "perceptual: ms-ssim or none trains without it" in message
    assert "nothing.pth: no such file or folder" in _refused(FileNotFoundError, tmp_path / "nothing.pth")


def test_refuses_tensors_of_something_else(model, tmp_path):
    path, tensors = tmp_path / "lpips.pth", model.state_dict()
    torch.save({"conv_in.weight": torch.zeros(2)}, path)
    assert "lpips.pth: holds no LPIPS; give a folder with" in _refused(ValueError, path)
    torch.save([1, 2], path)
    assert "lpips.pth: holds no state_dict of tensors" in _refused(ValueError, path)
    torch.save({name: t for name, t in tensors.items() if "slice5.24" not in name} | {"lin5.model.1.weight": torch.ones(1)}, path)
    assert "1 unknown: lin5.model.1.weight; 2 missing: net.slice5.24.weight, net.slice5.24.bias" in _refused(ValueError, path)
    torch.save(tensors | {"net.slice3.12.bias": torch.zeros(3)}, path)
    assert "1 misshaped: net.slice3.12.bias (3,) instead of (8,)" in _refused(ValueError, path)
    path.write_bytes(path.read_bytes()[:1000])
    assert "lpips.pth: not a torch checkpoint, or cut short" in _refused(ValueError, path)
    torch.save(torch.nn.Linear(2, 2), path)
    assert "nothing was run" in _refused(ValueError, path)


def test_refuses_a_folder_with_another_backbone(model, tmp_path):
    folder = _folder(tmp_path / "vgg", model)
    backbone = torch.load(folder / BACKBONE, weights_only=True)
    torch.save(backbone | {"features.30.weight": torch.zeros(2)}, folder / BACKBONE)
    assert "1 unknown: features.30.weight" in _refused(ValueError, folder)


@pytest.fixture
def served(model, tmp_path, monkeypatch):
    """A local server in the place of both addresses, with stand-ins under their own checksums, and an empty cache."""
    folder = _folder(tmp_path / "served", model)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        for name, (_, kind, _) in list(lpips.DOWNLOADS.items()):
            address = f"http://127.0.0.1:{server.server_port}/{name}"
            monkeypatch.setitem(lpips.DOWNLOADS, name, (address, kind, lpips._digest(folder / name, kind)[:8]))
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
        yield folder
        server.shutdown()
        thread.join()


def _cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "hub").rglob("*") if path.is_file())


def test_downloads_once(served, model, tmp_path):
    _assert_same(load_lpips(None), model)
    assert _cached(tmp_path) == sorted([BACKBONE, HEADS])
    for path in served.iterdir():
        path.unlink()
    _assert_same(load_lpips(), model)


def test_a_download_with_another_checksum_is_refused(served, tmp_path):
    (served / BACKBONE).write_bytes(b"a page that asks to log in")
    message = _refused(ValueError, None)
    assert f"LPIPS: {BACKBONE} is missing: http://127.0.0.1" in message and "gave a file of sha256" in message
    assert "perceptual: ms-ssim or none trains without it" in message
    assert _cached(tmp_path) == []


def test_no_network_is_said_in_one_line(served, tmp_path, monkeypatch):
    (served / HEADS).unlink()
    assert f"LPIPS: {HEADS} is missing, and could not be downloaded from http://127.0.0.1" in _refused(FileNotFoundError, None)
    assert _cached(tmp_path) == [BACKBONE]
    monkeypatch.setitem(lpips.DOWNLOADS, HEADS, ("http://127.0.0.1:9/vgg.pth", "md5", "00"))
    assert "Connection refused" in _refused(FileNotFoundError, None)
    assert _cached(tmp_path) == [BACKBONE]
