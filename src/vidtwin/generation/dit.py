"""The denoiser: a diffusion transformer over the tokens of both latents (paper Sec. 3.5, D.3; Peebles and Xie 2023).

Letters: B batch; L = L_S + L_D tokens, c hidden width; K tokens of the context (the class, the window before); n heads, d = c / n.
Each branch has a noise level in [0, 1]: 1 is noise alone, 0 is clean, so that either can be given.
"""

import torch
import torch.nn.functional as nnf
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vidtwin.generation.config import DiTConfig
from vidtwin.generation.tokens import Volumes
from vidtwin.model.backbone import MLP, modulated_norm, sincos

LEVEL_WIDTH = 256  # of a noise level's sines and cosines
LEVEL_SCALE = 1000.0  # so that levels 0 to 1 are spread as 1000 steps


class Attention(nn.Module):
    """Attention of x (B, L, c) to a context (B, K, c), or to itself, with normalised queries and keys (Dehghani et al. 2023)."""

    def __init__(self, c: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(c, c), nn.Linear(c, 2 * c), nn.Linear(c, c)
        self.norm_q, self.norm_k = nn.RMSNorm(c // heads), nn.RMSNorm(c // heads)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """mask: bool (B, 1, 1, K), which tokens of the context are there."""
        q = rearrange(self.q(x), "b l (n d) -> b n l d", n=self.heads)
        k, v = rearrange(self.kv(x if context is None else context), "b k (two n d) -> two b n k d", two=2, n=self.heads)
        y = nnf.scaled_dot_product_attention(self.norm_q(q), self.norm_k(k), v, attn_mask=mask)
        return self.proj(rearrange(y, "b n l d -> b l (n d)"))


class DiTBlock(nn.Module):
    """Attention among all tokens, to the context, and an MLP; shifts, scales and gates come from the noise levels.

    All blocks share one map from levels to these six, and each adds a table of its own (Chen et al. 2024, adaLN-single).
    """

    def __init__(self, c: int, heads: int):
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(6, c))
        self.attention, self.cross_attention, self.mlp = Attention(c, heads), Attention(c, heads), MLP(c)
        self.cross_norm = nn.LayerNorm(c)

    def forward(self, x: Tensor, levels: Tensor, lengths: list[int], context: Tensor, mask: Tensor | None) -> Tensor:
        """x: (B, L, c); levels: (B, 2, 6, c) of the branches, whose tokens are `lengths` of x; context: (B, K, c)."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (levels + self.modulation).unbind(2)
        x = x + by_branch(self.attention(modulated(x, shift, scale, lengths)), gate, lengths)
        x = x + self.cross_attention(self.cross_norm(x), context, mask)
        return x + by_branch(self.mlp(modulated(x, shift_mlp, scale_mlp, lengths)), gate_mlp, lengths)


def modulated(x: Tensor, shift: Tensor, scale: Tensor, lengths: list[int]) -> Tensor:
    """`modulated_norm` of x (B, L, c), with a shift and a scale (B, 2, c) for each branch's tokens."""
    parts = zip(x.split(lengths, dim=1), shift.split(1, dim=1), scale.split(1, dim=1), strict=True)
    return torch.cat([modulated_norm(*part) for part in parts], dim=1)


def by_branch(x: Tensor, factor: Tensor, lengths: list[int]) -> Tensor:
    """x (B, L, c) times a factor (B, 2, c) for each branch's tokens."""
    return torch.cat([part * f for part, f in zip(x.split(lengths, dim=1), factor.split(1, dim=1), strict=True)], dim=1)


class Entrance(nn.Module):
    """Patches of one latent to tokens (B, L, c), which know their place and their branch."""

    def __init__(self, values: int, grid: tuple[int, int, int], c: int):
        super().__init__()
        self.linear = nn.Linear(values, c)
        self.kind = nn.Parameter(torch.zeros(c))  # the type embedding
        self.places_t, self.places_h, self.places_w = (nn.Parameter(0.3 * sines(side, c)) for side in grid)

    def forward(self, patches: Tensor) -> Tensor:
        places = self.places_t[:, None, None] + self.places_h[:, None] + self.places_w
        return self.linear(patches) + self.kind + rearrange(places, "t h w c -> (t h w) c")


def sines(count: int, c: int) -> Tensor:
    """(count, c), float32: what a learned table of places begins as; near places are alike."""
    table = sincos(torch.arange(count), c - c % 2).float()
    return nnf.pad(table, (0, c % 2))


class DiT(nn.Module):
    """Noisy latents, their noise levels, a class and the window before -> the clean latents, as volumes (`tokens.Volumes`)."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config = config
        self.checkpointing = False
        c = config.hidden
        self.patches = config.patches
        self.entrances = nn.ModuleList(Entrance(p.values, p.grid, c) for p in self.patches)
        self.level = nn.Sequential(nn.Linear(2 * LEVEL_WIDTH, c), nn.SiLU(), nn.Linear(c, c), nn.SiLU())
        self.level_modulation = nn.Linear(c, 8 * c)  # six for the blocks, two for the exits
        self.classes = nn.Embedding(config.classes + 1, config.class_width)  # the last one: no class
        self.class_entrance = nn.Linear(config.class_width, c)
        if config.previous:
            self.previous_entrances = nn.ModuleList(Entrance(p.values, p.grid, c) for p in self.patches)
        self.blocks = nn.ModuleList(DiTBlock(c, config.heads) for _ in range(config.depth))
        self.exits = nn.ModuleList(nn.Linear(c, p.values) for p in self.patches)
        self.initialize()

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.class_entrance.weight.dtype

    def initialize(self) -> None:
        """Xavier for linear layers; blocks begin as the identity, exits at 0: the mean of normalised latents."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.classes.weight)
        silent = [self.level_modulation, *self.exits]
        silent += [block.cross_attention.proj for block in self.blocks if isinstance(block, DiTBlock)]
        for layer in silent:
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)

    def forward(
        self,
        noisy: Volumes,
        levels: Tensor,
        labels: Tensor,
        previous: Volumes | None = None,
        has_previous: Tensor | None = None,
    ) -> Volumes:
        """Estimates of the clean volumes.

        Args:
            noisy: normalised latents with noise, (B, d_S, n_q, h_S, w_S) and (B, d_D, 1, f, h_D + w_D).
            levels: (B, 2), of Structure and of Dynamics, in [0, 1].
            labels: int (B,), 0 to classes - 1; `classes` is none.
            previous: the normalised latents of the window before, clean, if the model takes them.
            has_previous: bool (B,), which clips have one; None is all.

        Raises:
            ValueError: volumes of other shapes; previous ones for a model that does not take them.
        """
        lengths = [p.count for p in self.patches]
        x = torch.cat([enter(p.pack(z)) for enter, p, z in zip(self.entrances, self.patches, noisy, strict=True)], dim=1)
        modulation = rearrange(self.level_modulation(self._levels(levels)), "b s (m c) -> b s m c", m=8)
        context, mask = self._context(labels, previous, has_previous)
        for block in self.blocks:
            if self.checkpointing and self.training:
                x = checkpoint(block, x, modulation[:, :, :6], lengths, context, mask, use_reentrant=False)
            else:
                x = block(x, modulation[:, :, :6], lengths, context, mask)
        parts = modulated(x, modulation[:, :, 6], modulation[:, :, 7], lengths).split(lengths, dim=1)
        structure, dynamics = (p.unpack(leave(part)) for leave, p, part in zip(self.exits, self.patches, parts, strict=True))
        return structure, dynamics

    def _levels(self, levels: Tensor) -> Tensor:
        """(B, 2) -> (B, 2, c): each branch's own level, and the other's."""
        flat = sincos_of(LEVEL_SCALE * levels.flatten()).reshape(*levels.shape, LEVEL_WIDTH)
        return self.level(torch.cat([flat, flat.flip(1)], dim=2).to(self.dtype))

    def _context(self, labels: Tensor, previous: Volumes | None, has_previous: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, K, c) to attend to, and which of them are there (B, 1, 1, K)."""
        context = self.class_entrance(self.classes(labels))[:, None]
        if not self.config.previous:
            if previous is not None:
                raise ValueError("this generator was not trained to continue from a window; train one with previous: true")
            return context, None
        if previous is None:
            return context, None
        entering = zip(self.previous_entrances, self.patches, previous, strict=True)
        context = torch.cat([context, *(enter(p.pack(z)) for enter, p, z in entering)], dim=1)
        if has_previous is None:
            return context, None
        there = has_previous[:, None].expand(-1, context.shape[1] - 1)
        return context, torch.cat([torch.ones_like(there[:, :1]), there], dim=1)[:, None, None]


def sincos_of(values: Tensor) -> Tensor:
    """(n,) -> (n, LEVEL_WIDTH), float32."""
    frequencies = 10000.0 ** (-torch.arange(LEVEL_WIDTH // 2, device=values.device) / (LEVEL_WIDTH // 2))
    angles = values.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
