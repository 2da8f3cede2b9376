"""Loading and saving a model: `from_pretrained`, `save_pretrained` and `push_to_hub`, with the habits of huggingface_hub's mixin.

Our format is a folder or hub repository with `config.json` (the config's fields) and `model.safetensors`; files in Microsoft's
layout are read too. `Checkpointed` knows files and tensors, and of the model only that it is built from a config.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vidtwin.files import atomic_output, check_writable, clear_killed, tensor_output
from vidtwin.model.cards import CARD_FILE, PAPER, model_card
from vidtwin.model.checkpoint import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Uninitialized,
    own_float32,
    read_config,
    read_config_file,
    read_tensors,
    refuse_differences,
    shorten,
    stored_in,
)
from vidtwin.model.config import VidTwinConfig, preset
from vidtwin.model.hub import HubOptions, Pushed, find_weights
from vidtwin.model.parts import parameter_shapes
from vidtwin.model.released import released_state

T = TypeVar("T", bound="Checkpointed")


class Checkpointed(Pushed):
    """Loading and saving for `VidTwin`."""

    config: VidTwinConfig
    set_aside: dict[str, Tensor]

    @classmethod
    def from_pretrained(
        cls: type[T],
        name: str | Path,
        *,
        config: str | Path | VidTwinConfig = "auto",
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        **hub_options: Any,
    ) -> T:
        """A model in eval mode, float32 on the CPU if nothing else is asked for, by a name:

            VidTwin.from_pretrained("mini")                # shipped; these names come first, and need no network
            VidTwin.from_pretrained("folder")              # what `save_pretrained` wrote, or its model.safetensors
            VidTwin.from_pretrained("owner/name")          # a hub repository of such a folder, or of a single file
            VidTwin.from_pretrained("owner/name/x.ckpt")   # one of its files in Microsoft's layout; a local one likewise
            VidTwin.from_pretrained("released")            # Microsoft's checkpoint, of the hub repository microsoft/vidtwin

        What is on the hub is downloaded once, into the hub's cache. Weights stored in float32 stay in their file until they are
        used, mapped into memory: changing the model does not change the file, and replacing the file is safe; do not write into it
        meanwhile. Files of torch are read without running code.

        Args:
            config: of a file in Microsoft's layout: a preset's name, the path of a config.json, or a config; "auto" is the
                preset that fits.
            dtype, torch_dtype: of the model, a torch.dtype or its name; give one of the two.
            device: where it is put.
            hub_options: subfolder, revision, token, cache_dir, local_files_only, force_download, as in `hub.HubOptions`.

        Raises:
            FileNotFoundError: no such folder, a file of it is missing, or the hub did not give it; the message says why.
            ValueError: the config or the tensors are not those of a VidTwin; the message lists what differs. A dtype or a device
                that there is not. TypeError: an unknown option.
        """
        options, kind = HubOptions.of(hub_options), as_dtype(dtype, torch_dtype)
        place = None if device is None else as_device(device)
        path = find_weights(name, options)
        model = cls.from_folder(path) if path.is_dir() or not path.exists() else cls.from_released(path, config)
        assert isinstance(model, nn.Module)
        model.to(place, kind)
        return model

    @classmethod
    def from_folder(cls: type[T], folder: Path) -> T:
        """`from_pretrained` of a folder of ours."""
        config, tensors = read_config(folder), read_tensors(folder / WEIGHTS_FILE)
        refuse_differences(parameter_shapes(config), {name: tuple(tensor.shape) for name, tensor in tensors.items()}, str(folder))
        return cls._of(config, tensors, folder)

    @classmethod
    def from_released(cls: type[T], path: str | Path, config: str | Path | VidTwinConfig = "auto") -> T:
        """`from_pretrained` of a file in Microsoft's layout."""
        found, tensors, aside = released_state(path, None if config == "auto" else as_config(config))
        model = cls._of(found, tensors, path)
        model.set_aside = aside
        return model

    @classmethod
    def _of(cls: type[T], config: VidTwinConfig, tensors: Mapping[str, Tensor], source: str | Path) -> T:
        make: Callable[[VidTwinConfig], nn.Module] = cls  # type: ignore[assignment]
        with Uninitialized():
            model = make(config)
        model.load_state_dict(own_float32(tensors, source), assign=True)
        assert isinstance(model, cls)
        return model.eval()

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        figures: Mapping[str, object] | None = None,
        name: str | None = None,
    ) -> None:
        """Write the folder; its files are replaced when all of them are written. An existing README.md (model card) is kept.

        Args:
            dtype: of the stored matrices and kernels (float16 halves the file; loading gives float32 again). Biases and norms, a
                thousandth of all, stay as they are: rounding them costs more than rounding all the rest.
            figures: of the card, by their names: {"PSNR": "24.55 dB"}.
            name: by which the card says that it is loaded; default the folder's.

        Raises:
            ValueError: weights that are not finite in `dtype`; figures for a card that is kept.
            OSError: the folder cannot be written, or the disk is full.
        """
        assert isinstance(self, nn.Module)
        folder = Path(folder)
        check_card(folder, figures)
        tensors = stored_in(self.state_dict(), dtype)
        broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
        if broken:
            raise ValueError(f"{folder}: weights with NaN or infinite values in {dtype}: {shorten(broken)}; not saved")
        folder.parent.mkdir(parents=True, exist_ok=True)
        check_writable(folder / WEIGHTS_FILE if folder.is_dir() else folder)
        clear_killed(folder)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.partial-{os.getpid()}-", dir=folder.parent) as partial:
            with tensor_output(Path(partial) / WEIGHTS_FILE) as path:
                save_file(tensors, path, metadata={"format": "pt"})
            with atomic_output(Path(partial) / CONFIG_FILE) as path:
                path.write_text(json.dumps(self.config.to_dict(), indent=2) + "\n")
            if not (folder / CARD_FILE).exists():
                with atomic_output(Path(partial) / CARD_FILE) as path:
                    path.write_text(self._card(name or folder.name, dtype, figures))
            folder.mkdir(exist_ok=True)
            for path in Path(partial).iterdir():
                os.replace(path, folder / path.name)

    def _card(self, name: str, dtype: torch.dtype, figures: Mapping[str, object] | None) -> str:
        assert isinstance(self, nn.Module)
        load = f'from vidtwin import VidTwin\n\nmodel = VidTwin.from_pretrained("{name}")'
        text = f"A video autoencoder with Structure and Dynamics latents ({PAPER})."
        facts = config_facts(self.config) | {
            "parameters": f"{sum(weight.numel() for weight in self.parameters()):,}, stored in {str(dtype).removeprefix('torch.')}",
            "config": ", ".join(f"{key}={value}" for key, value in self.config.to_dict().items()),
        }
        return model_card("VidTwin", text, load, facts, figures, "video, autoencoder")


