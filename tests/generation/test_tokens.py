"""Packing: exact both ways, for every preset of autoencoders and generators, and where patches do not divide."""

import pytest
import torch

from vidtwin import NormalizedLatents
from vidtwin.generation.config import GENERATORS, DiTConfig, generator_preset
from vidtwin.generation.tokens import Patches, to_latents, to_volumes
from vidtwin.model.config import PRESETS, VidTwinConfig


def latents_of(config: VidTwinConfig, batch: int = 2) -> NormalizedLatents:
    torch.manual_seed(0)
    return NormalizedLatents(*(torch.randn(batch, *shape) for shape in config.latent_shapes))


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("autoencoder", PRESETS)
def test_a_round_trip_is_exact(autoencoder, generator):
    latents = latents_of(PRESETS[autoencoder])
    config = generator_preset(generator).of_latents(PRESETS[autoencoder])
    volumes = to_volumes(latents)
    tokens = [patches.pack(volume) for patches, volume in zip(config.patches, volumes, strict=True)]
    assert [t.shape[1:] for t in tokens] == [(p.count, p.values) for p in config.patches]
    back = [patches.unpack(t) for patches, t in zip(config.patches, tokens, strict=True)]
    found = to_latents((back[0], back[1]), config.dynamics[2])
    for a, b in zip(found.tensors, latents.tensors, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("patch", [(1, 1, 1), (2, 2, 2), (3, 4, 5), (16, 9, 9), (100, 1, 1)])
def test_sides_that_patches_do_not_divide_are_filled_up_and_cut_away(patch):
    volume = torch.randn(2, 3, 5, 7, 4)
    patches = Patches(3, (5, 7, 4), patch)
    tokens = patches.pack(volume)
    assert tokens.shape == (2, patches.count, patches.values)
    assert torch.equal(patches.unpack(tokens), volume)
    assert tokens.square().sum() == pytest.approx(volume.square().sum().item())  # what is filled up is 0


def test_a_token_is_a_block_of_the_volume():
    volume = torch.arange(2 * 4 * 4 * 6).reshape(1, 2, 4, 4, 6).float()
    token = Patches(2, (4, 4, 6), (2, 2, 3)).pack(volume)[0, 1 * 4 + 0 * 2 + 1]  # place (1, 0, 1)
    assert torch.equal(token.reshape(2, 2, 2, 3), volume[0, :, 2:4, 0:2, 3:6])


def test_dynamics_is_a_video_of_one_frame_height_axis_first():
    latents = latents_of(VidTwinConfig(height=32, width=64))
    _, dynamics = to_volumes(latents)
    (d_D, f, w_D), h_D = latents.dynamics_x.shape[1:], latents.dynamics_y.shape[-1]
    assert dynamics.shape == (2, d_D, 1, f, h_D + w_D) and h_D != w_D
    assert torch.equal(dynamics[:, :, 0, :, :h_D], latents.dynamics_y)
    assert torch.equal(dynamics[:, :, 0, :, h_D:], latents.dynamics_x)


def test_latents_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"latents of shape \(2, 3, 5, 7, 5\): expected \(B, 3, 5, 7, 4\)"):
        Patches(3, (5, 7, 4), (1, 1, 1)).pack(torch.zeros(2, 3, 5, 7, 5))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden": 100, "heads": 3}, "hidden=100: must be a multiple of heads=3"),
        ({"dynamics_patch": [2, 1, 1]}, "dynamics_patch=(2, 1, 1): Dynamics is a video of one frame; begin with 1"),
        ({"structure_patch": [0, 1, 1]}, "structure_patch=(0, 1, 1): must be 3 whole numbers of at least 1"),
        ({"depth": 0}, "depth=0: must be a whole number from 1"),
        ({"deep": 3}, "unknown key deep; the nearest known one is depth"),
    ],
)
def test_bad_sizes_are_refused_with_a_remedy(fields, message):
    with pytest.raises(ValueError) as error:
        DiTConfig.from_dict(fields)
    assert str(error.value).startswith(message)


def test_a_config_survives_json():
    config = generator_preset("tiny").of_latents(PRESETS["tiny"])
    assert DiTConfig.from_dict(config.to_dict()) == config


def test_latents_without_dynamics_are_refused():
    with pytest.raises(ValueError, match="has no Dynamics"):
        generator_preset("tiny").of_latents(VidTwinConfig(dynamics_branch="none"))
