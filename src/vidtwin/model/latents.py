"""The two latents of a clip, and their Gaussian posterior (paper Sec. 3.1: v(z) = mu + sigma * eps).

Letters: B batch; z_S (B, d_S, n_q, h_S, w_S); z_D as x (B, d_D, f, w_D), the width axis kept, and y (B, d_D, f, h_D), the
height axis.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import GetAttrKey, register_pytree_node, tree_flatten, tree_unflatten
from torch.utils.data._utils.collate import default_collate_fn_map

NAMES = ("structure", "dynamics_x", "dynamics_y")  # of the tensors, wherever they are stored
LOGVAR_RANGE = (-30.0, 20.0)  # as released


@dataclass(frozen=True, eq=False)
class Latents:
    """Structure and Dynamics of a batch of clips.

    Attributes:
        structure: z_S (B, d_S, n_q, h_S, w_S).
        dynamics_x: half of z_D that keeps the width axis, the mean over height: (B, d_D, f, w_D).
        dynamics_y: half of z_D that keeps the height axis, the mean over width: (B, d_D, f, h_D).

    Raises:
        ValueError: the tensors' ranks or batch sizes do not fit together.
    """

    structure: Tensor
    dynamics_x: Tensor
    dynamics_y: Tensor

    def __post_init__(self) -> None:
        ranks = tuple(tensor.ndim for tensor in self.tensors)
        batches = {tensor.shape[0] for tensor in self.tensors if tensor.ndim}
        if ranks != (5, 4, 4) or len(batches) != 1:
            raise ValueError(
                f"latents of shapes {self.shapes}: expected (B, d_S, n_q, h_S, w_S), (B, d_D, f, w_D), (B, d_D, f, h_D)"
            )

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.structure, self.dynamics_x, self.dynamics_y

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(tensor.shape) for tensor in self.tensors)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Latents":
        """Apply a function to each of the three tensors."""
        return Latents(*(function(tensor) for tensor in self.tensors))

    def to(self, *args: Any, **kwargs: Any) -> "Latents":
        """Tensor.to on each."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def __len__(self) -> int:
        return len(self.structure)

    def __getitem__(self, index: slice) -> "Latents":
        """A slice of the batch."""
        return self.map(lambda tensor: tensor[index])

    def lerp(self, other: "Latents", weight: float) -> "Latents":
        """(1 - weight) self + weight other."""
        return Latents(*(torch.lerp(a, b, weight) for a, b in zip(self.tensors, other.tensors, strict=True)))

    def __repr__(self) -> str:
        return f"Latents({', '.join(f'{n}={s}' for n, s in zip(NAMES, self.shapes, strict=True))})"

    @staticmethod
    def cat(parts: "list[Latents]") -> "Latents":
        """Concatenate along the batch axis."""
        return Latents(*(torch.cat(tensors) for tensors in zip(*(part.tensors for part in parts), strict=True)))


@dataclass(frozen=True, eq=False, repr=False)
class NormalizedLatents:
    """Latents of which each channel has mean 0 and standard deviation 1 over a data set: not what a decoder takes.

    Of the shapes of `Latents`, and no subclass of it: whoever decodes them without undoing it is told, by the type.
    """

    structure: Tensor
    dynamics_x: Tensor
    dynamics_y: Tensor

    def __post_init__(self) -> None:
        Latents(*self.tensors)  # checks the shapes

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.structure, self.dynamics_x, self.dynamics_y

    def __len__(self) -> int:
        return len(self.structure)

    def __repr__(self) -> str:
        return f"Normalized{Latents(*self.tensors)}"


