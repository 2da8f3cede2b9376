from dataclasses import replace

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import default_collate

from tests.conftest import SMALL, seeded_model
from vidtwin import Latents, Posterior, VidTwin
from vidtwin.model.qformer import QFormer


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(2, *SMALL.clip_shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def changed_frames(model: VidTwin, x: torch.Tensor, t: int) -> list[int]:
    """Frames of z that change when frame t of the input does."""
    other = x.clone()
    other[:, :, t] = -other[:, :, t]
    difference = (model.feature(x) - model.feature(other)).abs().amax(dim=(0, 1, 3, 4))
    return difference.nonzero().flatten().tolist()


@pytest.mark.parametrize("t", [0, 5, 15])
def test_the_feature_is_causal_in_time(model, x, t):
    assert changed_frames(model, x, t) == list(range(t, 16))


def test_full_temporal_attention_is_not_causal_and_differs(model, x):
    full = seeded_model(replace(SMALL, temporal_attention="full"))
    full.load_state_dict(model.state_dict())
    assert changed_frames(full, x, 5) == list(range(16))
    with torch.no_grad():
        assert not torch.allclose(full.feature(x), model.feature(x))


def test_config_is_the_one_given():
    config = replace(SMALL)
    assert VidTwin(config).config is config


@torch.no_grad()
def test_encode_is_the_mean_and_deterministic(model, x):
    posterior = model.posterior(x)
    assert isinstance(posterior, Posterior)
    for a, b, c in zip(model.encode(x).tensors, model.encode(x).tensors, posterior.mean.tensors, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    assert posterior.mean.shapes == tuple((2, *s) for s in (SMALL.structure_shape, SMALL.dynamics_x_shape, SMALL.dynamics_y_shape))


@torch.no_grad()
def test_latents_alone_decode(model, x):
    latents = model.encode(x)
    copies = Latents(*(torch.tensor(t.tolist()) for t in latents.tensors))
    fresh = seeded_model(seed=9)
    fresh.load_state_dict(model.state_dict())
    whole = fresh.decode(copies)
    assert whole.shape == x.shape
    assert torch.equal(whole, model(x).x_hat)
    assert torch.equal(model.decoder(model.u_S(latents)), model.decode(latents, only="structure"))
    assert torch.equal(model.decoder(model.u_D(latents)), model.decode(latents, only="dynamics"))
    assert not torch.allclose(model.decode(latents, only="structure"), whole)


@torch.no_grad()
def test_one_part_needs_only_its_own_latent(model, x):
    a, b = model.encode(x), model.encode(-x)
    mixed = Latents(a.structure, b.dynamics_x, b.dynamics_y)
    assert torch.equal(model.decode(mixed, only="structure"), model.decode(a, only="structure"))
    assert torch.equal(model.decode(mixed, only="dynamics"), model.decode(b, only="dynamics"))


@torch.no_grad()
def test_batch_entries_do_not_mix(model, x):
    together, alone = model.encode(x), model.encode(x[1:])
    for a, b in zip(together.tensors, alone.tensors, strict=True):
        torch.testing.assert_close(a[1:], b)


@torch.no_grad()
def test_samples_follow_the_generator_and_the_posterior(model, x):
    posterior = model.posterior(x)
    a, b = (posterior.sample(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a.structure, b.structure)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([posterior.sample(generator).dynamics_x for _ in range(2000)])
    sigma = torch.exp(0.5 * posterior.logvar.dynamics_x)
    assert ((draws.mean(0) - posterior.mean.dynamics_x) / sigma).abs().max() < 0.15
    assert (draws.std(0) / sigma - 1).abs().max() < 0.1


def test_kl_is_that_of_torch_distributions(model, x):
    with torch.no_grad():
        posterior = model.posterior(x)
    expected = torch.zeros(2)
    for mean, logvar in zip(posterior.mean.tensors, posterior.logvar.tensors, strict=True):
        q = torch.distributions.Normal(mean, torch.exp(0.5 * logvar))
        expected += torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(posterior.kl(), expected)
    assert posterior.kl().shape == (2,)


def test_log_variance_is_clamped():
    moments = torch.full((1, 2, 1, 1, 1), 99.0), torch.full((1, 2, 1, 1), -99.0), torch.zeros(1, 2, 1, 1)
    posterior = Posterior.from_moments(*moments)
    assert posterior.logvar.structure.item() == 20
    assert posterior.logvar.dynamics_x.item() == -30


def test_every_parameter_learns(x):
    model = seeded_model().train()
    x_hat, posterior = model(x, sample=True)
    (x_hat.square().mean() + posterior.kl().mean()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize(("height", "width"), [(32, 64), (64, 32), (24, 40)])
@pytest.mark.parametrize("downsamples", [0, 1, 2])
@torch.no_grad()
def test_other_sizes_work_by_config(height, width, downsamples):
    config = replace(SMALL, height=height, width=width, structure_downsamples=downsamples, dynamics_downsamples=downsamples)
    model = seeded_model(config)
    x = torch.zeros(1, *config.clip_shape)
    latents = model.encode(x)
    assert sum(t[0].numel() for t in latents.tensors) == config.latent_values
    assert latents.dynamics_x.shape[-1] == config.dynamics_x_shape[-1]
    assert model.decode(latents).shape == x.shape


@pytest.mark.parametrize("frames", [1, 2, 5])
@torch.no_grad()
def test_short_clips_work_by_config(frames):
    model = seeded_model(replace(SMALL, frames=frames, num_queries=1))
    assert model(torch.zeros(1, 3, frames, 32, 32)).x_hat.shape == (1, 3, frames, 32, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[0], r"expected \(B, 3, 16, 32, 32\)"),
        (lambda x: x[:, :, :8], "expected"),
        (lambda x: x[:0], "batch size 0"),
        (lambda x: (x * 127.5 + 127.5).to(torch.uint8), "dtype torch.uint8: expected floating point"),
        (lambda x: x * 127.5 + 127.5, r"expected finite values in \[-1, 1\]"),
        (lambda x: x.masked_fill(x > 0.999, float("nan")), "nan"),
        (lambda x: x.masked_fill(x > 0.999, float("inf")), "inf"),
    ],
)
def test_bad_clips_are_refused_where_they_enter(model, x, change, message):
    for entrance in (model.feature, model.posterior, model.encode, model):
        with pytest.raises(ValueError, match=message):
            entrance(change(x))


def test_bad_latents_are_refused(model, x):
    with torch.no_grad():
        latents = model.encode(x)
    with pytest.raises(ValueError, match="this model expects"):
        model.decode(Latents(latents.structure[:, :2], latents.dynamics_x, latents.dynamics_y))
    with pytest.raises(ValueError, match="NaN or infinite"):
        model.decode(latents.map(lambda t: t * float("nan")))
    with pytest.raises(ValueError, match="choose 'structure', 'dynamics' or None"):
        model.decode(latents, only="content")
    with pytest.raises(ValueError, match="expected"):
        Latents(latents.structure, latents.dynamics_x, latents.dynamics_y[:1])


def test_what_is_no_tensor_is_named_with_the_remedy(model, x):
    for call, kind, message in (
        (lambda: model.encode(x.numpy()), TypeError, r"x of ndarray: expected a tensor \(B, 3, .*torch.from_numpy"),
        (lambda: model.encode("a.mp4"), TypeError, "x of str: .*read_video"),
        (lambda: model([x]), TypeError, "x of list: "),
        (lambda: model.decode(x), TypeError, "latents of Tensor: expected vidtwin.Latents"),
        (lambda: model.decode(model.posterior(x)), TypeError, "latents of Posterior: "),
    ):
        with pytest.raises(kind, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_latents_slice_join_mix_and_show_their_shapes(model, x):
    with torch.no_grad():
        latents = model.encode(x)
    joined = Latents.cat([latents[:1], latents[1:]])
    assert all(torch.equal(a, b) for a, b in zip(joined.tensors, latents.tensors, strict=True))
    assert len(latents) == 2
    assert torch.equal(latents.lerp(joined, 0.0).structure, latents.structure)
    assert repr(latents) == "Latents(structure=(2, 4, 4, 2, 2), dynamics_x=(2, 4, 16, 2), dynamics_y=(2, 4, 16, 2))"


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_stays_close(x, dtype):
    model = seeded_model()
    exact = model(x)
    with torch.autocast("cpu", dtype):
        cast = model(x)
    low = model.to(dtype)
    result = low(x.to(dtype))
    assert low.dtype == result.x_hat.dtype == dtype
    latents = (
        (r.posterior.mean.structure, r.posterior.mean.dynamics_x, r.posterior.mean.dynamics_y) for r in (result, cast, exact)
    )
    for values, by_autocast, reference in [*zip(*latents, strict=True), (result.x_hat, cast.x_hat, exact.x_hat)]:
        error, bound = ((v.float() - reference).norm() / reference.norm() for v in (values, by_autocast))
        assert error < 1.1 * bound + 1e-4
        assert error < 1e-2


def test_a_cast_rounds_the_products_weights_alone(model):
    low, back = seeded_model().bfloat16(), seeded_model().bfloat16().float()
    assert low.decoder.transformer.space.dtype == low.decoder.head.modulation.dtype == torch.float32
    assert {p.dtype for p in low.structure_encoder.parameters()} == {torch.float32}
    assert {p.dtype for p in low.decoder.transformer.blocks[0].mlp.parameters()} == {torch.bfloat16}
    assert all(p.dtype == torch.float64 for p in seeded_model().double().parameters())
    for name, tensor in back.state_dict().items():
        rounded = low.state_dict()[name].dtype == torch.bfloat16
        assert torch.equal(tensor, model.state_dict()[name].bfloat16().float() if rounded else model.state_dict()[name])


def test_a_model_in_half_precision_takes_clips_and_latents_of_any(model, x):
    low = seeded_model().bfloat16()
    with torch.inference_mode():
        latents = low.encode(x)
        assert latents.structure.dtype == torch.float32  # branches do not round
        assert torch.equal(low.decode(latents), low.decode(latents.to(torch.float64)))
        exact = seeded_model()
        assert torch.equal(exact.encode(x.half()).structure, exact.encode(x.half().float()).structure)
        assert torch.equal(exact.encode(x.double()).structure, exact.encode(x).structure)


@pytest.mark.gpu
@torch.no_grad()
def test_gpu_agrees_with_cpu(model, x):
    device = seeded_model().to("cuda")
    torch.testing.assert_close(device(x.cuda()).x_hat.cpu(), model(x).x_hat, rtol=1e-3, atol=1e-4)


def test_what_queries_do_before_they_meet_a_context_is_done_once():
    torch.manual_seed(0)
    qformer, context = QFormer(4, 8, 16, 2, 2, 16, 0.0), torch.randn(5, 7, 16)
    assert torch.allclose(qformer.eval()(context), qformer.train()(context), atol=1e-6)  # without dropout the same
    rows = []
    qformer.layers[0].self_attention.register_forward_hook(lambda module, given, out: rows.append(len(out)))
    for mode in (False, True):
        qformer.train(mode)(context)
    assert rows == [1, 5]


class Decode(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, latents):
        return self.model.decode(latents)


class Encode(Decode):
    def forward(self, x):
        return self.model.encode(x)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("part", [Encode, Decode])
def test_each_half_is_exported_and_compiled_as_one_graph(model, x, part):
    given = x if part is Encode else model.encode(x)
    program = torch.export.export(part(model), (given,))
    expected, exported = (tree_leaves(run(given)) for run in (part(model), program.module()))
    compiled = tree_leaves(torch.compile(part(model), fullgraph=True, backend="eager")(given))
    for a, b, c in zip(expected, exported, compiled, strict=True):
        assert torch.allclose(a, b, atol=1e-6) and torch.allclose(a, c, atol=1e-6)


def test_latents_are_mapped_over_and_collated(model, x):
    with torch.no_grad():
        posterior = model.posterior(x)
    doubled = tree_map(lambda tensor: 2 * tensor, posterior)
    assert torch.equal(doubled.logvar.dynamics_y, 2 * posterior.logvar.dynamics_y)
    sums = torch.vmap(lambda latents: latents.structure.sum() + latents.dynamics_x.sum())(posterior.mean)
    assert sums.shape == (len(x),)
    batch = default_collate([{"latents": posterior.mean[:1], "row": 0}, {"latents": posterior.mean[1:], "row": 1}])
    assert torch.equal(batch["latents"].dynamics_x, posterior.mean.dynamics_x)
    assert isinstance(default_collate([posterior, posterior]).mean, Latents)
