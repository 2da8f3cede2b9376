"""How a model starts: near its posterior's mean, or from weights trained on shorter clips."""

from collections.abc import Mapping

import torch
from torch import Tensor

from vidtwin.model.config import VidTwinConfig
from vidtwin.model.vidtwin import VidTwin

TO_FRAMES = "structure_decoder.to_frames."
DYNAMICS_MOMENTS = "dynamics_encoder.moments.weight"


def start_low_variance(model: VidTwin, logvar: float) -> None:
    """Let the posterior start near its mean: the bias of the log-variance channels becomes `logvar`."""
    with torch.no_grad():
        for head in (model.structure_encoder.moments, model.dynamics_encoder.moments):
            assert head.bias is not None
            head.bias.chunk(2)[1].fill_(logvar)


def inflated(trained: VidTwin, config: VidTwinConfig) -> Mapping[str, Tensor]:
    """Weights for `config` from a model of the same sizes but for the number of frames.

    Only the map from queries to frames has a size that depends on it: frame t of f takes the row of frame t f_0 // f. After
    single images, the time taps of the Dynamics head that met only padding become zero. So a model trained on images starts on
    video near one that decodes a still clip to itself (exactly so up to its temporal attention).

    Raises:
        ValueError: the configs differ in more than frames; names the fields.
    """
    before, after = trained.config.to_dict(), config.to_dict()
    differing = [key for key in after if key not in ("frames", "query_dropout") and before[key] != after[key]]
    if differing:
        fields = ", ".join(f"{key}={before[key]!r} instead of {after[key]!r}" for key in differing)
        raise ValueError(f"weights to start from have {fields}; only frames may differ")
    rows = torch.arange(config.frames) * trained.config.frames // config.frames
    state = {name: tensor[rows] if name.startswith(TO_FRAMES) else tensor for name, tensor in trained.state_dict().items()}
    if trained.config.frames == 1 < config.frames:
        state[DYNAMICS_MOMENTS] = state[DYNAMICS_MOMENTS] * torch.tensor([0.0, 1.0, 0.0])[:, None]
    return state
