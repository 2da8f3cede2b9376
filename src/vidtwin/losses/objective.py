"""The autoencoder's objective: tensors in, named scalars out (paper Sec. 3.6, Eq. of L; here L_rec and L_KL)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vidtwin.model.latents import Posterior


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of `autoencoder_loss`; each term is a mean per element, so weights do not depend on sizes."""

    l1: float = 1.0
    l2: float = 0.0
    kl: float = 1e-4


def autoencoder_loss(x: Tensor, x_hat: Tensor, posterior: Posterior, weights: LossWeights) -> dict[str, Tensor]:
    """Named scalars: `total` = l1 |x - x_hat| + l2 (x - x_hat)^2 + kl KL, and the unweighted terms.

    `l1`, `l2`: means over every pixel and colour of the batch, x in [-1, 1]. `kl`: nats per latent value, with
    `kl_structure` and `kl_dynamics` the same for each latent alone.
    """
    difference = x_hat - x
    parts = posterior.kl_parts()
    values = {name: tensor[0].numel() for name, tensor in zip(parts, posterior.mean.tensors, strict=True)}
    kl = {name: part.mean() for name, part in parts.items()}
    losses = {
        "l1": difference.abs().mean(),
        "l2": difference.square().mean(),
        "kl": torch.stack(list(kl.values())).sum() / sum(values.values()),
        "kl_structure": kl["structure"] / values["structure"],
        "kl_dynamics": (kl["dynamics_x"] + kl["dynamics_y"]) / (values["dynamics_x"] + values["dynamics_y"]),
    }
    total = weights.l1 * losses["l1"] + weights.l2 * losses["l2"] + weights.kl * losses["kl"]
    return {"total": total} | losses
