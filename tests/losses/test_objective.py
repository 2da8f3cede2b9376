"""The objective against the released code's numbers (computed in float64; LPIPS 0, discriminator weights from the recipe)."""

import json
from math import prod

import pytest
import torch

from tests.conftest import SMALL, seeded_model
from tests.tools.golden import CONFIGS, FOLDER, recipe_clip, recipe_model, recipe_weight
from vidtwin.losses.discriminator import LeCam, PatchGAN
from vidtwin.losses.objective import Adversarial, LossWeights, autoencoder_loss, discriminator_loss
from vidtwin.model.released import released_name

RELEASED = LossWeights(l1=1.0, perceptual=0.05, kl=0.001, scaling="released")
CASES = ["tiny", "tiny_q4", "tiny_crop"]


def golden_step(case, dtype):
    """Both losses of a golden case, its model, and the stored facts."""
    facts = json.loads((FOLDER / f"{case}.json").read_text())
    config = CONFIGS[facts["config"]]
    model = recipe_model(config, facts["salt"], dtype)
    x = recipe_clip(facts["salt"], (facts["batch"], *config.clip_shape)).to(dtype)
    discriminator = PatchGAN(2, "batch").to(dtype).train()
    with torch.no_grad():
        for name, parameter in discriminator.named_parameters():
            parameter.copy_(recipe_weight(facts["salt"], f"loss.discriminator.{name}", tuple(parameter.shape)))
    discriminator.requires_grad_(False)
    logvar = torch.zeros((), dtype=dtype, requires_grad=True)
    x_hat, posterior = model(x)
    frames = x.shape[0] * x.shape[2]
    adversarial = Adversarial(discriminator(x_hat), 0.05, model.decoder.head.linear.weight)
    common = {"perceptual": torch.zeros(frames, dtype=dtype), "logvar": logvar}
    before = autoencoder_loss(x, x_hat, posterior, RELEASED, **common)
    after = autoencoder_loss(x, x_hat, posterior, RELEASED, **common, adversarial=adversarial)
    critic = discriminator_loss(discriminator(x), discriminator(x_hat.detach()))
    return before, after, critic, model, logvar, x, facts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_every_loss_is_that_of_the_released_code(case, dtype):
    before, after, critic, model, _, x, facts = golden_step(case, dtype)
    pixels = x[0, :, 0].numel()
    values = model.config.latent_values
    ours = {
        "kl_structure": before["kl_structure"] * prod(model.config.structure_shape),
        "kl_loss": before["kl"] * values,
        "rec_l1_mean": before["l1"],
        "rec_loss_logged": before["l1"],
        "nll_loss": before["nll"] * pixels,
        "aeloss_before_disc_start": before["total"],
        "aeloss_after_disc_start": after["total"],
        "g_loss": after["adversarial"],
        "d_weight": after["adversarial_weight"],
        "discloss_before_disc_start": 0.0,
        "discloss_after_disc_start": critic["total"],
        "logits_real_mean": critic["logits_real"],
        "logits_fake_mean": critic["logits_fake"],
    }
    stored = {name: value for name, value in facts["loss"].items() if name not in ("kl_dynamics_x", "kl_dynamics_y")}
    assert stored == pytest.approx({name: torch.as_tensor(value).item() for name, value in ours.items()}, rel=1e-5, abs=0)
    dynamics = facts["loss"]["kl_dynamics_x"] + facts["loss"]["kl_dynamics_y"]
    assert before["kl_dynamics"].item() * (values - prod(model.config.structure_shape)) == pytest.approx(dynamics, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_every_gradient_is_that_of_the_released_code(case, dtype):
    before, _, _, model, logvar, _, facts = golden_step(case, dtype)
    before["total"].backward()
    norms = {released_name(name): p.grad.norm().item() for name, p in model.named_parameters()}
    norms["loss.logvar"] = logvar.grad.norm().item()
    stored = {name: norm for name, norm in facts["grad_l2"].items() if norm is not None}
    # Attention does not depend on the bias of its keys: that gradient is zero but for rounding.
    largest = max(stored.values())
    assert all(norms[name] < 1e-8 * largest for name in stored if name.endswith("key.bias"))
    rest = {name: norm for name, norm in stored.items() if not name.endswith("key.bias")}
    assert {name: norms[name] for name in rest} == pytest.approx(rest, rel=1e-5 if dtype == torch.float64 else 3e-5)


def test_the_released_scaling_is_the_per_element_one_times_the_pixels_of_a_frame():
    model, x = seeded_model(), torch.rand(2, *SMALL.clip_shape) * 2 - 1
    x_hat, posterior = model(x)
    pixels = 3 * SMALL.height * SMALL.width
    element = autoencoder_loss(x, x_hat, posterior, LossWeights(l2=0.5, kl=0.001 * SMALL.latent_values / pixels))
    summed = autoencoder_loss(x, x_hat, posterior, LossWeights(l2=0.5, kl=0.001, scaling="released"))
    torch.testing.assert_close(summed["total"], element["total"] * pixels)
    assert all(torch.equal(summed[name], element[name]) for name in element if name != "total")


def test_a_learned_log_variance_is_best_at_the_log_of_the_error():
    model, x = seeded_model(), torch.rand(1, *SMALL.clip_shape) * 2 - 1
    x_hat, posterior = model(x)
    logvar = autoencoder_loss(x, x_hat, posterior, LossWeights())["l1"].log().detach().requires_grad_()
    autoencoder_loss(x, x_hat, posterior, LossWeights(), logvar=logvar)["nll"].backward()
    assert logvar.grad.abs() < 1e-6


def test_the_adaptive_weight_balances_the_gradients_and_is_bounded():
    last_layer = torch.ones(3, requires_grad=True)
    nll, loss = (last_layer * 8).sum(), (last_layer * 2).sum()
    assert Adversarial(loss, 0.5, last_layer).weight_of(nll, loss).item() == pytest.approx(2, rel=1e-4)
    nothing = (last_layer * 0).sum()
    assert Adversarial(loss, 1.0, last_layer).weight_of(nll * 1e6, nothing).item() == 1e4
    assert Adversarial(loss, 0.5).weight_of(nll, loss).item() == 0.5


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(("dims", "shape"), [(2, (32, 1, 26, 26)), (3, (2, 1, 4, 28, 28))])
def test_discriminators_judge_patches(dims, norm, shape):
    x = torch.rand(2, 3, 16, 224, 224) if (dims, norm) == (2, "batch") else torch.rand(2, 3, 16, 64, 64)
    logits = PatchGAN(dims, norm)(x)
    if x.shape[-1] == 224:
        assert logits.shape == shape
    assert logits.ndim == dims + 2
    assert logits.shape[0] == (32 if dims == 2 else 2)


def test_group_norm_judges_a_clip_alike_in_any_company():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 4, 32, 32)
    for dims in (2, 3):
        discriminator = PatchGAN(dims, "group", width=16)
        alone, together = discriminator(x[:1]), discriminator(x)
        torch.testing.assert_close(together[: len(alone)], alone)


def test_a_discriminator_learns_to_tell_real_from_fake():
    torch.manual_seed(0)
    for dims in (2, 3):
        discriminator, lecam = PatchGAN(dims, "group", width=16), LeCam(decay=0.9)
        optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
        real, fake = torch.rand(2, 3, 4, 32, 32), torch.rand(2, 3, 4, 32, 32).round()
        losses = []
        for _ in range(20):
            loss = discriminator_loss(discriminator(real), discriminator(fake), lecam, 1e-3)
            optimizer.zero_grad()
            loss["total"].backward()
            optimizer.step()
            lecam.update(loss["logits_real"], loss["logits_fake"])
            losses.append(loss["hinge"].item())
        assert losses[-1] < 0.5 * losses[0]
        assert lecam.real > 0 > lecam.fake


def test_lecam_is_zero_until_logits_pass_the_other_sides_mean():
    lecam = LeCam()
    lecam.update(1000.0, -1000.0)  # running means 1 and -1
    assert lecam(torch.tensor([-1.0]), torch.tensor([1.0])) == 0
    assert lecam(torch.tensor([1.0]), torch.tensor([0.0])).item() == pytest.approx(4 + 1)
