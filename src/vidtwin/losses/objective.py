"""The objective: tensors in, named scalars out (paper Sec. 3.6: L_rec + lambda_p L_perceptual + lambda_GAN L_GAN + lambda_KL L_KL).

Two scalings of the same terms. "element": every term is a mean, over pixels and colours or over latent values, so that weights do
not depend on sizes. "released": as in the released code, the reconstruction is summed over the 3 H W values of a frame and averaged
over frames, the KL is summed over the latents of a clip and averaged over clips; 3 H W = 150,528 at 224 x 224. The named terms
are per element in both; only `total` is scaled.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vidtwin.losses.discriminator import LeCam, hinge_loss
from vidtwin.model.latents import Posterior

ADAPTIVE_LIMIT = 1e4  # as released
LOG_FLOOR = 4e-3  # of a frame's mean squared error: 30 dB, beyond which it counts less and less


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of `autoencoder_loss`, and how they are scaled (see the head of the file).

    Those from `swap` on are of `losses.apart`, and are never scaled. swap_targets: whether targets of a swap get gradients.
    """

    l1: float = 1.0
    l2: float = 0.0
    log: float = 0.0
    perceptual: float = 0.0
    kl: float = 1e-4
    scaling: Literal["element", "released"] = "element"
    swap: float = 0.0
    swap_targets: Literal["fixed", "free"] = "fixed"
    consistency: float = 0.0
    decorrelation: float = 0.0
    frozen: float = 0.0


def autoencoder_loss(
    x: Tensor,
    x_hat: Tensor,
    posterior: Posterior,
    weights: LossWeights,
    *,
    perceptual: Tensor | None = None,
    logvar: Tensor | None = None,
    adversarial: "Adversarial | None" = None,
) -> dict[str, Tensor]:
    """Losses of the generator (encoder, branches, decoder), as scalars; `total` is the one to minimise.

    Args:
        x, x_hat: clips (B, 3, F, H, W), x in [-1, 1].
        perceptual: distance of each frame, (B F,).
        logvar: s, a learned scalar: the likelihood of an error r is Laplacian of scale exp(s), so that `nll` is r / exp(s) + s.
            None is s = 0.
        adversarial: what the discriminator says of x_hat; None before it takes part.

    Returns:
        `total`, and per element: `l1` |x - x_hat|, `l2` (x - x_hat)^2, `perceptual` (if given), `nll` of their weighted sum; `kl`
        in nats per latent value, `kl_structure` and `kl_dynamics` the same for each latent; `adversarial` -mean D(x_hat) and
        `adversarial_weight` (if given).
    """
    difference = x_hat - x
    losses = {"l1": difference.abs().mean(), "l2": difference.square().mean()}
    reconstruction = weights.l1 * losses["l1"] + weights.l2 * losses["l2"]
    if weights.log:
        losses["log"] = log_error(difference.square().mean((1, 3, 4)))
        reconstruction = reconstruction + weights.log * losses["log"]
    if perceptual is not None:
        losses["perceptual"] = perceptual.mean()
        reconstruction = reconstruction + weights.perceptual * losses["perceptual"]
    losses["nll"] = reconstruction if logvar is None else reconstruction / logvar.exp() + logvar

    losses |= kl_per_value(posterior)

    if weights.scaling == "released":
        colours, _, height, width = x.shape[1:]
        nll = colours * height * width * losses["nll"]
        total = nll + weights.kl * losses["kl"] * posterior_values(posterior)
    else:
        nll = losses["nll"]
        total = nll + weights.kl * losses["kl"]
    if adversarial is not None:
        losses["adversarial"] = -adversarial.logits_fake.mean()
        losses["adversarial_weight"] = adversarial.weight_of(nll, losses["adversarial"])
        total = total + losses["adversarial_weight"] * losses["adversarial"]
    return losses | {"total": total}


def squared_error_loss(errors: Tensor, posterior: Posterior, weights: LossWeights) -> dict[str, Tensor]:
    """`autoencoder_loss` from the mean squared errors of frames (B, F) alone: with l2, log and kl.

    Returns:
        `total`, and per element `l2`, `log` (if it has a weight), `nll`, `kl`, `kl_structure` and `kl_dynamics`.
    """
    losses = squared_errors(errors, weights) | kl_per_value(posterior)
    return losses | {"total": losses["nll"] + weights.kl * losses["kl"]}


