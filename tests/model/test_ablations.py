import hashlib
import json
from dataclasses import replace
from math import prod

import pytest
import torch

from tests.conftest import SMALL, seeded_model
from vidtwin import VidTwin, VidTwinConfig, export_released, preset
from vidtwin.inference.decode import decode_windows
from vidtwin.inference.encode import encode_video
from vidtwin.inference.engine import Engine
from vidtwin.latents.file import LatentVideo
from vidtwin.model.ablations import FlattenedQFormer, TimeMLP, ablations
from vidtwin.model.checkpoint import weights_hash
from vidtwin.model.config import PRESETS
from vidtwin.model.qformer import QFormer

VARIANTS = ablations(SMALL)
each_ablation = pytest.mark.parametrize("variant", ["a", "b", "c", "d"])


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(2, *SMALL.clip_shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def parameters(config: VidTwinConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: parameter.shape for name, parameter in VidTwin(config).named_parameters()}


@each_ablation
@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40)])
@pytest.mark.parametrize("downsamples", [0, 1, 2])
@torch.no_grad()
def test_shapes_are_those_of_the_config_and_latents_alone_decode(variant, height, width, downsamples):
    size = {"height": height, "width": width, "structure_downsamples": downsamples, "dynamics_downsamples": downsamples}
    config = replace(VARIANTS[variant], **size)
    model = seeded_model(config)
    latents = model.encode(torch.zeros(2, *config.clip_shape))
    shapes = config.structure_shape, config.dynamics_x_shape, config.dynamics_y_shape
    assert latents.shapes == tuple((2, *shape) for shape in shapes)
    assert sum(prod(shape) for shape in shapes) == config.latent_values
    fresh = seeded_model(config, seed=9)
    fresh.load_state_dict(model.state_dict())
    assert fresh.decode(latents).shape == (2, *config.clip_shape)
    assert torch.equal(fresh.decode(latents), model(torch.zeros(2, *config.clip_shape)).x_hat)
    assert fresh.u_S(latents).shape == fresh.u_D(latents).shape == (2, config.hidden, config.frames, *config.grid)
    assert fresh.u_D(latents).min() >= 0


@each_ablation
@torch.no_grad()
def test_a_checkpoint_folder_brings_the_same_model_back(variant, x, tmp_path):
    model = seeded_model(VARIANTS[variant])
    model.save_pretrained(tmp_path / variant)
    loaded = VidTwin.from_pretrained(tmp_path / variant)
    assert loaded.config == model.config
    assert weights_hash(loaded) == weights_hash(model) != weights_hash(seeded_model())
    assert torch.equal(loaded(x).x_hat, model(x).x_hat)


