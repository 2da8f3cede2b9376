"""The log-variances that suit the objective: what noise costs, and that no other log-variance does better."""

from dataclasses import replace

import pytest
import torch

from tests.training.test_linear_start import PATCH_16, moving_coefficients, started
from vidtwin.losses.objective import LossWeights, squared_error_loss
from vidtwin.model.latents import Latents, Posterior
from vidtwin.training.log_variance import sensitivities, start_fitted_variance
from vidtwin.training.recipe import read_recipe

WEIGHTS = LossWeights(l1=0.0, log=0.05, kl=5e-5)
PIXELS = 3 * PATCH_16.height * PATCH_16.width
QUIET, LOUD = -30.0, -6.0  # log-variances


@pytest.fixture(scope="module")
def coder():
    """A linear coder, clips, and what lies outside them."""
    x = moving_coefficients(PATCH_16, 24)
    return started(PATCH_16, x)[0], x[:8], torch.full((8, PATCH_16.frames), 20.0)


@torch.no_grad()
def loss_with(coder, logvar: Latents, kl: float = 0.0, draws: int = 16) -> float:
    """The objective's mean over draws of noise."""
    network, x, outside = coder
    mean = network.posterior(x).mean
    posterior = Posterior(mean, logvar)
    generator, total = torch.Generator().manual_seed(2), 0.0
    for _ in range(draws // 2):
        z = posterior.sample(generator)
        mirrored = Latents(*(2 * m - s for m, s in zip(mean.tensors, z.tensors, strict=True)))
        for latents in (z, mirrored):  # so that what is linear in the noise cancels
            errors = ((network.decode(latents) - x).square().sum((2, 3)) + outside) / PIXELS
            total += squared_error_loss(errors, posterior, replace(WEIGHTS, kl=kl))["total"].item() / draws
    return total


def test_sensitivities_are_what_noise_costs(coder):
    network, x, outside = coder
    posterior = network.posterior(x)
    structure, dynamics = sensitivities(network, posterior.mean, x, outside, WEIGHTS, torch.Generator().manual_seed(0))
    quiet = posterior.mean.map(lambda tensor: torch.full_like(tensor, QUIET))
    variance, least = torch.tensor(LOUD).exp(), loss_with(coder, quiet)
    for channel, query in ((0, 0), (3, 1)):
        loud = quiet.map(torch.clone)
        loud.structure[:, channel, query] = LOUD
        expected = structure[channel, query] * variance * loud.structure[0, channel, query].numel()
        assert loss_with(coder, loud) - least == pytest.approx(expected.item(), rel=0.15)
    for channel in (0, 2):
        loud = quiet.map(torch.clone)
        loud.dynamics_x[:, channel], loud.dynamics_y[:, channel] = LOUD, LOUD
        expected = dynamics[channel] * variance * (loud.dynamics_x[0, 0].numel() + loud.dynamics_y[0, 0].numel())
        assert loss_with(coder, loud) - least == pytest.approx(expected.item(), rel=0.15)


@pytest.mark.slow
def test_no_shift_of_the_log_variances_is_better(coder):
    network, x, outside = coder
    means = network.posterior(x).mean
    start_fitted_variance(network, x, outside, WEIGHTS)
    posterior = network.posterior(x)
    for before, after in zip(means.tensors, posterior.mean.tensors, strict=True):
        torch.testing.assert_close(before, after)
    fitted = posterior.logvar.map(torch.Tensor.detach)
    assert fitted.structure.max() < 0.1
    least = loss_with(coder, fitted, WEIGHTS.kl)
    for part in range(3):
        for shift in (-0.7, 0.7):
            shifted = Latents(*(tensor + shift * (part == i) for i, tensor in enumerate(fitted.tensors)))
            assert loss_with(coder, shifted, WEIGHTS.kl) > least


def test_it_tells_queries_apart(coder):
    network, x, outside = coder
    start_fitted_variance(network, x, outside, WEIGHTS)
    logvar = network.posterior(x).logvar.structure  # (B, d_S, n_q, h, w)
    between = logvar.mean((0, 3, 4)).std(1).mean()
    within = (logvar - logvar.mean((0, 3, 4), keepdim=True)).std()
    assert between > 3 * within


def test_the_dearer_a_bit_the_more_noise(coder):
    network, x, outside = coder
    levels = []
    for kl in (1e-5, 1e-3):
        start_fitted_variance(network, x, outside, replace(WEIGHTS, kl=kl))
        levels.append(network.posterior(x).logvar.structure.mean().item())
    assert levels[0] < levels[1] - 2


@pytest.mark.parametrize("wrong", [{"initial_logvar": -9.0}, {"loss": {"l1": 0.0, "log": 0.05, "kl": 0.0}}], ids=["set", "no-kl"])
def test_it_needs_a_price_of_a_bit(wrong):
    asked = {"loss": {"l1": 0.0, "log": 0.05, "kl": 1e-3}, "fitted_logvar": True} | wrong
    with pytest.raises(ValueError, match=r"fitted_logvar: it follows from loss\.kl"):
        read_recipe("recipes/tiny-h200.yaml", train_videos="a", validation_videos="b", **asked)
