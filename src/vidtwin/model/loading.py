"""Any weights by one name."""

from pathlib import Path

from vidtwin.model.checkpoint import CONFIG_FILE, WEIGHTS_FILE, read_config_file
from vidtwin.model.config import VidTwinConfig
from vidtwin.model.released import RELEASED_SUFFIXES, load_released
from vidtwin.model.vidtwin import VidTwin


def load_weights(name: str | Path, config: str | VidTwinConfig = "auto") -> VidTwin:
    """A model from a shipped name, a checkpoint folder (or its model.safetensors), a hub id, or a file in Microsoft's layout.

    `config` is that of a file in Microsoft's layout: a preset's name, the path of a config.json, or a config; "auto" is the preset
    that fits.

    Raises:
        FileNotFoundError, ValueError: as `VidTwin.from_pretrained` and `load_released`.
    """
    path = Path(name)
    if is_folder_weights(path):
        return VidTwin.from_pretrained(path.parent)
    if path.suffix in RELEASED_SUFFIXES and not path.is_dir():
        if isinstance(config, str) and config.endswith(".json"):
            config = read_config_file(Path(config))
        return load_released(path, config)
    return VidTwin.from_pretrained(name)


def is_folder_weights(path: Path) -> bool:
    """Whether a file is the model.safetensors of a checkpoint folder of ours."""
    return path.name == WEIGHTS_FILE and (path.parent / CONFIG_FILE).is_file()
