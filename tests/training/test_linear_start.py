"""The linear start against its closed form, on small grids: every branch, patch and mask it is made for."""

from dataclasses import replace

import pytest
import torch

from vidtwin import VidTwinConfig
from vidtwin.training.compact import CompactTwin
from vidtwin.training.linear.coder import Pooling
from vidtwin.training.linear.directions import orthonormal_complement, quietest
from vidtwin.training.linear.neighbours import OFFSETS, fit_neighbours
from vidtwin.training.linear.reading import read_time, temporal_functions
from vidtwin.training.linear.start import check_room, start_linear
from vidtwin.training.patches import PatchBasis, block_side

PATCH_16 = VidTwinConfig(
    height=64, width=64, patch=16, hidden=160, depth=2, heads=4, num_queries=4, query_dim=96, query_layers=1, query_heads=8,
    query_mlp=64, query_dropout=0.0, structure_channels=9, structure_width=32, structure_downsamples=0, dynamics_channels=4,
    dynamics_downsamples=0, temporal_attention="full",
)  # fmt: skip
PATCH_32 = replace(PATCH_16, height=128, width=128, patch=32)
COMPONENTS = 32


def moving_coefficients(config: VidTwinConfig, clips: int) -> torch.Tensor:
    """Coefficients (N, f, s, k) that drift and swing, with variances that fall as those of patches do."""
    generator = torch.Generator().manual_seed(3)
    k, f = COMPONENTS * (config.patch // block_side(config.patch)) ** 2, config.frames
    functions = temporal_functions(f).float()[:4]
    strengths = torch.tensor([1.0, 0.3, 0.15, 0.08])
    spread = 4.0 / (1 + torch.arange(k)) ** 0.8
    h, w = config.grid
    still = torch.randn(4 * clips, k, (h + 1) // 2, (w + 1) // 2, generator=generator)
    still = (
        torch.nn.functional.interpolate(still, (h, w), mode="bilinear").flatten(2).unflatten(0, (4, clips)).transpose(2, 3) * spread
    )
    x = torch.einsum("kf,k,knsj->nfsj", functions, strengths, still)
    flicker = 0.1 * torch.randn(clips, f, h, 1, k, generator=generator) * spread
    return x + flicker.expand(-1, -1, -1, w, -1).flatten(2, 3)


def started(config: VidTwinConfig, x: torch.Tensor):
    torch.manual_seed(0)
    compact = CompactTwin(config, COMPONENTS)
    size = 3 * block_side(config.patch) ** 2
    vectors = torch.linalg.qr(torch.randn(size, COMPONENTS))[0].T
    compact.basis = PatchBasis(block_side(config.patch), torch.zeros(size), vectors, torch.ones(COMPONENTS))
    return compact.eval(), start_linear(compact, x, torch.zeros(len(x)), -9.0)


def decibels(x: torch.Tensor, y: torch.Tensor) -> float:
    return (10 * torch.log10(x.square().mean((1, 2, 3)) / (x - y.float()).square().mean((1, 2, 3)))).mean().item()


CONFIGS = {
    "patch 16": PATCH_16,
    "patch 32": PATCH_32,
    "structure downsampled": replace(PATCH_16, structure_downsamples=1),
    "dynamics downsampled": replace(PATCH_16, dynamics_downsamples=1),
    "both downsampled, odd grid": replace(PATCH_16, height=112, width=112, structure_downsamples=1, dynamics_downsamples=1),
    "causal": replace(PATCH_16, temporal_attention="causal"),
    "one block": replace(PATCH_16, depth=1),
    "more query layers": replace(PATCH_16, query_layers=3),
    "no dynamics": replace(PATCH_16, dynamics_branch="none"),
    "not square": replace(PATCH_16, width=96),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_the_model_is_its_closed_form(config, dtype):
    x = moving_coefficients(config, 40)
    compact, coder = started(config, x[:32])
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = compact(x[32:])[0]
    linear = decibels(x[32:], coder.reconstruct(x[32:]))
    assert linear > 3
    assert abs(decibels(x[32:], y) - linear) < 0.05


@torch.no_grad()
def test_both_latents_have_deviation_one_and_a_posterior_near_its_mean():
    x = moving_coefficients(PATCH_16, 40)
    compact, _ = started(PATCH_16, x)
    posterior = compact.posterior(x)
    assert 0.8 < posterior.mean.structure[:, :-1].std() < 1.2  # the last channel tells the query
    assert 0.5 < posterior.mean.dynamics_x.std() < 2
    assert all(torch.allclose(logvar, torch.tensor(-9.0), atol=1e-3) for logvar in posterior.logvar.tensors)
    flags = posterior.mean.structure[:, -1].transpose(0, 1).flatten(1)  # (n_q, all)
    torch.testing.assert_close(flags.mean(1), torch.tensor([-0.75, -0.25, 0.25, 0.75]), atol=0.01, rtol=0)


@torch.no_grad()
def test_each_latent_says_what_the_other_leaves():
    x = moving_coefficients(PATCH_16, 40)
    _, coder = started(PATCH_16, x)
    structure, both = decibels(x, coder.structure(x)), decibels(x, coder.reconstruct(x))
    assert both > structure + 0.2


def test_a_config_without_room_is_refused_by_field():
    for field, value in (("query_dim", 32), ("query_mlp", 16), ("structure_width", 8)):
        with pytest.raises(ValueError, match=f"{field}={value}: a linear start needs"):
            check_room(replace(PATCH_16, **{field: value}), 64)
    with pytest.raises(ValueError, match="query_dropout=0.1"):
        check_room(replace(PATCH_16, query_dropout=0.1), 64)
    with pytest.raises(ValueError, match="structure_downsamples=2"):
        check_room(replace(PATCH_16, structure_downsamples=2), 64)
    with pytest.raises(ValueError, match="hidden=32"):
        started(replace(PATCH_16, hidden=32, heads=2), moving_coefficients(PATCH_16, 8))


def test_temporal_functions_are_orthonormal_cosines():
    phi = temporal_functions(16)
    torch.testing.assert_close(phi @ phi.T / 16, torch.eye(16, dtype=torch.float64))
    assert torch.equal(phi[0], torch.ones(16, dtype=torch.float64))


def test_windows_see_their_function_and_no_constant():
    compact = CompactTwin(PATCH_16, 4)
    transformer = compact.twin.encoder.transformer
    reading = read_time(PATCH_16, transformer.space, transformer.time)
    assert len(reading.functions) >= 3
    torch.testing.assert_close(
        (reading.windows * reading.functions).sum(1), torch.ones(len(reading.functions), dtype=torch.float64)
    )
    assert reading.windows[1:].sum(1).abs().max() < 1e-9


def test_pooling_back_and_forth_keeps_blocks_of_equal_places():
    pooling = Pooling.times((6, 8), 1)
    blocks = torch.randn(3, 4, 2)
    places = blocks.repeat_interleave(2, 0).repeat_interleave(2, 1)
    torch.testing.assert_close(pooling.down(places), blocks)
    torch.testing.assert_close(pooling.up(pooling.down(places)), places)


def test_free_directions_are_orthogonal_to_those_that_are_taken():
    generator = torch.Generator().manual_seed(0)
    taken, table = torch.randn(3, 12, generator=generator), torch.randn(40, 12, generator=generator)
    table[:, :4] *= 10
    rows = orthonormal_complement(taken, 5, generator)
    torch.testing.assert_close(rows @ rows.T, torch.eye(5, dtype=torch.float64))
    assert (rows @ taken.double().T).abs().max() < 1e-9
    quiet = quietest(table, taken, 4, generator)
    assert (quiet @ taken.double().T).abs().max() < 1e-9
    assert (table.double() @ quiet.T).norm() < (table.double() @ orthonormal_complement(taken, 4, generator).T).norm()
    with pytest.raises(ValueError, match="9 of 12 directions are free, 10 are needed"):
        orthonormal_complement(taken, 10, generator)


@torch.no_grad()
def test_heads_look_at_the_places_beside_a_place():
    _, coder = started(PATCH_16, moving_coefficients(PATCH_16, 8))
    assert coder.neighbours is not None
    h, w = PATCH_16.grid
    for weights, (down, right) in zip(coder.neighbours.weights, OFFSETS, strict=True):
        seen = weights.argmax(1)
        for place in range(h * w):
            row, column = min(max(place // w + down, 0), h - 1), min(max(place % w + right, 0), w - 1)
            assert seen[place] == row * w + column  # at a border, the place itself
        assert weights.max(1).values.min() > 0.95


@torch.no_grad()
def test_what_neighbours_tell_is_found_again():
    generator = torch.Generator().manual_seed(0)
    weights = torch.eye(9)[torch.randperm(9, generator=generator)][None]
    y = torch.randn(16, 8, 9, 5, generator=generator) * torch.tensor([4.0, 2.0, 1.0, 0.5, 0.1])
    own, beside = (
        torch.randn(12, 5, generator=generator),
        torch.randn(12, 2, generator=generator) @ torch.randn(2, 5, generator=generator),
    )
    r = y @ own.T + weights[0] @ y @ beside.T
    components = torch.eye(12)[:, :4]
    found = fit_neighbours(weights, zip(y.split(2), r.split(2), strict=True), components, patterns=8, rank=2)
    torch.testing.assert_close(found.correct(y), r, rtol=0, atol=2e-3 * float(r.std()))
    assert found.readers.shape == (1, 2, 5) and found.patterns.shape == (12, 8)
    torch.testing.assert_close(found.patterns.T @ components, torch.zeros(8, 4), rtol=0, atol=1e-5)


@torch.no_grad()
def test_neighbours_that_tell_nothing_are_left_out():
    generator = torch.Generator().manual_seed(0)
    y, r = torch.randn(16, 2, 9, 5, generator=generator), torch.randn(16, 2, 9, 12, generator=generator)
    found = fit_neighbours(torch.eye(9)[None], zip(y.split(2), r.split(2), strict=True), torch.eye(12)[:, :4], patterns=8, rank=2)
    assert found.correct(y).square().mean() < 0.02 * r.square().mean()
