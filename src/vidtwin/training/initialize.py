"""How a model starts: near its posterior's mean, on the principal components of patches, or from trained weights."""

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn

from vidtwin.model.config import VidTwinConfig
from vidtwin.model.hub import find_weights
from vidtwin.model.qformer import QFormer
from vidtwin.model.vidtwin import VidTwin

TO_FRAMES = "structure_decoder.to_frames."
DYNAMICS_MOMENTS = "dynamics_encoder.moments.weight"


def start_low_variance(model: VidTwin, logvar: float) -> None:
    """Let the posterior start near its mean: the bias of the log-variance channels becomes `logvar`."""
    with torch.no_grad():
        for name, bias in model.named_parameters():
            if name.endswith("_encoder.moments.bias"):
                bias.chunk(2)[1].fill_(logvar)


def start_scaled(model: VidTwin) -> None:
    """Let both branches start by keeping the variance of what passes: He for maps into ReLU, Xavier inside Q-Formers, zero bias.

    The released start (torch's defaults, N(0, 0.02) in the Q-Former) shrinks a clip's share of its latents so far that the first
    hundreds of steps only undo it.
    """
    for branch in (model.structure_encoder, model.structure_decoder, model.dynamics_encoder, model.dynamics_decoder):
        inside = {id(m) for q in branch.modules() if isinstance(q, QFormer) for m in q.modules()}
        for module in branch.modules():
            if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
                continue
            if id(module) in inside:
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)


@torch.no_grad()
def start_on_principal_patches(model: VidTwin, clips: Tensor) -> None:
    """Let both maps between pixels and tokens start on the principal components of the patches of `clips` (N, 3, F, H, W).

    The patch embedding gives each patch's first components, scaled so that a token's values have unit mean square and falling
    variances (the square root of the components'), in directions that the spatial position table leaves free; the decoder's last
    map takes them back to pixels. Gradient descent finds this subspace too, but on small budgets spends most of its steps on it.
    """
    config = model.config
    p, grid = config.patch, dict(zip("hw", config.grid, strict=True))
    patches = rearrange(clips, "n c f (h p) (w q) -> (n f h w) (c p q)", **grid, p=p, q=p).double()
    mean = patches.mean(0)
    variances, components = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))  # ascending
    _, strengths, directions = torch.linalg.svd(model.encoder.transformer.space.double())  # (s, c) -> rows of (c, c)
    free = directions[int((strengths > 1e-3).sum()) :]  # (k, c), orthonormal
    count = min(len(free), int((variances > 1e-10).sum()))
    free, basis, deviations = free[:count], components.flip(1)[:, :count], variances.flip(0)[:count].sqrt()
    gains = deviations.sqrt() / deviations.mean().sqrt() / deviations  # of components in a token

    to_token = free.T @ (gains[:, None] * basis.T)  # (c, 3 p p)
    to_patch = (basis / gains) @ free  # (3 p p, c)
    embedding, head = model.encoder.patch_embedding, model.decoder.head
    assert embedding.bias is not None
    embedding.weight.copy_(rearrange(to_token, "o (c p q) -> o c 1 p q", c=3, p=p))
    embedding.bias.copy_(-to_token @ mean)
    head.linear.weight.copy_(rearrange(to_patch, "(c p q) o -> (p q c) o", c=3, p=p))
    head.linear.bias.copy_(rearrange(mean, "(c p q) -> (p q c)", c=3, p=p))
    head.modulation.zero_()


def trained_weights(name: str, config: VidTwinConfig) -> VidTwin:
    """A model of `config` from weights to start from: a shipped name, a folder, a hub id, or a file in Microsoft's layout.

    Raises:
        FileNotFoundError, ValueError: as `VidTwin.from_pretrained`, `load_released` and `inflated`.
    """
    path = find_weights(name)
    trained = VidTwin.from_pretrained(path, config=config)
    if path.is_file():
        return trained
    model = VidTwin(config)
    model.load_state_dict(inflated(trained, config))
    return model


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
    branches = config.structure_branch, config.dynamics_branch
    if trained.config.frames != config.frames and branches != ("qformer", "average"):
        raise ValueError("weights to start from have another number of frames, which an ablation cannot take; use the same number")
    rows = torch.arange(config.frames) * trained.config.frames // config.frames
    state = {name: tensor[rows] if name.startswith(TO_FRAMES) else tensor for name, tensor in trained.state_dict().items()}
    if trained.config.frames == 1 < config.frames:
        state[DYNAMICS_MOMENTS] = state[DYNAMICS_MOMENTS] * torch.tensor([0.0, 1.0, 0.0])[:, None]
    return state
