"""Gradients and updates of maps as if their inputs were centred.

A map y = W x + b of inputs with a large mean m has one direction in which the loss is far steeper than in all others: a step of W
by D moves every output by D m. In y = W (x - m) + b', b' = b + W m, it has not, and an optimizer may take larger steps. `Centring`
trains a network as it stands as if its maps were written so: the gradient of W becomes dW - db m^T, and after a step by D,
b becomes b - D m. (LeCun et al. 1998, Efficient BackProp, Sec. 4.3, on why inputs are centred.)

A linear start needs it: constants far larger than the content keep its norms, ReLUs and GELUs linear.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

CENTRED_ON = 8  # clips, over which means are taken
Map = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.LayerNorm


class Centring:
    """The mean inputs of a network's linear maps and convolutions.

    Attributes:
        means: (in,) of each map with a bias, by its name; those of a convolution are over places.
    """

    def __init__(self, network: nn.Module):
        maps = {name: module for name, module in network.named_modules() if isinstance(module, Map)}
        self.maps: dict[str, Map] = {n: m for n, m in maps.items() if m.weight is not None and m.bias is not None}
        self.means: dict[str, Tensor] = {}

    @torch.no_grad()
    def measure(self, forward: Callable[[], object]) -> None:
        """Take the means over the inputs that maps get in a forward pass, in all calls of a map."""
        seen: dict[str, list[Tensor]] = {}

        def hook(name: str, module: Map) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def take(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                x = inputs[0].float()
                if isinstance(module, nn.LayerNorm):
                    x = nn.functional.layer_norm(x, module.normalized_shape, eps=module.eps)
                elif not isinstance(module, nn.Linear):
                    x = x.movedim(1 - module.weight.ndim, -1)  # channels last
                seen.setdefault(name, []).append(x.flatten(0, -2).mean(0))

            return take

        hooks = [module.register_forward_pre_hook(hook(name, module)) for name, module in self.maps.items()]
        try:
            forward()
        finally:
            for handle in hooks:
                handle.remove()
        self.means = {name: torch.stack(means).mean(0) for name, means in seen.items()}

    @torch.no_grad()
    def centre_gradients(self) -> None:
        """dW -> dW - db m^T; of a convolution at each tap, as if no place had a border."""
        for name, mean in self.means.items():
            weight, bias = self.maps[name].weight, self.maps[name].bias
            if weight.grad is not None and bias is not None and bias.grad is not None:
                weight.grad -= bias.grad * mean if weight.ndim == 1 else _outer(bias.grad, mean, weight)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Maps keep what they make of their mean input in an optimizer's step inside, but for the step of the bias itself."""
        before = {name: self.maps[name].weight.detach().clone() for name in self.means}
        yield
        with torch.no_grad():
            for name, mean in self.means.items():
                step = self.maps[name].weight - before[name]
                bias = self.maps[name].bias
                assert bias is not None
                bias -= step * mean if step.ndim == 1 else step.reshape(*step.shape[:2], -1).sum(2) @ mean


def _outer(rows: Tensor, columns: Tensor, weight: Tensor) -> Tensor:
    """(out,), (in,) -> their outer product in the shape of a weight (out, in, ...)."""
    return torch.outer(rows, columns)[(...,) + (None,) * (weight.ndim - 2)].expand_as(weight)
