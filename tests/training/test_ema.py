from dataclasses import replace

import pytest
import torch
from torch import nn

from vidtwin import VidTwin
from vidtwin.model.checkpoint import read_pickle
from vidtwin.training.autoencoder import train
from vidtwin.training.ema import EMA


def test_the_mean_is_that_of_the_weights_after_each_step(everything, tmp_path):
    train(replace(everything, steps=4, checkpoint_every=1, keep_checkpoints=10), tmp_path, progress=False)
    states = [read_pickle(tmp_path / "checkpoints" / f"step-{step:08}.pt")["run"] for step in range(1, 5)]
    # The start is not in a checkpoint: the mean after the first step and its weight, 1 - (1 + 0) / (10 + 0), give it.
    for name in states[0]["model"]:
        mean = states[0]["ema"][name].double()
        for step, state in enumerate(states[1:], 1):
            decay = min(0.9, (1 + step) / (10 + step))
            mean = decay * mean + (1 - decay) * state["model"][name].double()
            torch.testing.assert_close(state["ema"][name].double(), mean, rtol=1e-5, atol=1e-6)
    final = VidTwin.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(tensor, states[-1]["ema"][name]) for name, tensor in final.items())
    assert not all(torch.equal(tensor, states[-1]["model"][name]) for name, tensor in final.items())


def test_the_decay_grows_to_its_value():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = EMA(model, 0.5)
    nn.init.ones_(model.weight)
    expected = 0.0
    for step in range(30):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay)
        ema.update(step)
        assert ema.mean["weight"].item() == pytest.approx(expected, abs=1e-6)
    assert expected == pytest.approx(1, abs=1e-6)


def test_the_mean_is_in_place_inside_and_the_weights_again_after_even_an_error():
    model = nn.Linear(2, 2)
    ema = EMA(model, 0.9)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model.weight += 1
    own = model.weight.detach().clone()
    with pytest.raises(RuntimeError, match="inside"):
        with ema.in_place():
            assert torch.equal(model.weight, before["weight"])
            raise RuntimeError("inside")
    assert torch.equal(model.weight, own)
    assert torch.equal(ema.mean["weight"], before["weight"])
    assert model.weight.requires_grad
    assert not ema.mean["weight"].requires_grad


def test_restarting_takes_the_weights_as_they_are():
    model = nn.Linear(2, 2)
    ema = EMA(model, 0.9)
    with torch.no_grad():
        model.weight += 1
    ema.restart()
    assert torch.equal(ema.mean["weight"], model.weight)
    assert ema.mean["weight"].data_ptr() != model.weight.data_ptr()
