"""The six modules that a VidTwin is made of, by its config."""

from typing import NamedTuple

import torch
from torch import nn

from vidtwin.model.ablations import dynamics_decoder, dynamics_encoder, structure_qformer
from vidtwin.model.backbone import Decoder, Encoder
from vidtwin.model.checkpoint import Uninitialized
from vidtwin.model.config import VidTwinConfig
from vidtwin.model.structure import StructureDecoder, StructureEncoder


class Parts(NamedTuple):
    """E, F_S, F_D, H_S, H_D and D, under the names that they have in `VidTwin` and its files."""

    encoder: Encoder
    structure_encoder: StructureEncoder
    dynamics_encoder: nn.Module
    structure_decoder: StructureDecoder
    dynamics_decoder: nn.Module
    decoder: Decoder


def parts(config: VidTwinConfig) -> Parts:
    """New modules with random weights."""
    f, (h, w), c = config.frames, config.grid, config.hidden
    n_q, d_q, d_S = config.num_queries, config.query_dim, config.structure_channels
    backbone = f, h, w, config.patch, c, config.depth, config.heads, config.temporal_attention == "causal"
    qformer = structure_qformer(config)
    return Parts(
        encoder=Encoder(*backbone),
        structure_encoder=StructureEncoder(qformer, d_q, d_S, config.structure_downsamples, config.structure_width),
        dynamics_encoder=dynamics_encoder(config),
        structure_decoder=StructureDecoder(f, h, w, c, n_q, d_q, d_S, config.structure_downsamples, config.structure_width),
        dynamics_decoder=dynamics_decoder(config),
        decoder=Decoder(*backbone),
    )


def parameter_shapes(config: VidTwinConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's weights, as its files hold them; no memory is taken for them."""
    with torch.device("meta"), Uninitialized():
        state = nn.ModuleDict(parts(config)._asdict()).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
