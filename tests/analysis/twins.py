"""A model whose latents hold exactly what they should, for analyses to find."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from vidtwin import Latents, Posterior


class Twin(nn.Module):
    """S is a clip's mean picture, D what each row adds to it in each frame; log-variances are 0."""

    def __init__(self):
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(latent_values=0)

    def posterior(self, x: Tensor) -> Posterior:
        S = x.mean(2, keepdim=True)
        y = (x - S).mean(-1)
        latents = Latents(S, y.new_zeros(*y.shape[:3], 1), y)
        return Posterior(latents, latents.map(torch.zeros_like))

    def decode(self, latents: Latents) -> Tensor:
        return latents.structure + latents.dynamics_y[..., None]


def twin_clips(count: int = 6, frames: int = 8, side: int = 6, seed: int = 0) -> Tensor:
    """Clips that a Twin gives back exactly, (N, 3, F, side, side): the more movement the later."""
    rng = np.random.default_rng(seed)
    S = rng.uniform(-0.5, 0.5, (count, 3, 1, side, side))
    D = rng.uniform(-0.2, 0.2, (count, 3, frames, side, 1)) * (1 + np.arange(count) / count).reshape(-1, 1, 1, 1, 1)
    return torch.from_numpy(S + D - D.mean(2, keepdims=True)).float()


def codes_rows(S: np.ndarray, D: np.ndarray) -> Posterior:
    """A posterior whose means have these rows, (N, values) each."""
    latents = Latents(
        *(torch.from_numpy(rows).float() for rows in (S[:, :, None, None, None], D[:, :, None, None], D[:, :0, None, None]))
    )
    return Posterior(latents, latents.map(torch.zeros_like))
