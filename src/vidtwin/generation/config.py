"""The configuration of a denoiser, and its presets."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from vidtwin.checked import build
from vidtwin.generation.tokens import Patches, Sides
from vidtwin.model.config import VidTwinConfig

MOST, MOST_BLOCKS = 2**20, 512
GUIDANCE = 2.0  # weight of the class where none is given; 1 is none, the paper's is 5


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of a `DiT`; the defaults are the paper's (Sec. D.3) for the main autoencoder, "paper-0.20".

    Attributes:
        structure: (d_S, n_q, h_S, w_S). dynamics: (d_D, f, h_D, w_D).
        hidden, depth, heads: width c, blocks, attention heads.
        structure_patch: (p_n, p_h, p_w) of z_S; dynamics_patch: (1, p_f, p_s) of z_D, s its axis of length h_D + w_D.
        classes: number of classes; 0 is an unconditional model. class_width: of a class's vector.
        previous: whether it can be given the window before, whose tokens it attends to.

    Raises:
        ValueError: sizes that are no positive whole numbers, or do not divide; or latents without Dynamics.
    """

    structure: tuple[int, int, int, int] = (4, 16, 7, 7)
    dynamics: tuple[int, int, int, int] = (8, 16, 7, 7)
    hidden: int = 1152
    depth: int = 18
    heads: int = 16
    structure_patch: Sides = (2, 1, 1)
    dynamics_patch: Sides = (1, 1, 1)
    classes: int = 0
    class_width: int = 256
    previous: bool = False

    def __post_init__(self) -> None:
        if self.dynamics[0] == 0:
            raise ValueError("the autoencoder has no Dynamics (dynamics_branch: none); generators need both latents")
        for field in fields(self):
            value, low = getattr(self, field.name), 0 if field.name == "classes" else 1
            most = MOST_BLOCKS if field.name == "depth" else MOST
            if field.type is int and (type(value) is not int or not low <= value <= most):
                raise ValueError(f"{field.name}={value!r}: must be a whole number from {low} to {most}")
        for name, length in (("structure", 4), ("dynamics", 4), ("structure_patch", 3), ("dynamics_patch", 3)):
            value = getattr(self, name)
            if len(value) != length or not all(type(side) is int and 1 <= side <= MOST for side in value):
                raise ValueError(f"{name}={value!r}: must be {length} whole numbers of at least 1")
        if self.dynamics_patch[0] != 1:
            raise ValueError(f"dynamics_patch={self.dynamics_patch}: Dynamics is a video of one frame; begin with 1")
        if self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden}: must be a multiple of heads={self.heads}")

    @property
    def patches(self) -> tuple[Patches, Patches]:
        """Of Structure and of Dynamics."""
        (d_S, *sides), (d_D, f, h_D, w_D) = self.structure, self.dynamics
        n_q, h_S, w_S = sides
        return Patches(d_S, (n_q, h_S, w_S), self.structure_patch), Patches(d_D, (1, f, h_D + w_D), self.dynamics_patch)

    def of_latents(self, config: VidTwinConfig) -> "DiTConfig":
        """For the latents of an autoencoder."""
        (d_D, f, w_D), (_, _, h_D) = config.dynamics_x_shape, config.dynamics_y_shape
        return replace(self, structure=config.structure_shape, dynamics=(d_D, f, h_D, w_D))

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON holds them."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DiTConfig":
        """The inverse of `to_dict`; unknown fields are refused by name (ValueError)."""
        return build(cls, values)


# "paper": Sec. D.3. The others are its likes for smaller machines.
GENERATORS: dict[str, DiTConfig] = {
    "paper": DiTConfig(),
    "base": DiTConfig(hidden=768, depth=12, heads=12),
    "small": DiTConfig(hidden=384, depth=8, heads=6),
    "tiny": DiTConfig(hidden=192, depth=4, heads=3),
}


def generator_preset(name: str) -> DiTConfig:
    """The denoiser called `name`; ValueError lists the names there are."""
    if name not in GENERATORS:
        raise ValueError(f"preset {name!r}: unknown; choose one of {', '.join(GENERATORS)}")
    return GENERATORS[name]
