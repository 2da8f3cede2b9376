from dataclasses import replace

import pytest
import torch

from tests.conftest import SMALL, seeded_model
from vidtwin import VidTwin
from vidtwin.training.initialize import inflated, start_low_variance


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
