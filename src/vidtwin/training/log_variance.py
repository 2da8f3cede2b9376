"""Log-variances of the posterior in closed form: as much noise in a latent value as the objective allows.

Let the reconstruction loss grow by s_i sigma_i^2 with noise of variance sigma_i^2 in latent value i. With the KL term, of weight
lambda and a mean over M values, the objective is least at

    d/d(sigma_i^2) [s_i sigma_i^2 + lambda / (2 M) (sigma_i^2 - log sigma_i^2)] = 0,  sigma_i^2 = 1 / (1 + 2 M s_i / lambda):

reverse water-filling (Cover and Thomas 2006, Sec. 10.3.3). What the decoder reads finely gets little noise, what it hardly reads
almost that of the prior, and lambda says what a bit is worth. s_i comes from a vector of random signs pulled back through the
decoder: to first order noise e adds w |J e|^2 to the loss, of slope w by squared errors, and E[(J^T w^1/2 v)_i^2] = w |J_i|^2.
"""

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from vidtwin.losses.objective import LossWeights, squared_errors
from vidtwin.model.latents import Latents
from vidtwin.training.compact import CompactTwin
from vidtwin.training.linear.directions import bias_of

FITTED_ON = 16  # clips
ROUNDS = 5
DRAWS = 4  # of random signs
RIDGE = 1e-3  # of the variance of the features that log-variances are read from


def start_fitted_variance(network: CompactTwin, x: Tensor, outside: Tensor, weights: LossWeights, seed: int = 0) -> None:
    """Let the posterior start at the log-variances that suit the objective: one for each channel and query of Structure, and for
    each channel of Dynamics.

    Sensitivities are those at the mean, then, round after round, at draws from the posterior that they led to: a decoder that
    switches between queries minds a large noise where it does not mind a small one.

    Args:
        x: coefficients (N, f, s, k) of some clips. outside: (N, f), their squared errors outside the subspace.
        weights: of the objective; `kl` above 0.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    encoder, features = network.twin.structure_encoder, list[Tensor]()
    with encoder.moments.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0])), torch.no_grad():
        latents = network.posterior(x).mean
    per_slope, found = 2 * network.config.latent_values / weights.kl, []
    for _ in range(ROUNDS):
        found.append(sensitivities(network, latents, x, outside, weights, generator))
        structure, dynamics = (-torch.log1p(per_slope * torch.stack(slopes).mean(0)) for slopes in zip(*found, strict=True))
        with torch.no_grad():
            read_linearly(encoder.moments, features[0], structure)
            if isinstance(moments := getattr(network.twin.dynamics_encoder, "moments", None), nn.Conv2d):
                moments.weight[len(dynamics) :] = 0
                bias_of(moments)[len(dynamics) :] = dynamics
            latents = network.posterior(x).sample(generator)


def sensitivities(
    network: CompactTwin, latents: Latents, x: Tensor, outside: Tensor, weights: LossWeights, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """s at some latents, means over clips: of channels and queries of Structure (d_S, n_q), of channels of Dynamics (d_D,)."""
    config = network.config
    z = latents.map(lambda tensor: tensor.detach().requires_grad_())
    y = network.decode(z).float()
    errors = ((y - x).square().sum((2, 3)).detach() + outside).requires_grad_()
    frames = errors / (3 * config.height * config.width)
    (slope,) = torch.autograd.grad(len(x) * squared_errors(frames, weights)["nll"], errors)  # of a clip's loss
    structure, dynamics = torch.zeros_like(z.structure[0, :, :, 0, 0]), torch.zeros_like(z.dynamics_x[0, :, 0, 0])
    for _ in range(DRAWS):
        signs = torch.randint(0, 2, y.shape, generator=generator) * 2.0 - 1
        pulled = torch.autograd.grad(y, z.tensors, slope.sqrt()[:, :, None, None] * signs, retain_graph=True)
        of_structure, along_x, along_y = (gradient.square() / DRAWS for gradient in pulled)
        structure += reduce(of_structure, "b c n h w -> c n", "mean")
        dynamics += torch.cat([along_x, along_y], -1).mean((0, 2, 3))
    return structure, dynamics


def read_linearly(moments: nn.Conv2d, features: Tensor, logvar: Tensor) -> None:
    """Log-variances (d_S, n_q) as a linear map of features (B n_q, c, h, w), at the convolution's centre tap."""
    d_S, n_q = logvar.shape
    rows = rearrange(features, "(b n) c h w -> (b h w) n c", n=n_q).double()
    mean, target = rows.mean((0, 1)), logvar.mean(1).double()
    centred, wanted = rows - mean, (logvar.T.double() - target).expand(len(rows), -1, -1)
    count = len(rows) * n_q
    products, across = (torch.einsum("pnc,pnd->cd", centred, other) / count for other in (centred, wanted))
    ridge = RIDGE * products.diagonal().mean() * torch.eye(len(products), dtype=torch.float64)
    weight = torch.linalg.solve(products + ridge, across).T
    moments.weight[d_S:] = 0
    moments.weight[d_S:, :, 1, 1] = weight.float()
    bias_of(moments)[d_S:] = (target - weight @ mean).float()