@each_ablation
def test_every_parameter_learns(variant, x):
    model = seeded_model(VARIANTS[variant]).train()
    x_hat, posterior = model(x, sample=True)
    (x_hat.square().mean() + posterior.kl().mean()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@torch.no_grad()
def test_without_dynamics_its_latents_are_empty_and_everything_goes_on(x, tmp_path):
    model = seeded_model(VARIANTS["a"])
    posterior = model.posterior(x)
    assert posterior.mean.shapes[1:] == ((2, 0, 16, 2), (2, 0, 16, 2))
    assert posterior.sample(torch.Generator().manual_seed(0)).shapes == posterior.mean.shapes
    parts = posterior.kl_parts()
    assert parts["dynamics_x"].tolist() == parts["dynamics_y"].tolist() == [0, 0]
    assert torch.equal(posterior.kl(), parts["structure"])
    assert not model.u_D(posterior.mean).any()
    assert torch.equal(model.decode(posterior.mean), model.decode(posterior.mean, only="structure"))
    assert model.decode(posterior.mean, only="dynamics").isfinite().all()
    assert posterior.mean.lerp(posterior.mean, 0.5).shapes == posterior.mean.shapes


@torch.no_grad()
def test_empty_latents_survive_their_file(clip, tmp_path):
    model = seeded_model(VARIANTS["a"])
    encode_video(model, clip, tmp_path / "a.vidtwin", logvar=True)
    loaded = LatentVideo.load(tmp_path / "a.vidtwin")
    assert loaded.header.config == VARIANTS["a"]
    assert loaded.window(0).latents.dynamics_x.numel() == 0
    assert sum(len(decoded.ticks) for decoded in decode_windows(Engine(model), loaded.stream())) == loaded.frames == 50


def test_each_differs_from_the_default_in_its_branch_only():
    full = parameters(SMALL)
    branch = {"a": ("dynamics",), "b": ("dynamics",), "c": ("structure_encoder.qformer",), "d": ("structure_encoder.qformer",)}
    for variant, prefixes in branch.items():
        ablated = parameters(VARIANTS[variant])
        assert {name for name in full.keys() ^ ablated.keys() if not name.startswith(prefixes)} == set()
        assert {name for name in full.keys() ^ ablated.keys() if name.startswith(prefixes)}
    assert not any("dynamics" in name for name in parameters(VARIANTS["a"]))
    assert any(name.startswith("dynamics_encoder.qformer.queries") for name in parameters(VARIANTS["b"]))
    assert not any("queries" in name for name in parameters(VARIANTS["c"]))
    assert "structure_encoder.qformer.qformer.queries" in parameters(VARIANTS["d"])


@pytest.mark.parametrize("name", PRESETS)
def test_rates_are_equal_within_a_channel_and_parameters_of_the_same_order(name):
    variants = ablations(preset(name))
    full = variants["full"]
    assert full is preset(name)
    one_channel = prod(full.structure_shape[1:])
    assert abs(variants["a"].latent_values - full.latent_values) <= one_channel / 2
    assert all(variants[variant].latent_values == full.latent_values for variant in "bcd")
    sizes = {variant: sum(shape.numel() for shape in parameters(config).values()) for variant, config in variants.items()}
    assert all(0.8 < size / sizes["full"] < 1.25 for size in sizes.values())


@pytest.mark.parametrize(("name", "values"), [("tiny", 8232), ("released", 7840), ("paper-0.20", 4704)])
def test_one_latent_has_the_documented_count(name, values):
    assert ablations(preset(name))["a"].latent_values == values


@torch.no_grad()
def test_only_the_flattened_branch_depends_on_the_absolute_place():
    torch.manual_seed(0)
    n, d_q, s, c, f = 4, 8, 6, 16, 5
    sequences, order = torch.randn(s, f, c), torch.randperm(s)
    layers = 2, 2, 16, 0.0
    for module in (QFormer(n, d_q, c, *layers), TimeMLP(f, n, d_q, c, 16)):
        torch.testing.assert_close(module(sequences[order]), module(sequences)[order])
    flattened = FlattenedQFormer(s, n, d_q, c, *layers)
    assert flattened(sequences).shape == (s, n, d_q)
    assert not torch.allclose(flattened(sequences[order]), flattened(sequences)[order], atol=1e-3)


@torch.no_grad()
def test_clips_do_not_mix_where_space_is_flattened(x):
    model = seeded_model(VARIANTS["d"])
    torch.testing.assert_close(model.encode(x).structure[1:], model.encode(x[1:]).structure)


@torch.no_grad()
def test_only_the_mlp_over_time_depends_on_the_order_of_frames():
    torch.manual_seed(0)
    sequences, order = torch.randn(3, 5, 16), torch.tensor([4, 2, 0, 1, 3])
    qformer, mlp = QFormer(4, 8, 16, 2, 2, 16, 0.0), TimeMLP(5, 4, 8, 16, 16)
    torch.testing.assert_close(qformer(sequences[:, order]), qformer(sequences))
    assert not torch.allclose(mlp(sequences[:, order]), mlp(sequences), atol=1e-3)


@each_ablation
def test_the_released_layout_holds_none_of_them(variant, tmp_path):
    model = seeded_model(VARIANTS[variant])
    with pytest.raises(ValueError, match=r"(structure|dynamics)_branch='\w+' does not exist in the released layout; use '\w+'$"):
        export_released(model, tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"structure_branch": "mlp"}, "structure_branch='mlp': choose 'qformer', 'convolution' or 'flattened'"),
        ({"dynamics_branch": None}, "dynamics_branch=None: choose 'average', 'qformer' or 'none'"),
    ],
)
def test_unknown_branches_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        VidTwinConfig(**fields)


def test_default_branches_are_no_part_of_an_identity():
    """Weights from before there were branches keep the hash that their latents name."""
    model = seeded_model()
    fields = {name: value for name, value in model.config.to_dict().items() if not name.endswith("_branch")} | {
        "query_dropout": None
    }
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode() + tensor.numpy().tobytes())
    assert weights_hash(model) == digest.hexdigest()
