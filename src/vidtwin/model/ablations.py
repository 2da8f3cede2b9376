"""What the paper takes away to see what it is worth (Table 3), each as a module with the interface of the one it replaces.

(a) one latent of the same rate instead of two: `NoDynamicsEncoder`, `NoDynamicsDecoder`, and more Structure channels;
(b) Dynamics by a Q-Former over space instead of averages: `QFormerDynamicsEncoder`, `QFormerDynamicsDecoder`;
(c) Structure by a convolution and an MLP over time instead of the Q-Former: `TimeMLP`;
(d) Structure with space in the hidden dimension instead of the batch: `FlattenedQFormer`.
The paper names them in a line each; sizes that it does not give are chosen here, and said where they are. `structure_qformer`,
`dynamics_encoder` and `dynamics_decoder` build what a config names: one of these, or what it replaces.

Letters: (f, h, w) feature grid, s = h w places, c hidden width, n queries of width d_q, d_D channels of z_D with w_D and h_D
values a frame along each axis.
"""

from dataclasses import replace
from math import gcd, prod

import torch
from einops import rearrange
from torch import Tensor, nn

from vidtwin.model.config import VidTwinConfig
from vidtwin.model.dynamics import DynamicsDecoder, DynamicsEncoder
from vidtwin.model.qformer import QFormer


class NoDynamicsEncoder(nn.Module):
    """(a) F_D without channels: z (B, c, f, h, w) -> empty moments (B, 0, f, w_D), (B, 0, f, h_D)."""

    def __init__(self, w_D: int, h_D: int):
        super().__init__()
        self.sides = w_D, h_D

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x, y = (z.new_zeros(len(z), 0, z.shape[2], side) for side in self.sides)
        return x, y


class NoDynamicsDecoder(nn.Module):
    """(a) H_D of empty latents: u_D = 0, (B, c, f, h, w)."""

    def __init__(self, h: int, w: int, c: int):
        super().__init__()
        self.grid, self.c = (h, w), c

    def forward(self, z_x: Tensor, z_y: Tensor) -> Tensor:
        return z_x.new_zeros(len(z_x), self.c, z_x.shape[2], *self.grid)


class QFormerDynamicsEncoder(nn.Module):
    """(b) F_D by queries over the places of each frame: z (B, c, f, h, w) -> (B, 2 d_D, f, w_D), (B, 2 d_D, f, h_D).

    w_D + h_D queries, so that z_D has as many values as by averaging; the first w_D of them make x, the others y. They read the
    whole grid (no stride-2 convolutions before), whose places they tell apart by what the encoder left of its position table.
    """

    def __init__(self, qformer: QFormer, d_q: int, w_D: int, h_D: int, d_D: int):
        super().__init__()
        self.sides = w_D, h_D
        self.qformer = qformer
        self.moments = nn.Linear(d_q, 2 * d_D)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        q = self.qformer(rearrange(z, "b c f h w -> (b f) (h w) c"))
        x, y = rearrange(self.moments(q), "(b f) n d -> b d f n", b=len(z)).split(self.sides, dim=-1)
        return x, y


class QFormerDynamicsDecoder(nn.Module):
    """(b) H_D of query values: (B, d_D, f, w_D), (B, d_D, f, h_D) -> u_D (B, c, f, h, w), never negative.

    The embedding is that of `DynamicsDecoder`; as queries have no axis to be repeated along, a learned (s, n) map places them.
    """

    def __init__(self, h: int, w: int, h_D: int, w_D: int, c: int, d_D: int):
        super().__init__()
        self.grid = (h, w)
        self.embed = nn.Sequential(nn.Linear(d_D, c), nn.ReLU(), nn.Linear(c, c), nn.ReLU())
        self.to_places = nn.Conv1d(w_D + h_D, h * w, 1)  # queries as channels, as in StructureDecoder.to_frames

    def forward(self, z_x: Tensor, z_y: Tensor) -> Tensor:
        h, w = self.grid
        values = rearrange(torch.cat([z_x, z_y], dim=-1), "b d f n -> (b f) n d")
        u = self.to_places(self.embed(values)).relu()
        return rearrange(u, "(b f) (h w) c -> b c f h w", b=len(z_x), h=h, w=w)


class TimeMLP(nn.Module):
    """(c) In place of the Structure Q-Former: (b, l, c) -> (b, n, d_q), by a 1 x 1 convolution and an MLP over time.

    The MLP is as wide as the Q-Former's feed-forward layers. Unlike queries it has a weight for each frame, so l is fixed.
    """

    def __init__(self, length: int, n: int, d_q: int, c: int, mlp: int):
        super().__init__()
        self.project = nn.Linear(c, d_q)
        self.mix = nn.Sequential(nn.Linear(length, mlp), nn.GELU(), nn.Linear(mlp, n))

    def forward(self, context: Tensor) -> Tensor:
        y = self.mix(rearrange(self.project(context), "b l d -> b d l"))
        return rearrange(y, "b d n -> b n d")


