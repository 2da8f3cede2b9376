"""A space-time block for training: what scales and shifts tokens is folded into the weights of the maps beside it.

W (x (1 + scale) + shift) + b = W' x + b' with W' = W diag(1 + scale), b' = W shift + b, and gate (W x + b) = (gate W) x + gate b:
products of weights instead of tokens, and so are their gradients. Attention is two products, faster on a CPU for the short
sequences of one frame or place than the fused kernel, which is made for long ones.
"""

import torch
import torch.nn.functional as nnf
from einops import rearrange
from torch import Tensor, nn

from vidtwin.model.backbone import NORM_EPS, Attention, SpaceTimeBlock


class FoldedBlock(SpaceTimeBlock):
    """The numbers of `SpaceTimeBlock` but for rounding, at a fraction of the memory traffic; without gradients, just that block."""

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x, time)
        f, b = x.shape[:2]
        shift_attention, scale_attention, gate_attention, shift_mlp, scale_mlp, gate_mlp = self.modulation

        y = rearrange(norm(x), "f b s c -> (f b) s c")
        qkv = modulated(self.spatial_attention.qkv, y, shift_attention, scale_attention)
        y = attention(self.spatial_attention, qkv, gate_attention)
        x = x + rearrange(y, "(f b) s c -> f b s c", f=f)

        y = rearrange(x if time is None else x + time[:, None, None], "f b s c -> (b s) f c")
        y = attention(self.temporal_attention, self.temporal_attention.qkv(y), gate_attention)
        x = x + rearrange(y, "(b s) f c -> f b s c", b=b)

        y = nnf.gelu(modulated(self.mlp.fc1, norm(x), shift_mlp, scale_mlp), approximate="tanh")
        return x + gated(self.mlp.fc2, y, gate_mlp)


def norm(x: Tensor) -> Tensor:
    return nnf.layer_norm(x, x.shape[-1:], eps=NORM_EPS)


def modulated(layer: nn.Linear, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """layer(x (1 + scale) + shift)."""
    return nnf.linear(x, layer.weight * (1 + scale), (layer.weight * shift).sum(1) + layer.bias)


def gated(layer: nn.Linear, x: Tensor, gate: Tensor) -> Tensor:
    """gate layer(x)."""
    return nnf.linear(x, gate[:, None] * layer.weight, gate * layer.bias)


def attention(of: Attention, qkv: Tensor, gate: Tensor) -> Tensor:
    """gate of(x), from qkv(x) (b, l, 3 c)."""
    q, k, v = rearrange(qkv, "b l (three n d) -> three (b n) l d", three=3, n=of.heads)
    return gated(of.proj, rearrange(attend(q, k, v, of.causal), "(b n) l d -> b l (n d)", n=of.heads), gate)


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Scaled dot-product attention, (b, l, d) each; softmax reads and writes their dtype and computes in float32."""
    scores = torch.baddbmm(q.new_zeros(1), q, k.transpose(-2, -1), beta=0, alpha=q.shape[-1] ** -0.5)
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    return scores.softmax(-1) @ v
