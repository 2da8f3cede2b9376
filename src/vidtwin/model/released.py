"""Microsoft's checkpoint layout <-> ours. The released names appear in this file only.

The layout: the state_dict of `VidAutoEncoderQformerCompactSymVidVAE` (VidTok repository), alone in a .safetensors file or under
`state_dict` in a Lightning .ckpt, there together with `loss.*` (LPIPS, discriminator). Besides our parameters it holds five tensors
that its forward never reads and four position tables that follow from the config.
"""

import re
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from vidtwin.model.backbone import spatial_positions, temporal_positions
from vidtwin.model.checkpoint import read_state_dict, refuse_differences
from vidtwin.model.config import PRESETS, VidTwinConfig
from vidtwin.model.parts import parameter_shapes

TABLES = [f"{part}.{name}" for part in ("encoder", "decoder") for name in ("pos_embed", "pos_embed_temporal")]

# ours: released. {i} is a layer number; the released numbers of {2i} and {3i} count the activations in between.
NAMES = {
    "encoder.patch_embedding": "encoder.x_embedder.proj",
    "encoder.transformer.blocks.{i}.modulation": "encoder.blocks.{i}.scale_shift_table",
    "encoder.transformer.blocks.{i}.spatial_attention": "encoder.blocks.{i}.attn",
    "encoder.transformer.blocks.{i}.temporal_attention": "encoder.blocks.{i}.attn_temp",
    "encoder.transformer.blocks.{i}.mlp": "encoder.blocks.{i}.mlp",
    "structure_encoder.qformer.queries": "temporal_qformer.query_embeds",
    "structure_encoder.qformer.norm": "temporal_qformer.qformer.layernorm",
    "structure_encoder.qformer.layers.{i}.self_attention.proj": "temporal_qformer.qformer.encoder.layer.{i}.attention.output.dense",
    "structure_encoder.qformer.layers.{i}.self_attention.norm": "temporal_qformer.qformer.encoder.layer.{i}.attention.output.LayerNorm",
    "structure_encoder.qformer.layers.{i}.self_attention": "temporal_qformer.qformer.encoder.layer.{i}.attention.attention",
    "structure_encoder.qformer.layers.{i}.cross_attention.proj": "temporal_qformer.qformer.encoder.layer.{i}.crossattention.output.dense",
    "structure_encoder.qformer.layers.{i}.cross_attention.norm": "temporal_qformer.qformer.encoder.layer.{i}.crossattention.output.LayerNorm",
    "structure_encoder.qformer.layers.{i}.cross_attention": "temporal_qformer.qformer.encoder.layer.{i}.crossattention.attention",
    "structure_encoder.qformer.layers.{i}.mlp.fc1": "temporal_qformer.qformer.encoder.layer.{i}.intermediate_query.dense",
    "structure_encoder.qformer.layers.{i}.mlp.fc2": "temporal_qformer.qformer.encoder.layer.{i}.output_query.dense",
    "structure_encoder.qformer.layers.{i}.mlp.norm": "temporal_qformer.qformer.encoder.layer.{i}.output_query.LayerNorm",
    "structure_encoder.conv_in": "conv_in",
    "structure_encoder.down.{i}": "content_downsample_blocks.{2i}",
    "structure_encoder.moments": "bottle_down",
    "structure_decoder.conv_in": "bottle_up.0",
    "structure_decoder.up.{i}": "content_upsample_blocks.{3i}",
    "structure_decoder.conv_out": "conv_out",
    "structure_decoder.to_hidden": "cont_emb.0",
    "structure_decoder.to_frames": "cont_emb.2",
    "dynamics_encoder.down.{i}": "downsample_motion_module.{2i}",
    "dynamics_encoder.moments": "motion_head",
    "dynamics_decoder.embed": "motion_emb",
    "dynamics_decoder.stretch.0": "up_motion",
    "decoder.transformer.blocks.{i}.modulation": "decoder.blocks.{i}.scale_shift_table",
    "decoder.transformer.blocks.{i}.spatial_attention": "decoder.blocks.{i}.attn",
    "decoder.transformer.blocks.{i}.temporal_attention": "decoder.blocks.{i}.attn_temp",
    "decoder.transformer.blocks.{i}.mlp": "decoder.blocks.{i}.mlp",
    "decoder.head.modulation": "decoder.final_layer.scale_shift_table",
    "decoder.head.linear": "decoder.final_layer.linear",
}  # fmt: skip


def released_name(name: str) -> str:
    """The released name of one of our parameters."""
    for ours, released in NAMES.items():
        match = re.match(re.escape(ours).replace(r"\{i\}", r"(\d+)") + r"(?=\.|$)", name)
        if match:
            layer = int(match.group(1)) if match.groups() else 0
            for token, number in (("{i}", layer), ("{2i}", 2 * layer), ("{3i}", 3 * layer)):
                released = released.replace(token, str(number))
            return released + name[match.end() :]
    raise AssertionError(f"no released name for {name}")


