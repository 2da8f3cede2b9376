"""Weights by one name, and in Microsoft's layout, as functions."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from vidtwin.files import tensor_output
from vidtwin.model.config import VidTwinConfig
from vidtwin.model.released import position_tables, released_name, released_shapes, unused_shapes
from vidtwin.model.vidtwin import VidTwin


def load_weights(name: str | Path, config: str | VidTwinConfig = "auto") -> VidTwin:
    """`VidTwin.from_pretrained(name, config=config)`: a shipped name, a folder, a hub id, or a file in Microsoft's layout."""
    return VidTwin.from_pretrained(name, config=config)


def load_released(path: str | Path, config: str | VidTwinConfig = "auto") -> VidTwin:
    """A model in eval mode, float32, from a file in Microsoft's layout (.ckpt, .pt, .pth: torch; .safetensors).

    Strict: every tensor of the layout must be there in its shape, and nothing else but `loss.*`. Position tables may be missing
    (they follow from the config) but may not differ by more than rounding. What the model does not take its weights from (`loss.*`,
    the five unused tensors, the tables) is kept in `model.set_aside`, from where `export_released` writes it back: a float32 file
    makes the round trip bit for bit.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a checkpoint, tensors that do not fit `config` (all differences are counted, the first ones named),
            a config that the layout cannot hold, or a pickle with anything but tensors and plain data; nothing of it has run.
    """
    return VidTwin.from_released(path, config)


def export_released(model: VidTwin, path: str | Path) -> None:
    """Write a model in Microsoft's layout: .safetensors, or .ckpt with the tensors under `state_dict`.

    The unused tensors and `loss.*` are those that `load_released` set aside; for other models the unused tensors are zeros and
    `loss.*` is left out.

    Raises:
        ValueError: another suffix, or a config that the released code cannot hold (`released_shapes`).
        OSError: the file cannot be written.
    """
    config, path = model.config, Path(path)
    if path.suffix not in (".ckpt", ".safetensors"):
        raise ValueError(f"{path}: name the output .ckpt or .safetensors")
    shapes = released_shapes(config)
    tensors = {name: torch.zeros(shape) for name, shape in unused_shapes(config).items()}
    tensors |= position_tables(config) | model.set_aside
    tensors |= {released_name(name): t.detach().cpu() for name, t in model.state_dict().items()}
    assert set(shapes) <= set(tensors)
    with tensor_output(path) as partial:
        if path.suffix == ".safetensors":
            copies = {name: t.clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}  # no shared storage
            save_file(copies, partial, metadata={"format": "pt"})
        else:
            with partial.open("wb") as file:  # a path would leave its name in the file
                torch.save({"state_dict": tensors}, file)
