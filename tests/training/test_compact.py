from dataclasses import replace

import pytest
import torch
from einops import rearrange

from tests.conftest import SMALL
from vidtwin.training.compact import CompactTwin
from vidtwin.training.patches import BasisFit, PatchBasis, block_side

CONFIG = replace(SMALL, height=64, width=64, patch=32, query_dropout=0.0)
COMPONENTS = 24


def to_pixels(x: torch.Tensor, basis: PatchBasis) -> torch.Tensor:
    """Coefficients (B, f, s, k) -> clips (B, 3, F, H, W)."""
    vectors, mean = basis.of_patches(CONFIG.patch)
    h, w = CONFIG.grid
    return rearrange((x.double() @ vectors + mean).float(), "b f (h w) (c p q) -> b c f (h p) (w q)", h=h, w=w, p=32, q=32)


@pytest.fixture
def compact() -> CompactTwin:
    torch.manual_seed(0)
    fit = BasisFit(block_side(CONFIG.patch))
    fit.add(torch.nn.functional.interpolate(torch.rand(8, 3, 16, 16) - 0.5, (64, 64), mode="bilinear"))
    compact = CompactTwin(CONFIG, COMPONENTS)
    compact.basis = fit.basis(COMPONENTS)
    with torch.no_grad():
        for parameter in compact.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return compact.eval()


@pytest.fixture
def x() -> torch.Tensor:
    return 0.3 * torch.randn(2, CONFIG.frames, 4, 4 * COMPONENTS, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_unfolded_it_computes_the_same_of_pixels(compact, x):
    x[..., 0] *= 0.1
    clips = to_pixels(0.05 * x, compact.basis)
    x_hat, posterior = compact(0.05 * x)
    model = compact.unfold()
    reconstruction = model(clips)
    for mine, its in zip(posterior.mean.tensors, reconstruction.posterior.mean.tensors, strict=True):
        torch.testing.assert_close(mine, its, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(to_pixels(x_hat, compact.basis), reconstruction.x_hat, atol=2e-4, rtol=1e-3)


@torch.no_grad()
def test_folding_an_unfolded_model_gives_it_back(compact, x):
    again = CompactTwin.fold(compact.unfold(), compact.basis)
    torch.testing.assert_close(again(x)[0], compact(x)[0], atol=1e-3, rtol=1e-3)


def test_its_gradients_are_those_of_the_plain_step_inside_the_subspace(compact, x):
    x = 0.05 * x
    model, clips = compact.unfold(), to_pixels(x, compact.basis)
    assert clips.abs().max() < 1
    (compact(x)[0] - x).square().sum().backward()
    (model(clips).x_hat - clips).square().sum().backward()
    vectors, mean = compact.basis.of_patches(CONFIG.patch)
    embedding = model.encoder.patch_embedding
    less_mean = embedding.weight.grad.flatten(1).double() - torch.outer(embedding.bias.grad.double(), mean)  # of W (pixels - mean)
    head = rearrange(model.decoder.head.linear.weight.grad.double(), "(p q c) o -> (c p q) o", c=3, p=CONFIG.patch)
    pairs = [((less_mean @ vectors.T).float(), compact.embedding.weight.grad), ((vectors @ head).float(), compact.head.weight.grad)]
    own = dict(compact.twin.named_parameters())
    pairs += [(p.grad, own[name].grad) for name, p in model.named_parameters() if name in own]
    assert len(pairs) > 50
    for plain, mine in pairs:
        assert (plain - mine).norm() <= 2e-3 * plain.norm() + 1e-5


@torch.no_grad()
def test_some_clips_are_decoded_from_one_latent_alone(compact, x):
    latents = compact.posterior(x).mean
    both, alone = compact.decode(latents), compact.decode(latents, torch.tensor([1, 1]))
    mixed = compact(x, alone=torch.tensor([0, 1]))[0]
    torch.testing.assert_close(mixed, torch.stack([both[0], alone[1]]))
    assert not torch.allclose(both[1], alone[1])
    model = compact.unfold()
    for number, latent in enumerate(("structure", "dynamics"), 1):
        alone = compact.decode(latents, torch.full((2,), number))
        torch.testing.assert_close(to_pixels(alone, compact.basis), model.decode(latents, only=latent), atol=2e-4, rtol=1e-3)