def squared_errors(errors: Tensor, weights: LossWeights) -> dict[str, Tensor]:
    """The reconstruction's part of `squared_error_loss`: `l2`, `log` (if it has a weight), and `nll`, their weighted sum."""
    losses = {"l2": errors.mean()}
    losses["nll"] = weights.l2 * losses["l2"]
    if weights.log:
        losses["log"] = log_error(errors)
        losses["nll"] = losses["nll"] + weights.log * losses["log"]
    return losses


def posterior_values(posterior: Posterior) -> int:
    """Latent values of a clip."""
    return sum(tensor[0].numel() for tensor in posterior.mean.tensors)


def log_error(errors: Tensor) -> Tensor:
    """Mean of log(e + LOG_FLOOR) of the mean squared errors e of frames: follows the mean PSNR, up to about 30 dB."""
    return (errors + LOG_FLOOR).log().mean()


def kl_per_value(posterior: Posterior) -> dict[str, Tensor]:
    """Nats per latent value: `kl` of all, `kl_structure` and `kl_dynamics` of each latent."""
    parts = posterior.kl_parts()
    values = {name: tensor[0].numel() for name, tensor in zip(parts, posterior.mean.tensors, strict=True)}
    kl = {name: part.mean() for name, part in parts.items()}  # of a clip
    return {
        "kl": torch.stack(list(kl.values())).sum() / posterior_values(posterior),
        "kl_structure": kl["structure"] / values["structure"],
        "kl_dynamics": (kl["dynamics_x"] + kl["dynamics_y"]) / max(1, values["dynamics_x"] + values["dynamics_y"]),
    }


@dataclass(frozen=True)
class Adversarial:
    """The adversarial term of the generator: `weight` * -mean D(x_hat), with an adaptive weight if `last_layer` is given.

    Attributes:
        logits_fake: D(x_hat), with a graph to x_hat and none to D's weights.
        last_layer: weight of the decoder's last linear map; the adaptive weight (VQGAN, arXiv 2012.09841, Eq. 7) is
            `weight` * clamp(|d nll / d last_layer| / (|d adversarial / d last_layer| + 1e-4), 0, 1e4).
        mean: average of a tensor over processes, so that the weight is the same on all of them.
        scale: of the loss in float16, in which gradients would vanish without.
    """

    logits_fake: Tensor
    weight: float
    last_layer: Tensor | None = None
    mean: Callable[[Tensor], Tensor] = lambda tensor: tensor
    scale: float = 1.0

    def weight_of(self, nll: Tensor, loss: Tensor) -> Tensor:
        """The factor of the adversarial term, without a graph."""
        if self.last_layer is None:
            return torch.full_like(loss.detach(), self.weight)
        norms = [
            torch.linalg.vector_norm(self.mean(torch.autograd.grad(term * self.scale, self.last_layer, retain_graph=True)[0]))
            / self.scale
            for term in (nll, loss)
        ]
        return (norms[0] / (norms[1] + 1e-4)).clamp(0, ADAPTIVE_LIMIT) * self.weight


def discriminator_loss(real: Tensor, fake: Tensor, lecam: LeCam | None = None, lecam_weight: float = 0.0) -> dict[str, Tensor]:
    """Losses of the discriminator from its logits of x and of x_hat (detached), as scalars; `total` is the one to minimise.

    Returns `total`, `hinge`, `logits_real` and `logits_fake` (means), and `lecam` if it takes part.
    """
    losses = {"hinge": hinge_loss(real, fake)}
    total = losses["hinge"]
    if lecam is not None:
        losses["lecam"] = lecam(real, fake)
        total = total + lecam_weight * losses["lecam"]
    means = {"logits_real": real.detach().mean(), "logits_fake": fake.detach().mean()}
    return losses | means | {"total": total}


def bits(nats: float) -> float:
    """Nats -> bits."""
    return nats / math.log(2)
