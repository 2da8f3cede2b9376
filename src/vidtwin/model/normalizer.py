"""A data set's statistics applied to latents, both ways, in one place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vidtwin.model.latents import Latents, NormalizedLatents


@dataclass(frozen=True, eq=False)
class Normalizer:
    """The one place where a data set's statistics are applied, both ways: (z - mean) / std of each channel, and back.

    Attributes:
        mean, std: float32 (C,) of structure, dynamics_x, dynamics_y; std above 0.
    """

    mean: tuple[Tensor, Tensor, Tensor]
    std: tuple[Tensor, Tensor, Tensor]

    def normalize(self, latents: Latents) -> NormalizedLatents:
        """Of a batch (B, C, ...), wherever it is."""
        return NormalizedLatents(*self._each(latents.tensors, lambda z, mean, std: (z - mean) / std))

    def denormalize(self, latents: NormalizedLatents) -> Latents:
        """Back to what `VidTwin.decode` takes. Raises TypeError for latents that are not normalised."""
        if not isinstance(latents, NormalizedLatents):
            raise TypeError(f"{type(latents).__name__} are not normalised; denormalize takes NormalizedLatents")
        return Latents(*self._each(latents.tensors, lambda z, mean, std: z * std + mean))

    def _each(self, tensors: Sequence[Tensor], function: Any) -> list[Tensor]:
        found = []
        for z, mean, std in zip(tensors, self.mean, self.std, strict=True):
            shape = (1, -1, *[1] * (z.ndim - 2))
            found.append(function(z, mean.to(z).reshape(shape), std.to(z).reshape(shape)))
        return found
