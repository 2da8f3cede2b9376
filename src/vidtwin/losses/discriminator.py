"""PatchGAN discriminators and what they are trained with: hinge losses (Lim & Ye 2017) and LeCam regularisation.

Letters: B clips of F frames of H x W pixels.
"""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as nnf
from einops import rearrange
from torch import Tensor, nn

Norm = Literal["batch", "group"]


class PatchGAN(nn.Module):
    """Real or fake, for each patch: clip (B, 3, F, H, W) -> logits (B F, 1, h', w') in 2-D, (B, 1, f', h', w') in 3-D.

    2-D (as released; pix2pix, arXiv 1611.07004) judges frames: a 4 x 4 convolution of stride 2, `layers` - 1 more of them with
    norms, one of stride 1, and one to a single channel; leaky ReLU 0.2 between them. 224 x 224 gives 26 x 26 logits, each of which
    sees 70 x 70 pixels. 3-D judges space-time patches: the same with 3 x 3 x 3 kernels, of which the first two halve time too.

    `norm`: "batch" as released, whose result depends on which clips share a batch and a process; "group" (32 channels or fewer to
    a group) does not. Weights start as N(0, 0.02), those of norms as N(1, 0.02).
    """

    def __init__(self, dims: int = 2, norm: Norm = "batch", width: int = 64, layers: int = 3):
        super().__init__()
        self.dims = dims
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        blocks: list[nn.Module] = [self._conv(3, width, stride=2, depth=0), nn.LeakyReLU(0.2)]
        for i, (before, after) in enumerate(pairwise(widths), 1):
            blocks += [self._conv(before, after, stride=2 if i < layers else 1, depth=i, bias=False)]
            blocks += [_norm(norm, dims, after), nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*blocks, self._conv(widths[-1], 1, stride=1, depth=layers + 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d | nn.GroupNorm):
                nn.init.normal_(module.weight, mean=1.0, std=0.02)

    def _conv(self, before: int, after: int, stride: int, depth: int, bias: bool = True) -> nn.Module:
        if self.dims == 2:
            return nn.Conv2d(before, after, 4, stride, padding=1, bias=bias)
        return nn.Conv3d(before, after, 3, (stride if depth < 2 else 1, stride, stride), padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(rearrange(x, "b c f h w -> (b f) c h w") if self.dims == 2 else x)


def _norm(kind: Norm, dims: int, channels: int) -> nn.Module:
    if kind == "group":
        return nn.GroupNorm(max(1, channels // 32), channels)
    return nn.BatchNorm2d(channels) if dims == 2 else nn.BatchNorm3d(channels)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """(mean relu(1 - D(x)) + mean relu(1 + D(x_hat))) / 2."""
    return 0.5 * (nnf.relu(1 - real).mean() + nnf.relu(1 + fake).mean())


class LeCam(nn.Module):
    """Regularisation of the discriminator for little data (Tseng et al., arXiv 2104.03310, Eq. 3).

    Mean of relu(D(x) - a_fake)^2 + mean of relu(a_real - D(x_hat))^2, where a_real and a_fake are running means of the logits.
    (In the paper's Eq. 3 the squares have no relu; its published code and VidTok's have it, and so have we.)
    """

    real: Tensor
    fake: Tensor

    def __init__(self, decay: float = 0.999):
        super().__init__()
        self.decay = decay
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        return nnf.relu(real - self.fake).square().mean() + nnf.relu(self.real - fake).square().mean()

    @torch.no_grad()
    def update(self, real_mean: Tensor | float, fake_mean: Tensor | float) -> None:
        """Move the running means towards those of a step (over all processes)."""
        self.real.lerp_(torch.as_tensor(real_mean).to(self.real), 1 - self.decay)
        self.fake.lerp_(torch.as_tensor(fake_mean).to(self.fake), 1 - self.decay)
