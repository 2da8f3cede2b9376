"""The configuration of a VidTwin, everything that follows from it, and the presets.

Symbols (paper Sec. 3, Table of settings): F frames, H x W pixels, p patch; (f, h, w) the grid of the encoder's feature z
(f = F, h = H / p, w = W / p); c hidden width; n_q Structure queries of width d_q; d_S, d_D channels of the two latents;
(h_S, w_S), (h_D, w_D) their downsampled grids.
"""

from dataclasses import asdict, dataclass, fields
from math import prod
from typing import Any, Literal


def halved(size: int, times: int) -> int:
    """Side of a grid after `times` stride-2 convolutions (3 x 3, padding 1): halved(14, 1) = 7, halved(7, 1) = 4."""
    return -(-size >> min(times, size.bit_length()))


# Beyond all use; a config that was damaged or made up is refused before memory is taken for it.
MOST = {"depth": 512, "query_layers": 512, "structure_downsamples": 8, "dynamics_downsamples": 8}
MOST_OF_OTHERS = 2**16


@dataclass(frozen=True)
class VidTwinConfig:
    """Sizes of a VidTwin. The defaults are those of the released checkpoint (d_S = 8, 8064 latent values).

    Attributes:
        frames, height, width: size of a clip (F, H, W); H and W are multiples of `patch`.
        patch: side p of a square patch, one frame deep.
        hidden, depth, heads: width c, blocks and attention heads of the encoder's and of the decoder's transformer.
        temporal_attention: "causal" (frame t attends to frames <= t, as released) or "full".
        num_queries, query_dim: n_q, d_q of the Structure Q-Former; query_layers, query_heads, query_mlp, query_dropout
            its layers, attention heads, feed-forward width and dropout probability (in training only).
        structure_channels: d_S; structure_downsamples: number of stride-2 convolutions to (h_S, w_S);
            structure_width: channels before the first of them, doubled by each.
        dynamics_channels: d_D; dynamics_downsamples: number of stride-2 convolutions to (h_D, w_D).
        structure_branch: how F_S reads time: "qformer" (the paper's), or an ablation: "convolution" (and an MLP over time),
            "flattened" (a Q-Former with space in its width).
        dynamics_branch: how F_D reads space: "average" (the paper's), or an ablation: "qformer" (over the places of a frame),
            "none" (no Dynamics: z_D has 0 channels, whatever `dynamics_channels` says).

    Raises:
        ValueError: a field is not a positive integer, or sizes do not divide; names the field and the remedy.
    """

    frames: int = 16
    height: int = 224
    width: int = 224
    patch: int = 16
    hidden: int = 768
    depth: int = 16
    heads: int = 12
    num_queries: int = 16
    query_dim: int = 64
    structure_channels: int = 8
    structure_downsamples: int = 1
    dynamics_channels: int = 8
    dynamics_downsamples: int = 1
    temporal_attention: Literal["causal", "full"] = "causal"
    query_layers: int = 6
    query_heads: int = 8
    query_mlp: int = 768
    query_dropout: float = 0.1
    structure_width: int = 128
    structure_branch: Literal["qformer", "convolution", "flattened"] = "qformer"
    dynamics_branch: Literal["average", "qformer", "none"] = "average"

    def __post_init__(self) -> None:
        at_least_zero = ("structure_downsamples", "dynamics_downsamples")
        for field in fields(self):
            value, low = getattr(self, field.name), 0 if field.name in at_least_zero else 1
            high = MOST.get(field.name, MOST_OF_OTHERS)
            if field.type is int and (type(value) is not int or value < low):
                raise ValueError(f"{field.name}={value!r}: must be a whole number of at least {low}")
            if field.type is int and value > high:
                raise ValueError(f"{field.name}={value!r}: must be at most {high}")
        for name in ("height", "width"):
            _must_divide(name, getattr(self, name), "patch", self.patch)
        _must_divide("hidden", self.hidden, "heads", self.heads)
        _must_divide("query_dim", self.query_dim, "query_heads", self.query_heads)
        if self.hidden % 4:
            raise ValueError(f"hidden={self.hidden}: must be a multiple of 4 (sine and cosine, row and column)")
        if self.temporal_attention not in ("causal", "full"):
            raise ValueError(f"temporal_attention={self.temporal_attention!r}: choose 'causal' or 'full'")
        if self.structure_branch not in ("qformer", "convolution", "flattened"):
            raise ValueError(f"structure_branch={self.structure_branch!r}: choose 'qformer', 'convolution' or 'flattened'")
        if self.dynamics_branch not in ("average", "qformer", "none"):
            raise ValueError(f"dynamics_branch={self.dynamics_branch!r}: choose 'average', 'qformer' or 'none'")
        if type(self.query_dropout) not in (int, float) or not 0 <= self.query_dropout < 1:
            raise ValueError(f"query_dropout={self.query_dropout!r}: must be in [0, 1)")

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """(3, F, H, W)."""
        return 3, self.frames, self.height, self.width

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w): patches along height and width."""
        return self.height // self.patch, self.width // self.patch

    @property
    def structure_shape(self) -> tuple[int, int, int, int]:
        """(d_S, n_q, h_S, w_S) of z_S."""
        h_S, w_S = (halved(side, self.structure_downsamples) for side in self.grid)
        return self.structure_channels, self.num_queries, h_S, w_S

    @property
    def dynamics_x_shape(self) -> tuple[int, int, int]:
        """(d_D, f, w_D) of the half of z_D that keeps the width axis (mean over height)."""
        return self._d_D, self.frames, halved(self.grid[1], self.dynamics_downsamples)

    @property
    def dynamics_y_shape(self) -> tuple[int, int, int]:
        """(d_D, f, h_D) of the half of z_D that keeps the height axis (mean over width)."""
        return self._d_D, self.frames, halved(self.grid[0], self.dynamics_downsamples)

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Shapes of z_S, and of z_D's x and y, in the order of `Latents`."""
        return self.structure_shape, self.dynamics_x_shape, self.dynamics_y_shape

    @property
    def _d_D(self) -> int:
        return 0 if self.dynamics_branch == "none" else self.dynamics_channels

    @property
    def latent_values(self) -> int:
        """Numbers per clip in z_S and z_D together."""
        return sum(map(prod, self.latent_shapes))

    @property
    def compression_rate(self) -> float:
        """latent_values / (3 F H W), as the paper counts it (a fraction: 0.002046 is 0.2046 %)."""
        return self.latent_values / prod(self.clip_shape)

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "VidTwinConfig":
        """The inverse of `to_dict`; unknown fields are refused by name (ValueError)."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown field(s) in a VidTwin config: {', '.join(unknown)}; update vidtwin or remove them")
        return cls(**values)


def _must_divide(name: str, value: int, by_name: str, by: int) -> None:
    if value % by:
        low = value // by * by
        raise ValueError(f"{name}={value}: must be a multiple of {by_name}={by}; use {low or by} or {low + by}")


# Paper: sizes of Sec. 4.1, latent settings of the rate table. The paper's base model is the one of its main results.
PRESETS: dict[str, VidTwinConfig] = {
    "tiny": VidTwinConfig(
        patch=32, hidden=256, depth=2, heads=4, num_queries=8, query_dim=240, query_layers=1, query_heads=12, query_mlp=384,
        query_dropout=0.0, structure_channels=16, structure_downsamples=0, dynamics_downsamples=0, temporal_attention="full",
    ),
    "mini": VidTwinConfig(
        hidden=288, depth=2, heads=4, num_queries=8, query_dim=300, query_layers=1, query_heads=12, query_mlp=384,
        query_dropout=0.0, structure_channels=26, structure_downsamples=0, dynamics_channels=26, dynamics_downsamples=0,
        temporal_attention="full",
    ),
    "small": VidTwinConfig(hidden=512, depth=12, heads=8, structure_channels=4),
    "base": VidTwinConfig(structure_channels=4),
    "large": VidTwinConfig(hidden=1536, structure_channels=4),
    "released": VidTwinConfig(),
    "paper-0.20": VidTwinConfig(structure_channels=4),
    "paper-0.21": VidTwinConfig(structure_channels=4, dynamics_channels=16, dynamics_downsamples=2),
    "paper-0.17": VidTwinConfig(structure_channels=4, num_queries=12),
}  # fmt: skip


def preset(name: str) -> VidTwinConfig:
    """The configuration called `name`; ValueError lists the names there are."""
    if name not in PRESETS:
        raise ValueError(f"preset {name!r}: unknown; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