class FlattenedQFormer(nn.Module):
    """(d) In place of the Structure Q-Former: (B s, l, c) -> (B s, n, d_q), reading one sequence per clip, not one per place.

    Each place keeps c' of its c channels, and the s c' of a frame are one element of the sequence; the queries are as wide, and
    are cut back into places. c' is about c / s, which leaves an element about as wide as in the default (c = 768, s = 196:
    c' = 4, width 784). All c channels would need queries c s wide, with hundreds of times the parameters of the whole model.
    """

    def __init__(self, s: int, n: int, d_q: int, c: int, layers: int, heads: int, mlp: int, dropout: float):
        super().__init__()
        self.places = s
        kept = max(1, round(c / s))
        self.reduce = nn.Linear(c, kept)
        self.qformer = QFormer(n, s * kept, s * kept, layers, gcd(heads, s * kept), mlp, dropout)
        self.expand = nn.Linear(kept, d_q)

    def forward(self, context: Tensor) -> Tensor:
        q = self.qformer(rearrange(self.reduce(context), "(b s) l c -> b l (s c)", s=self.places))
        return self.expand(rearrange(q, "b n (s c) -> (b s) n c", s=self.places))


def structure_qformer(config: VidTwinConfig) -> nn.Module:
    """What F_S reads time with, (b, f, c) -> (b, n_q, d_q): the Q-Former, or ablation (c) or (d)."""
    f, (h, w), c, n_q, d_q = config.frames, config.grid, config.hidden, config.num_queries, config.query_dim
    layers = config.query_layers, config.query_heads, config.query_mlp, config.query_dropout
    if config.structure_branch == "convolution":
        return TimeMLP(f, n_q, d_q, c, config.query_mlp)
    if config.structure_branch == "flattened":
        return FlattenedQFormer(h * w, n_q, d_q, c, *layers)
    return QFormer(n_q, d_q, c, *layers)


def dynamics_encoder(config: VidTwinConfig) -> nn.Module:
    """F_D: averages over each axis, or ablation (a) or (b)."""
    (d_D, _, w_D), h_D, c, d_q = config.dynamics_x_shape, config.dynamics_y_shape[-1], config.hidden, config.query_dim
    layers = config.query_layers, config.query_heads, config.query_mlp, config.query_dropout
    if config.dynamics_branch == "none":
        return NoDynamicsEncoder(w_D, h_D)
    if config.dynamics_branch == "qformer":
        return QFormerDynamicsEncoder(QFormer(w_D + h_D, d_q, c, *layers), d_q, w_D, h_D, d_D)
    return DynamicsEncoder(c, d_D, config.dynamics_downsamples)


def dynamics_decoder(config: VidTwinConfig) -> nn.Module:
    """H_D of what `dynamics_encoder` gives."""
    (d_D, _, w_D), h_D, (h, w), c = config.dynamics_x_shape, config.dynamics_y_shape[-1], config.grid, config.hidden
    if config.dynamics_branch == "none":
        return NoDynamicsDecoder(h, w, c)
    if config.dynamics_branch == "qformer":
        return QFormerDynamicsDecoder(h, w, h_D, w_D, c, d_D)
    return DynamicsDecoder(h, w, h_D, w_D, c, d_D, config.dynamics_downsamples)


def ablations(config: VidTwinConfig) -> dict[str, VidTwinConfig]:
    """The model of `config` ("full") and the paper's four without a part of it ("a" to "d"), at the same rate.

    (b), (c) and (d) have exactly the latent values of `config`. (a) has them as nearly as whole Structure channels allow: 8232
    instead of 8064 for "tiny", 7840 instead of 8064 for "released", 4704 instead of 4928 for "paper-0.20".

    Parameters, in millions, full and (a) to (d): "tiny" 7.23, 7.14, 7.85, 6.64, 7.24; "base" 311.5, 305.5, 307.1, 310.5, 339.9.
    """
    channels = round(config.latent_values / prod(config.structure_shape[1:]))
    return {
        "full": config,
        "a": replace(config, dynamics_branch="none", structure_channels=channels),
        "b": replace(config, dynamics_branch="qformer"),
        "c": replace(config, structure_branch="convolution"),
        "d": replace(config, structure_branch="flattened"),
    }