def unused_shapes(config: VidTwinConfig) -> dict[str, tuple[int, ...]]:
    """The five tensors that the released model carries and never reads, with their shapes."""
    c, p = config.hidden, config.patch
    return {
        "encoder.final_layer.scale_shift_table": (2, c),
        "encoder.final_layer.linear.weight": (3 * p * p, c),
        "encoder.final_layer.linear.bias": (3 * p * p,),
        "decoder.x_embedder.proj.weight": (c, 3, 1, p, p),
        "decoder.x_embedder.proj.bias": (c,),
    }


def position_tables(config: VidTwinConfig) -> dict[str, Tensor]:
    """The four position buffers, float64."""
    space = spatial_positions(*config.grid, config.hidden)[None]
    time = temporal_positions(config.frames, config.hidden)[None]
    return {
        f"{part}.{name}": table.clone()
        for part in ("encoder", "decoder")
        for name, table in (("pos_embed", space), ("pos_embed_temporal", time))
    }


def released_presets() -> dict[str, VidTwinConfig]:
    """The presets that the released layout can hold."""
    return {name: config for name, config in PRESETS.items() if config.temporal_attention == "causal"}


@lru_cache(maxsize=32)
def released_shapes(config: VidTwinConfig) -> dict[str, tuple[int, ...]]:
    """Every name of the released layout of a config, without `loss.*`, with its shape (587 names for "released").

    Raises:
        ValueError: a config that the released code cannot hold: full temporal attention, an ablated branch, or a grid that is
            not square together with downsampled Dynamics.
    """
    if config.temporal_attention != "causal":
        raise ValueError("temporal_attention='full' does not exist in the released layout; use 'causal'")
    for name in ("structure_branch", "dynamics_branch"):
        value, released = getattr(config, name), getattr(VidTwinConfig, name)
        if value != released:
            raise ValueError(f"{name}={value!r} does not exist in the released layout; use {released!r}")
    if config.dynamics_downsamples and config.grid[0] != config.grid[1]:
        raise ValueError(
            f"a grid of {config.grid} with dynamics_downsamples={config.dynamics_downsamples} does not exist in the released "
            "layout, which stretches both axes with one map; use a square size or dynamics_downsamples=0"
        )
    parameters = {released_name(name): shape for name, shape in parameter_shapes(config).items()}
    (h, w), f, c = config.grid, config.frames, config.hidden
    tables: dict[str, tuple[int, ...]] = {}
    for part in ("encoder", "decoder"):
        tables |= {f"{part}.pos_embed": (1, h * w, c), f"{part}.pos_embed_temporal": (1, f, c)}
    return parameters | unused_shapes(config) | tables


def released_state(
    path: str | Path, config: VidTwinConfig | None = None
) -> tuple[VidTwinConfig, dict[str, Tensor], dict[str, Tensor]]:
    """The config (by default of the preset that fits), our parameters from a file in Microsoft's layout (.ckpt, .pt, .pth: torch;
    .safetensors), and what is set aside, by its names.

    Strict: every tensor of the layout must be there in its shape, and nothing else but `loss.*`. Position tables may be missing
    (they follow from the config) but may not differ by more than rounding.

    Raises:
        FileNotFoundError, ValueError: as `loading.load_released`.
    """
    tensors = read_released(path)
    if config is None:
        stated = {name: tuple(t.shape) for name, t in tensors.items() if not name.startswith("loss.")}
        config = next((other for other in released_presets().values() if _fits(stated, other)), released_presets()["released"])
    try:
        expected = released_shapes(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    found = {name: tensor for name, tensor in tensors.items() if not name.startswith("loss.")}
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    shapes |= {name: expected[name] for name in TABLES if name not in shapes}
    if shapes != expected:
        if fitting := next((name for name, other in released_presets().items() if _fits(shapes, other)), None):
            raise ValueError(f"{path}: holds the preset {fitting!r}; give config={fitting!r}")
        remedy = "try a VidTwinConfig of the sizes in the file (`vidtwin info` prints them)"
        refuse_differences(expected, shapes, str(path), remedy)
    tables = position_tables(config)
    for name, table in tables.items():
        if not torch.allclose(found.setdefault(name, table).double(), table, rtol=0, atol=1e-3):
            raise ValueError(f"{path}: {name} is not the position table of this config; the file is of another model")
    names = {name: released_name(name) for name in parameter_shapes(config)}
    aside = {name: tensor for name, tensor in tensors.items() if name not in names.values()}
    return config, {name: found[released] for name, released in names.items()}, aside


def _fits(shapes: dict[str, tuple[int, ...]], config: VidTwinConfig) -> bool:
    """Whether these are the shapes of a config; tables of positions may be missing."""
    expected = released_shapes(config)
    return {name: expected[name] for name in TABLES} | shapes == expected


def read_released(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file in Microsoft's layout, `loss.*` included; nothing in it is executed.

    Raises:
        FileNotFoundError, ValueError: as `load_released`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a .ckpt or .safetensors file")
    return read_state_dict(path, "give a checkpoint of the released VidTwin")
