import pytest
import torch

from vidtwin.training.patches import BasisFit, block_side, fit_basis, to_blocks, to_patches


@pytest.fixture
def clip():
    """(3, 4, 64, 64) in [-1, 1], smooth enough to have principal components."""
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, (64, 64), mode="bicubic").clamp(-1, 1)


def test_a_block_has_16_pixels_where_that_divides_the_patch():
    assert [block_side(patch) for patch in (32, 16, 8, 24)] == [16, 16, 8, 24]


def test_components_are_orthonormal_and_even_or_odd(clip):
    basis = fit_basis([clip], 16, 40)
    torch.testing.assert_close(basis.vectors @ basis.vectors.T, torch.eye(40), atol=1e-5, rtol=0)
    mirrored = basis.vectors.view(40, 3, 16, 16).flip(-1).flatten(1)
    torch.testing.assert_close(mirrored, basis.signs[:, None] * basis.vectors, atol=1e-5, rtol=0)


def test_mirroring_a_clip_is_a_sign_for_each_coefficient(clip):
    basis, frames = fit_basis([clip], 16, 40), clip.movedim(1, 0)
    mirrored, _ = basis.project(frames.flip(-1))
    torch.testing.assert_close(mirrored, basis.project(frames)[0].flip(2) * basis.signs, atol=1e-4, rtol=0)


def test_coefficients_and_what_is_outside_have_the_energy_of_the_pixels(clip):
    basis, frames = fit_basis([clip], 16, 40), clip.movedim(1, 0)
    coefficients, outside = basis.project(frames)
    energy = (to_blocks(frames, 16) - basis.mean).square().sum(-1)
    torch.testing.assert_close(coefficients.square().sum(-1) + outside, energy, rtol=1e-4, atol=1e-3)


def test_a_patch_of_32_pixels_is_four_blocks(clip):
    basis, frames = fit_basis([clip], 32, 40), clip.movedim(1, 0)
    coefficients = to_patches(basis.project(frames)[0], 2)  # (F, s, 4 K)
    vectors, mean = basis.of_patches(32)
    patches = to_blocks(frames, 32).flatten(1, 2).double()
    torch.testing.assert_close(coefficients.double(), (patches - mean) @ vectors.T, atol=1e-4, rtol=0)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(160, dtype=torch.float64), atol=1e-5, rtol=0)


def test_a_fit_in_pieces_is_that_of_all(clip):
    whole, first, second = (BasisFit(16) for _ in range(3))
    whole.add(clip.movedim(1, 0))
    first.add(clip[:, :1].movedim(1, 0))
    second.add(clip[:, 1:].movedim(1, 0))
    first.merge(second.count, second.total, second.products)
    a, b = whole.basis(8), first.basis(8)
    torch.testing.assert_close(a.vectors.abs(), b.vectors.abs(), atol=1e-4, rtol=0)
    torch.testing.assert_close(a.mean, b.mean)
