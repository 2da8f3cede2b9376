"""The space-time transformer backbone: clip x -> feature z (Encoder), feature u -> clip x_hat (Decoder).

Letters: B batch, C colours (3), F frames, H x W pixels, p patch, (f, h, w) feature grid with f = F, s = h w tokens a frame,
c hidden width, n attention heads, d = c / n. Paper Sec. 3.2; block order as in the released code (STDiT): see `SpaceTimeBlock`.

The residual stream, the norms, the modulation and the position tables are float32 (float64 in a float64 model); matrix products
are in the dtype of the layers' weights, or in autocast's.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

NORM_EPS = 1e-6
TOKENS = 1024  # at a time on a CPU, when nothing is kept for gradients


def sincos(positions: Tensor, channels: int) -> Tensor:
    """(n,) positions -> (n, channels): all sines then all cosines, frequencies 10000^(-2 i / channels)."""
    frequencies = 10000.0 ** (-torch.arange(channels // 2, dtype=torch.float64) / (channels / 2))
    angles = torch.outer(positions.to(torch.float64), frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def spatial_positions(h: int, w: int, c: int) -> Tensor:
    """(h w, c), row-major: the first c / 2 channels tell the column, the last c / 2 the row. float64."""
    row, column = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.cat([sincos(column.flatten(), c // 2), sincos(row.flatten(), c // 2)], dim=1)


def temporal_positions(f: int, c: int) -> Tensor:
    """(f, c). float64."""
    return sincos(torch.arange(f), c)


def in_product_dtype(x: Tensor, layer: nn.Module) -> Tensor:
    """x as `layer` multiplies it: in the dtype of its weights; under autocast, which casts by itself, as it is."""
    weight = getattr(layer, "weight", x)  # some layers are left out in training on coefficients
    return x if autocasts(x.device) else x.to(weight.dtype)


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on there; it does not know the meta device."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


class Attention(nn.Module):
    """Multi-head self-attention of b sequences; (b, l, c) -> the same."""

    def __init__(self, c: int, heads: int, causal: bool = False):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(c, 3 * c)
        self.proj = nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(in_product_dtype(x, self.qkv)), "b l (three n d) -> three b n l d", three=3, n=self.heads)
        y = nnf.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.proj(rearrange(y, "b n l d -> b l (n d)"))


class MLP(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.fc1 = nn.Linear(c, 4 * c)
        self.fc2 = nn.Linear(4 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nnf.gelu(self.fc1(in_product_dtype(x, self.fc1)), approximate="tanh"))

    def hidden(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """What makes the hidden layer of tokens, without gradients: GELU in place, or in the product itself where oneDNN can
        (bfloat16 on a CPU), for which autocast's weights are cast once."""
        dtype = torch.get_autocast_dtype(device.type) if autocasts(device) else self.fc1.weight.dtype
        if dtype == torch.bfloat16 and fuses_gelu(device):
            weight, bias = self.fc1.weight.to(dtype), self.fc1.bias.to(dtype)
            return lambda x: torch.ops.mkldnn._linear_pointwise(x.to(dtype), weight, bias, "gelu", [], "tanh")
        return lambda x: torch.ops.aten.gelu_(self.fc1(in_product_dtype(x, self.fc1)), approximate="tanh")


