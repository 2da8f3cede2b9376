"""The running mean of a model's weights (Polyak averaging): e <- d e + (1 - d) w after every step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class EMA:
    """A running mean of the parameters of `model`, in their dtype and on their device.

    The decay grows to `decay` as (1 + t) / (10 + t) over the first steps t, so that the mean forgets the start.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.parameters = dict(model.named_parameters())
        self.mean = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step` (from 0)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.mean.values()), [p.detach() for p in self.parameters.values()], weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the mean inside, and its own weights again after."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self.parameters.items():
            own = parameter.detach().clone()
            parameter.copy_(self.mean[name])
            self.mean[name].copy_(own)

    @torch.no_grad()
    def restart(self) -> None:
        """The mean becomes the weights as they are."""
        for name, parameter in self.parameters.items():
            self.mean[name].copy_(parameter)