def config_facts(config: VidTwinConfig) -> dict[str, str]:
    """What a config says of clips and latents, as text."""
    return {
        "clip": f"{config.frames} frames of {config.width}x{config.height}",
        "latents": f"structure {config.structure_shape}, dynamics {config.dynamics_x_shape} and {config.dynamics_y_shape}",
        "latent values": f"{config.latent_values}",
        "rate": f"{config.compression_rate:.4%}",
    }


def check_card(folder: Path, figures: Mapping[str, object] | None) -> None:
    """Raise a ValueError if figures would not be written, because there is a card."""
    if figures and (folder / CARD_FILE).exists():
        raise ValueError(f"figures={dict(figures)}: {folder / CARD_FILE} is there and is kept; write them into it, or delete it")


def as_config(config: str | Path | VidTwinConfig) -> VidTwinConfig:
    """A preset's name, the path of a config.json, or a config."""
    if isinstance(config, VidTwinConfig):
        return config
    return read_config_file(Path(config)) if str(config).endswith(".json") else preset(str(config))


def as_dtype(dtype: torch.dtype | str | None, torch_dtype: torch.dtype | str | None = None) -> torch.dtype | None:
    """A dtype, or its name, under one of its two names; None for none. Raises ValueError for others."""
    found = []
    for name, value in (("dtype", dtype), ("torch_dtype", torch_dtype)):
        kind = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
        if value is not None and not (isinstance(kind, torch.dtype) and kind.is_floating_point):
            raise ValueError(f"{name}={value!r}: give torch.float32, torch.bfloat16 or torch.float16")
        found.append(kind)
    if None not in found and found[0] != found[1]:
        raise ValueError(f"dtype={dtype}, torch_dtype={torch_dtype}: are two names of the same; give one")
    return found[0] or found[1]


def as_device(name: str | torch.device) -> torch.device:
    """A device that is here. Raises ValueError for others."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ValueError(f"device={name!r}: unknown; use 'cpu', 'cuda' or 'mps'") from None
    if (device.type == "cuda" and not torch.cuda.is_available()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    ):
        raise ValueError(f"device={str(name)!r}: is not available here; use device='cpu'")
    return device
