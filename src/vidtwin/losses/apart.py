"""Terms that train the two latents to be apart; all are off by default (`LossWeights`).

Letters: B clips; `encode` takes clips, or coefficients of them, to their posterior, `decode` takes latents back. Distances between
latents are shares of their variance in the batch, 1 - R^2 as `vidtwin analyze` states it for swaps, so that small latents are not
nearer than large ones; a batch of one clip has no variance, and its distance is 0.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vidtwin.losses.objective import LossWeights, kl_per_value
from vidtwin.model.latents import Latents, Posterior

TERMS = ("swap", "consistency", "decorrelation", "frozen")  # fields of LossWeights
Encode = Callable[[Tensor], Posterior]
Decode = Callable[[Latents], Tensor]


def apart_losses(
    weights: LossWeights, x: Tensor, x_hat: Tensor, posterior: Posterior, encode: Encode, decode: Decode
) -> dict[str, Tensor]:
    """The terms that have a weight, by name. Each encodes once more; "swap" decodes as well.

    Args:
        x, x_hat, posterior: of a pass; x with frames on axis 2, (B, 3, F, H, W), or coefficients (B, f, s, k), on axis 1.
    """
    losses, z = {}, posterior.mean
    if weights.swap:
        losses["swap"] = swap_consistency(z, encode, decode, weights.swap_targets == "fixed")
    if weights.consistency:
        losses["consistency"] = latent_consistency(z, encode(x_hat).mean)
    if weights.decorrelation:
        losses["decorrelation"] = decorrelation(z)
    if weights.frozen:
        losses["frozen"] = frozen_price(x, encode)
    return losses


def swap_consistency(z: Latents, encode: Encode, decode: Decode, fixed: bool = True) -> Tensor:
    """d(S', S_i) + d(D', D_j) of (S', D') = E(D(S_i, D_j)), j the clip after i in the batch, the first after the last.

    Both latents must come back from a clip that mixes two. `fixed` targets get no gradient: then the model learns to decode and
    encode what it holds, but does not change what it holds to suit. The cross-driven clips of Bitrate-Controlled Diffusion (arXiv
    2509.08376) follow the same thought, content of one and motion of another.
    """
    wanted = Latents(z.structure, z.dynamics_x.roll(-1, 0), z.dynamics_y.roll(-1, 0))
    return _distance(wanted, encode(decode(wanted)).mean, fixed)


def latent_consistency(z: Latents, again: Latents) -> Tensor:
    """d(S', S) + d(D', D) of (S', D') = E(x_hat), `again`: a reconstruction has the latents of its clip.

    The latent consistency of H3AE (arXiv 2504.10567). The target gets no gradient.
    """
    return _distance(z, again, True)


def decorrelation(z: Latents) -> Tensor:
    """Mean square of the correlations between Structure's values and Dynamics' channels at the same place.

    Samples are the clips and columns of dynamics_x, beside Structure's mean over rows there, and the clips and rows of dynamics_y.
    Dynamics is its mean over frames, where it can repeat what Structure says. Barlow Twins (arXiv 2103.03230) lowers such terms
    between the values of two views; here they are of the two latents of a clip. N independent samples have 1 / (N - 1).
    """
    S = z.structure.flatten(1, 2)  # (B, d_S n_q, h_S, w_S)
    pairs = ((S.mean(2), z.dynamics_x.mean(2)), (S.mean(3), z.dynamics_y.mean(2)))
    shared = ((F.adaptive_avg_pool1d(structure, dynamics.shape[2]), dynamics) for structure, dynamics in pairs)
    squares = [_correlations(structure, dynamics).square().mean() for structure, dynamics in shared]
    return torch.stack(squares).mean()


def frozen_price(x: Tensor, encode: Encode) -> Tensor:
    """KL of Dynamics, nats per value, of clips whose frames are all the first one: what does not move should cost it nothing.

    An information bottleneck on motion alone (compare Bitrate-Controlled Diffusion, arXiv 2509.08376, which bounds the bits of all
    motion); `vidtwin analyze` states the same as the bits of frozen clips.
    """
    first = x[:, :, :1] if x.ndim == 5 else x[:, :1]
    return kl_per_value(encode(first.expand_as(x)))["kl_dynamics"]


def _distance(target: Latents, found: Latents, fixed: bool) -> Tensor:
    """1 - R^2 of Structure plus that of Dynamics; the variance gets no gradient, nor do `fixed` targets."""
    total = torch.zeros((), device=target.structure.device)
    for names in (("structure",), ("dynamics_x", "dynamics_y")):
        a, b = (torch.cat([getattr(z, name).float().flatten(1) for name in names], 1) for z in (target, found))
        a = a.detach() if fixed else a
        variance = (a - a.mean(0)).detach().square().sum()
        if len(a) > 1 and a.numel():
            total = total + (b - a).square().sum() / variance.clamp(min=1e-6)
    return total


def _correlations(a: Tensor, b: Tensor) -> Tensor:
    """Of channels (B, C, n) with channels (B, D, n) over clips and places: (C, D)."""
    a, b = (y.float().transpose(1, 2).flatten(0, 1) for y in (a, b))
    a, b = ((y - y.mean(0)) / (y.var(0, correction=0) + 1e-6).sqrt() for y in (a, b))
    return a.T @ b / len(a)
