"""Terms that train the latents to be apart: their values where they are known, their gradients, and in both kinds of step."""

import json
from dataclasses import replace

import pytest
import torch

from tests.analysis.twins import Twin, twin_clips
from tests.conftest import SMALL, seeded_model
from tests.training.conftest import one_thread, recipe  # noqa: F401 (fixtures)
from tests.training.test_coefficients import coefficients  # noqa: F401
from vidtwin import Latents, Posterior
from vidtwin.losses.apart import TERMS, apart_losses, decorrelation, frozen_price, latent_consistency, swap_consistency
from vidtwin.losses.objective import LossWeights
from vidtwin.training.autoencoder import train

ALL = {"swap": 0.1, "consistency": 0.1, "decorrelation": 0.1, "frozen": 0.01}
TWIN = Twin()


def drawn(batch: int = 3, seed: int = 0) -> Latents:
    generator = torch.Generator().manual_seed(seed)
    return Latents(*(torch.randn(batch, *shape, generator=generator) for shape in SMALL.latent_shapes))


def test_a_model_whose_latents_are_apart_loses_nothing():
    x = twin_clips()
    z = TWIN.posterior(x).mean
    assert swap_consistency(z, TWIN.posterior, TWIN.decode) < 1e-10
    assert latent_consistency(z, TWIN.posterior(TWIN.decode(z)).mean) < 1e-10
    assert frozen_price(x, TWIN.posterior) < 1e-10 < frozen_price(x.flip(2), lambda y: TWIN.posterior(x))


def test_a_swap_is_of_a_clip_and_the_next_and_lost_is_one_less_r2():
    z, seen = drawn(), []

    def decode(mixed: Latents) -> torch.Tensor:
        seen.append(mixed)
        return torch.zeros(1)

    def encode(_: torch.Tensor) -> Posterior:  # Structure half way to its mean, Dynamics at its mean
        S, (x, y) = mixed_half(z.structure), (m.mean(0, keepdim=True).expand_as(m) for m in z.tensors[1:])
        return Posterior(Latents(S, x, y), z)

    def mixed_half(S: torch.Tensor) -> torch.Tensor:
        return (S + S.mean(0)) / 2

    assert swap_consistency(z, encode, decode).item() == pytest.approx(0.25 + 1, abs=1e-5)
    assert torch.equal(seen[0].structure, z.structure)
    assert torch.equal(seen[0].dynamics_x[0], z.dynamics_x[1]) and torch.equal(seen[0].dynamics_y[2], z.dynamics_y[0])


def test_scaling_latents_brings_them_no_nearer():
    z, found = drawn(), drawn(seed=1)
    small, near = (latents.map(lambda tensor: tensor / 100) for latents in (z, found))
    assert latent_consistency(small, near).item() == pytest.approx(latent_consistency(z, found).item(), rel=1e-4)


def test_one_clip_has_no_variance_to_lose():
    z = drawn(1)
    assert latent_consistency(z, drawn(1, seed=1)) == 0


@pytest.mark.parametrize("fixed", [True, False])
def test_fixed_targets_get_no_gradient_and_free_ones_do(fixed):
    z, away = (drawn(seed=seed).map(lambda tensor: tensor.requires_grad_()) for seed in (0, 1))
    swap_consistency(z, lambda y: Posterior(away, z), lambda mixed: torch.zeros(1), fixed).backward()
    assert all((tensor.grad is None) is fixed for tensor in z.tensors)
    assert all(tensor.grad is not None for tensor in away.tensors)


def test_correlation_is_none_of_strangers_and_all_of_copies():
    z = drawn(400)
    samples = 400 * z.dynamics_x.shape[-1]
    assert decorrelation(z).item() == pytest.approx(1 / samples, rel=0.3)
    S = z.structure[:, :1, :1]
    copy = Latents(S, -3 * S[:, 0].mean(2).expand(-1, 16, -1)[:, None] + 1, 2 * S[:, 0].mean(3).expand(-1, 16, -1)[:, None])
    assert decorrelation(copy).item() == pytest.approx(1, abs=1e-3)
    moving = copy.map(lambda tensor: tensor * (-1) ** torch.arange(16)[:, None] if tensor.ndim == 4 else tensor)
    assert decorrelation(moving) < 0.05  # what changes from frame to frame and cancels out is no copy


@pytest.mark.parametrize("term", TERMS)
def test_training_on_a_term_lowers_it(term):
    model = seeded_model()
    x = torch.rand(4, *SMALL.clip_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    weights, optimizer, values = replace(LossWeights(), **{term: 1.0}), torch.optim.Adam(model.parameters(), 1e-3), []
    for _ in range(8):
        x_hat, posterior = model(x)
        losses = apart_losses(weights, x, x_hat, posterior, lambda y: model.posterior(y.clamp(-1, 1)), lambda z: model.decode(z))
        assert list(losses) == [term]
        optimizer.zero_grad()
        losses[term].backward()
        optimizer.step()
        values.append(losses[term].item())
    assert values[-1] < values[0]


@pytest.mark.parametrize("step", ["recipe", "coefficients"])
def test_both_kinds_of_step_take_and_log_them(step, request, tmp_path):
    plan = replace(request.getfixturevalue(step), steps=2, checkpoint_every=2)
    train(replace(plan, loss=replace(plan.loss, **ALL)), tmp_path / "run", progress=False)
    record = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert all(record[name] > 0 for name in TERMS) and record["skipped_steps"] == 0
    expected = record["nll"] + plan.loss.kl * record["kl"] + sum(ALL[name] * record[name] for name in TERMS)
    assert record["total"] == pytest.approx(expected, rel=1e-4)


def test_off_they_are_not_there():
    x = twin_clips()
    assert apart_losses(LossWeights(), x, x, TWIN.posterior(x), TWIN.posterior, TWIN.decode) == {}


def test_what_cannot_be_is_refused_in_one_line(recipe):  # noqa: F811
    for changes, said in (
        ({"loss": LossWeights(swap=-1.0)}, "loss.swap=-1.0: must be at least 0"),
        ({"loss": LossWeights(frozen=0.1), "shard": True}, "loss.frozen: not with shard"),
        ({"loss": LossWeights(swap=0.1), "batch_size": 2, "accumulate": 2}, "loss.swap and loss.decorrelation: they need two"),
    ):
        with pytest.raises(ValueError, match=f"^{said}"):
            replace(recipe, **changes)