@dataclass(frozen=True, eq=False)
class Posterior:
    """Diagonal Gaussian q(z | x): mean and log-variance, both Latents."""

    mean: Latents
    logvar: Latents

    @classmethod
    def from_moments(cls, structure: Tensor, dynamics_x: Tensor, dynamics_y: Tensor) -> "Posterior":
        """Split each tensor's channel axis (1) into mean and log-variance; the latter is clamped to [-30, 20]."""
        pairs = [moments.chunk(2, dim=1) for moments in (structure, dynamics_x, dynamics_y)]
        return cls(Latents(*(mean for mean, _ in pairs)), Latents(*(logvar.clamp(*LOGVAR_RANGE) for _, logvar in pairs)))

    def sample(self, generator: torch.Generator | list[torch.Generator] | None = None) -> Latents:
        """mean + exp(logvar / 2) eps, eps ~ N(0, 1) drawn in float32 for z_S, then x, then y.

        The noise is drawn on the generator's device (on the CPU without one), so that a seed gives the same latents on any
        device, as in the released code. A list holds a generator for each clip, whose noise then does not depend on the batch
        that the clip is in.
        """
        if isinstance(generator, list):
            if len(generator) != len(self.mean):
                raise ValueError(f"{len(generator)} generators for {len(self.mean)} clips: give one for each")
            clips = [Posterior(self.mean[i : i + 1], self.logvar[i : i + 1]).sample(g) for i, g in enumerate(generator)]
            return Latents.cat(clips)
        device = generator.device if generator is not None else torch.device("cpu")

        def draw(mean: Tensor, logvar: Tensor) -> Tensor:
            noise = torch.randn(mean.shape, generator=generator, device=device, dtype=torch.float32)
            return mean + torch.exp(0.5 * logvar) * noise.to(mean)

        return Latents(*(draw(m, v) for m, v in zip(self.mean.tensors, self.logvar.tensors, strict=True)))

    def to(self, *args: Any, **kwargs: Any) -> "Posterior":
        """Tensor.to on each tensor."""
        return Posterior(self.mean.to(*args, **kwargs), self.logvar.to(*args, **kwargs))

    def kl_parts(self) -> dict[str, Tensor]:
        """KL(q || N(0, 1)) in nats of each latent, summed over its values: (B,) each."""
        pairs = zip(self.mean.tensors, self.logvar.tensors, strict=True)
        return {
            name: 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)
            for name, (mean, logvar) in zip(NAMES, pairs, strict=True)
        }

    def kl_bits(self) -> dict[str, Tensor]:
        """KL in bits of "structure" and "dynamics" of each clip: float64 (B,) each."""
        parts = {name: nats / math.log(2) for name, nats in self.to(torch.float64).kl_parts().items()}
        return {"structure": parts["structure"], "dynamics": parts["dynamics_x"] + parts["dynamics_y"]}

    def kl(self) -> Tensor:
        """KL(q || N(0, 1)) in nats of all latents of each clip: (B,)."""
        return torch.stack(list(self.kl_parts().values())).sum(0)


def _register(kind: type, names: tuple[str, ...]) -> None:
    """Make a kind of latents a pytree, for torch.export, vmap and whatever else maps over tensors; `default_collate` joins them."""

    def flatten(value: Any) -> tuple[list[Any], None]:
        return [getattr(value, name) for name in names], None

    def unflatten(children: Iterable[Any], context: None) -> Any:
        value: Any = object.__new__(kind)  # children need not be tensors, or have a batch axis, so nothing is checked
        for name, child in zip(names, children, strict=True):
            object.__setattr__(value, name, child)
        return value

    def collate(batch: Sequence[Any], **_: Any) -> Any:
        tensors, structures = zip(*map(tree_flatten, batch), strict=True)
        return tree_unflatten(list(map(torch.cat, zip(*tensors, strict=True))), structures[0])

    register_pytree_node(
        kind,
        flatten,
        unflatten,
        serialized_type_name=f"vidtwin.{kind.__name__}",
        flatten_with_keys_fn=lambda value: ([(GetAttrKey(name), getattr(value, name)) for name in names], None),
    )
    default_collate_fn_map[kind] = collate


_register(Latents, NAMES)
_register(NormalizedLatents, NAMES)
_register(Posterior, ("mean", "logvar"))
