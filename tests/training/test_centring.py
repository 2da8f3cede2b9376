"""Centred training against the network that it stands for, in which every map takes its mean input off by itself."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.training.conftest import same_checkpoints, stopping_after_saving
from vidtwin.training.autoencoder import train
from vidtwin.training.centring import Centring


class Centred(nn.Module):
    """A map or norm of x - m, m a constant."""

    def __init__(self, inner: nn.Module, mean: torch.Tensor):
        super().__init__()
        self.inner, self.mean = inner, mean

    def forward(self, x):
        if isinstance(self.inner, nn.LayerNorm):
            normal = nn.functional.layer_norm(x, self.inner.normalized_shape, eps=self.inner.eps)
            return (normal - self.mean) * self.inner.weight + self.inner.bias
        return self.inner(x - self.mean)


@pytest.mark.parametrize("kind", ["linear", "convolution", "norm"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_steps_are_those_of_a_map_that_takes_its_mean_input_off(kind, optimizer):
    torch.manual_seed(0)
    x = torch.randn(6, 5, 8, dtype=torch.float64) + 10 * torch.randn(5, 1 if kind == "convolution" else 8, dtype=torch.float64)
    layer = {"linear": nn.Linear(8, 4), "convolution": nn.Conv1d(5, 4, 1), "norm": nn.LayerNorm(8)}[kind].double()
    centring = Centring(layer)
    centring.measure(lambda: layer(x))
    (mean,) = (mean.double() for mean in centring.means.values())
    other = {"linear": nn.Linear(8, 4), "convolution": nn.Conv1d(5, 4, 1), "norm": nn.LayerNorm(8)}[kind].double()
    other.load_state_dict(layer.state_dict())
    centring.means = {"": mean}
    explicit = Centred(other, mean[:, None] if kind == "convolution" else mean)
    with torch.no_grad():
        other.bias += layer.weight * mean if kind == "norm" else layer.weight.flatten(1) @ mean
    target = torch.randn_like(layer(x))
    mine, its = (optimizer(module.parameters(), lr=0.01, weight_decay=0.0) for module in (layer, explicit))
    for _ in range(3):
        for module, steps in ((layer, mine), (explicit, its)):
            steps.zero_grad()
            (module(x) - target).square().mean().backward()
            if module is layer:
                centring.centre_gradients()
                with centring.kept():
                    steps.step()
            else:
                steps.step()
        torch.testing.assert_close(layer(x), explicit(x), rtol=1e-4, atol=1e-4)


def test_the_mean_of_a_map_that_is_called_twice_is_of_both_calls():
    layer, a, b = nn.Linear(3, 2), torch.zeros(4, 3), torch.ones(4, 3)
    centring = Centring(layer)
    centring.measure(lambda: (layer(a), layer(b)))
    torch.testing.assert_close(centring.means[""], torch.full((3,), 0.5))


@pytest.mark.slow
def test_a_resumed_run_keeps_its_means(recipe, tmp_path):
    recipe = replace(recipe, centre=True, ema_decay=0.9)
    train(recipe, tmp_path / "whole", progress=False)
    with stopping_after_saving():
        train(recipe, tmp_path / "parts", progress=False)
    train(recipe, tmp_path / "parts", progress=False)
    assert same_checkpoints(tmp_path / "whole", tmp_path / "parts")
    train(replace(recipe, centre=False), tmp_path / "plain", progress=False)
    assert not same_checkpoints(tmp_path / "whole", tmp_path / "plain")
