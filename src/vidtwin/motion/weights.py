"""The model of an extractor: its own copy, its name, and what is read of a clip."""

import copy
from pathlib import Path

import torch
from torch import Tensor

from vidtwin.model.checkpoint import shipped_names
from vidtwin.model.vidtwin import VidTwin


def read_dynamics(model: VidTwin, x: Tensor) -> list[Tensor]:
    """Means of x and y, as `model.encode` gives them, without the Structure branch."""
    return [moments.chunk(2, dim=1)[0] for moments in model.dynamics_encoder(model.feature(x))]


def read_moments(model: VidTwin, x: Tensor) -> list[Tensor]:
    posterior = model.posterior(x)
    return [*posterior.mean.tensors, *posterior.logvar.tensors]


def own_copy(model: VidTwin) -> VidTwin:
    """A copy that later training does not change, without what the model set aside."""
    dtype = next((tensor.dtype for tensor in model.state_dict().values() if tensor.dtype != torch.float32), None)
    if dtype is not None:
        raise ValueError(f"weights of {dtype}: give the model in float32, and dtype='bfloat16' or 'float16' to compute in less")
    return copy.deepcopy(model, {id(model.set_aside): {}})


def name_of(weights: VidTwin | str | Path) -> str:
    """A name for people: shipped names and hub ids as they are, of a path its last part."""
    if isinstance(weights, VidTwin):
        return "unnamed"
    return str(weights) if str(weights) in shipped_names() or not Path(weights).exists() else Path(weights).resolve().name
