from dataclasses import replace

import pytest
import torch

from tests.conftest import SMALL, seeded_model
from vidtwin import VidTwin, export_released
from vidtwin.frames.clips import Geometry, to_clip
from vidtwin.training.autoencoder import train, untrained
from vidtwin.training.initialize import inflated, start_low_variance, start_on_principal_patches, start_scaled, trained_weights
from vidtwin.video.read.reader import read_clip


@torch.no_grad()
def test_an_image_model_starts_on_video_by_decoding_still_frames_alike():
    image_model = seeded_model(replace(SMALL, frames=1))
    video_model = VidTwin(SMALL).eval()
    video_model.load_state_dict(inflated(image_model, SMALL))
    x = torch.rand(1, 3, 1, 32, 32) * 2 - 1
    still, clip = image_model.encode(x), video_model.encode(x.expand(-1, -1, 16, -1, -1))
    # Frame 0 sees only itself, so its Dynamics are those of the image.
    torch.testing.assert_close(clip.dynamics_x[:, :, 0], still.dynamics_x[:, :, 0])
    u = video_model.u_S(clip)
    assert torch.equal(u, u[:, :, :1].expand_as(u))


@torch.no_grad()
def test_shorter_clips_give_their_rows_to_stretches_of_frames():
    short, long = replace(SMALL, frames=4), SMALL
    model = seeded_model(short)
    state = inflated(model, long)
    weight = model.structure_decoder.to_frames.weight
    assert torch.equal(state["structure_decoder.to_frames.weight"][::4], weight)
    assert torch.equal(state["structure_decoder.to_frames.weight"][3::4], weight)
    assert torch.equal(state["dynamics_encoder.moments.weight"], model.dynamics_encoder.moments.weight)


def test_other_sizes_are_refused_by_name():
    with pytest.raises(ValueError, match="hidden=16 instead of 32; only frames may differ"):
        inflated(seeded_model(), replace(SMALL, hidden=32))


def test_log_variance_starts_where_it_is_told():
    model = VidTwin(SMALL)
    start_low_variance(model, -6.0)
    posterior = model.posterior(torch.zeros(1, *SMALL.clip_shape))
    for logvar in posterior.logvar.tensors:
        assert (logvar + 6).abs().max() < 3


@pytest.fixture
def clips(assets):
    """Two clips of a real video (2, 3, 16, 32, 32) in [-1, 1]."""
    frames = [read_clip(assets / "h264_aac.mp4", first, 16) for first in (0, 20)]
    return torch.stack([to_clip(images, Geometry.plan("crop", images.shape[1:3], (32, 32))) for images in frames])


@torch.no_grad()
def test_principal_patches_give_back_what_their_components_hold(clips):
    config = replace(SMALL, hidden=64)  # 192 values in a patch
    model = VidTwin(config)
    start_on_principal_patches(model, clips)
    space = model.encoder.transformer.space
    tokens = model.encoder.patch_embedding(clips).movedim(1, -1).reshape(-1, 64)
    patches = tokens @ model.decoder.head.linear.weight.T + model.decoder.head.linear.bias

    whole = clips.reshape(2, 3, 16, 4, 8, 4, 8).permute(0, 2, 3, 5, 4, 6, 1).reshape(-1, 192)  # (p q c), as the head gives them
    centred = (whole - whole.mean(0)).double()
    free = 64 - int((torch.linalg.svdvals(space.double()) > 1e-3).sum())
    energy = torch.linalg.svdvals(centred).square()
    missing = (whole - patches).double().square().sum() / energy.sum()
    assert missing == pytest.approx((energy[free:].sum() / energy.sum()).item(), rel=1e-2, abs=1e-6)
    assert tokens.double().square().mean(0).sum() / free == pytest.approx(1, rel=1e-2)
    assert (tokens @ space.T).abs().max() < 1e-3 * tokens.norm(dim=1).max() * space.norm()  # the positions' directions are free


def test_a_scaled_start_lets_clips_differ_in_both_branches(clips):
    torch.manual_seed(0)
    released = VidTwin(SMALL).eval()
    scaled = VidTwin(SMALL).eval()
    scaled.load_state_dict(released.state_dict())
    start_scaled(scaled)

    @torch.no_grad()
    def differences(model):
        latents = model.encode(clips)
        return [(u[0] - u[1]).std().item() for u in (model.u_S(latents), model.u_D(latents))]

    pairs = list(zip(differences(released), differences(scaled), strict=True))
    assert all(after > 2 * before for before, after in pairs), pairs
    for name, parameter in scaled.named_parameters():
        if name.startswith(("encoder", "decoder")):  # the branches alone
            assert torch.equal(parameter, released.get_parameter(name))


def test_a_run_starts_on_principal_patches_or_as_released(recipe, tmp_path):
    states = {}
    for initialization in ("released", "principal"):
        run = tmp_path / initialization
        train(replace(recipe, steps=1, learning_rate=1e-12, initialization=initialization, init_clips=2), run, progress=False)
        states[initialization] = VidTwin.from_pretrained(run / "model")
    torch.manual_seed(recipe.seed)
    expected = VidTwin(recipe.config)
    start_low_variance(expected, recipe.from_scratch_logvar)
    for name, tensor in states["released"].state_dict().items():
        torch.testing.assert_close(tensor, expected.state_dict()[name], rtol=0, atol=1e-9)
    assert not torch.equal(states["principal"].decoder.head.linear.weight, states["released"].decoder.head.linear.weight)


def test_a_run_starts_from_a_folder_or_a_released_file(recipe, tmp_path):
    model = seeded_model(recipe.config)
    model.save_pretrained(tmp_path / "folder")
    export_released(model, tmp_path / "weights.ckpt")
    for name in ("folder", "weights.ckpt"):
        start = untrained(replace(recipe, init_from=str(tmp_path / name)), None)
        for key, tensor in model.state_dict().items():
            assert torch.equal(start.state_dict()[key], tensor), key
    again = untrained(replace(recipe, init_from=str(tmp_path / "folder"), initial_logvar=-3.0), None)
    for moments in (again.structure_encoder.moments, again.dynamics_encoder.moments):
        assert (moments.bias.chunk(2)[1] == -3).all()


def test_a_video_run_goes_on_from_an_image_run(recipe, tmp_path):
    images = replace(recipe, model=recipe.model | {"frames": 1}, steps=2)
    train(images, tmp_path / "images", progress=False)
    plan = replace(recipe, init_from=str(tmp_path / "images" / "model"), steps=2)
    assert train(plan, tmp_path / "videos-run", progress=False).config.frames == 16


def test_weights_to_start_from_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        trained_weights("nowhere", SMALL)
    with pytest.raises(FileNotFoundError, match="nowhere.ckpt"):
        trained_weights(str(tmp_path / "nowhere.ckpt"), SMALL)


def test_ablations_start_from_their_own_frames_only():
    config = replace(SMALL, frames=4, dynamics_branch="none")
    with pytest.raises(ValueError, match="which an ablation cannot take; use the same number"):
        inflated(seeded_model(config), replace(config, frames=16))