def fuses_gelu(device: torch.device) -> bool:
    """Whether oneDNN has a bfloat16 product with GELU on this machine."""
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without parameters of its own, then scale and shift: (..., c) -> the same."""
    return nnf.layer_norm(x, x.shape[-1:], eps=NORM_EPS) * (1 + scale) + shift


def modulated_norm_once(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """The same in one pass over x. Its gradients round more than those of the three steps: for inference only."""
    return nnf.layer_norm(x, x.shape[-1:], 1 + scale, shift, eps=NORM_EPS)


class SpaceTimeBlock(nn.Module):
    """Attention within each frame, then along time at each place, then an MLP; (f, B, s, c) -> the same.

    With frames first, the tokens of a frame are as little copied as those of a place, whatever the batch.

    As in the released model, temporal attention reads the raw residual stream (no norm, no modulation) and shares the gate of
    spatial attention; `time`, the temporal position table, is given to the first block only and does not enter the residual.
    """

    def __init__(self, c: int, heads: int, causal: bool):
        super().__init__()
        self.modulation = nn.Parameter(torch.empty(6, c))
        nn.init.normal_(self.modulation, std=c**-0.5)
        self.spatial_attention = Attention(c, heads)
        self.temporal_attention = Attention(c, heads, causal)
        self.mlp = MLP(c)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        f, b = x.shape[:2]
        shift_attention, scale_attention, gate_attention, shift_mlp, scale_mlp, gate_mlp = self.modulation

        y = rearrange(modulated_norm(x, shift_attention, scale_attention), "f b s c -> (f b) s c")
        x = x + gate_attention * rearrange(self.spatial_attention(y), "(f b) s c -> f b s c", f=f)

        y = rearrange(x if time is None else x + time[:, None, None], "f b s c -> (b s) f c")
        x = x + gate_attention * rearrange(self.temporal_attention(y), "(b s) f c -> f b s c", b=b)

        return x + gate_mlp * self.mlp(modulated_norm(x, shift_mlp, scale_mlp))

    def infer(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """The same numbers but for rounding, written into x; without gradients. x: contiguous.

        Memory traffic is what the matrix products wait for. So each of the three steps goes, on a CPU, through so few tokens at a
        time that what it makes of them stays in the cache, and adds the result in place.
        """
        f, b, s, c = x.shape
        shift_attention, scale_attention, gate_attention, shift_mlp, scale_mlp, gate_mlp = self.modulation
        tokens = TOKENS if x.device.type == "cpu" else x.numel()

        for frames in x.view(f * b, s, c).split(max(1, tokens // s)):
            y = self.spatial_attention(modulated_norm_once(frames, shift_attention, scale_attention))
            frames.addcmul_(gate_attention, y)
        for places in x.view(f, b * s, c).split(max(1, tokens // f), dim=1):
            y = in_product_dtype(places if time is None else places + time[:, None], self.temporal_attention.qkv)
            y = self.temporal_attention(y.transpose(0, 1).contiguous())  # a linear layer copies its weights for strided tokens
            places.addcmul_(gate_attention, y.transpose(0, 1))
        hidden = self.mlp.hidden(x.device)
        for part in x.view(-1, c).split(tokens):
            part.addcmul_(gate_mlp, self.mlp.fc2(hidden(modulated_norm_once(part, shift_mlp, scale_mlp))))
        return x


class SpaceTimeTransformer(nn.Module):
    """Position tables and blocks, without a final norm; (B, f, s, c) -> the same.

    With `checkpointing` the blocks' activations are computed again in the backward pass instead of kept: the same numbers, less
    memory, about a third more time. In inference mode the blocks work in place (`SpaceTimeBlock.infer`), unless they are compiled.
    """

    space: Tensor
    time: Tensor
    checkpointing = False
    compiled = False

    def __init__(self, f: int, h: int, w: int, c: int, depth: int, heads: int, causal: bool):
        super().__init__()
        self.register_buffer("space", torch.empty(h * w, c), persistent=False)  # (s, c)
        self.register_buffer("time", torch.empty(f, c), persistent=False)  # (f, c)
        if not self.space.is_meta:
            self.space.copy_(spatial_positions(h, w, c))
            self.time.copy_(temporal_positions(f, c))
        self.blocks = nn.ModuleList(SpaceTimeBlock(c, heads, causal) for _ in range(depth))
        self.initialize()

    def initialize(self) -> None:
        """Xavier for linear layers with zero bias; temporal attention starts as a no-op (as released)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            if isinstance(module, SpaceTimeBlock):
                nn.init.zeros_(module.temporal_attention.proj.weight)

    def compile_blocks(self) -> None:
        """Compile the blocks (torch.compile), one code for all but the first, which alone sees the temporal table."""
        for block in self.blocks:
            block.compile()
        self.compiled = True

    def forward(self, x: Tensor) -> Tensor:
        x = rearrange(x + self.space, "b f s c -> f b s c").contiguous()
        for index, block in enumerate(self.blocks):
            time = self.time if index == 0 else None
            if not (self.compiled or torch.compiler.is_compiling()) and torch.is_inference_mode_enabled():
                assert isinstance(block, SpaceTimeBlock)
                x = block.infer(x, time)
            elif self.checkpointing and self.training:
                x = checkpoint(block, x, time, use_reentrant=False)
            else:
                x = block(x, time)
        return rearrange(x, "f b s c -> b f s c")


class Encoder(nn.Module):
    """E: clip x (B, 3, F, H, W) -> feature z (B, c, f, h, w)."""

    def __init__(self, f: int, h: int, w: int, patch: int, c: int, depth: int, heads: int, causal: bool):
        super().__init__()
        self.grid, self.patch = (h, w), patch
        self.patch_embedding = nn.Conv3d(3, c, kernel_size=(1, patch, patch), stride=(1, patch, patch))
        nn.init.xavier_uniform_(self.patch_embedding.weight.view(c, -1))
        self.transformer = SpaceTimeTransformer(f, h, w, c, depth, heads, causal)

    def forward(self, x: Tensor) -> Tensor:
        p, weight = self.patch, self.patch_embedding.weight.flatten(1)  # as a product: the same numbers, faster in bfloat16
        patches = rearrange(in_product_dtype(x, self.patch_embedding), "b c f (h p) (w q) -> b f (h w) (c p q)", p=p, q=p)
        tokens = nnf.linear(patches, weight, self.patch_embedding.bias)
        h, w = self.grid
        return rearrange(self.transformer(tokens), "b f (h w) c -> b c f h w", h=h, w=w)


class PatchHead(nn.Module):
    """Modulated norm and a linear map from a token to the pixels of its patch; (..., c) -> (..., p p 3)."""

    def __init__(self, c: int, patch: int):
        super().__init__()
        self.modulation = nn.Parameter(torch.empty(2, c))
        nn.init.normal_(self.modulation, std=c**-0.5)
        self.linear = nn.Linear(c, patch * patch * 3)

    def forward(self, x: Tensor) -> Tensor:
        shift, scale = self.modulation
        return self.linear(in_product_dtype(modulated_norm(x, shift, scale), self.linear))


class Decoder(nn.Module):
    """D: feature u = u_S + u_D (B, c, f, h, w) -> clip x_hat (B, 3, F, H, W), not clamped."""

    def __init__(self, f: int, h: int, w: int, patch: int, c: int, depth: int, heads: int, causal: bool):
        super().__init__()
        self.grid, self.patch = (h, w), patch
        self.transformer = SpaceTimeTransformer(f, h, w, c, depth, heads, causal)
        self.head = PatchHead(c, patch)

    def forward(self, u: Tensor) -> Tensor:
        pixels = self.head(self.transformer(rearrange(u, "b c f h w -> b f (h w) c")))
        (h, w), p = self.grid, self.patch
        return rearrange(pixels, "b f (h w) (p1 p2 c) -> b c f (h p1) (w p2)", h=h, w=w, p1=p, p2=p)
