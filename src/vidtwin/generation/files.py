"""A trained generator as a folder, here or on the hub.

It holds `generator.json` (process, denoiser, classes, frame rate), `generator.safetensors` (weights of the denoiser, statistics of
the latents) and `autoencoder/`, a checkpoint as `VidTwin.from_pretrained` reads it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from vidtwin.checked import build, read_json
from vidtwin.files import atomic_output, in_line, tensor_output, write_json
from vidtwin.generation.config import DiTConfig
from vidtwin.generation.diffusion import Process
from vidtwin.generation.dit import DiT
from vidtwin.model.cards import CARD_FILE, PAPER, model_card
from vidtwin.model.checkpoint import (
    CONFIG_FILE,
    SHIPPED,
    WEIGHTS_FILE,
    Uninitialized,
    own_float32,
    read_tensors,
    refuse_differences,
    stored_in,
    weights_hash,
)
from vidtwin.model.hub import HubOptions, fetch, hub_id, local
from vidtwin.model.latents import NAMES
from vidtwin.model.normalizer import Normalizer
from vidtwin.model.pretrained import check_card, config_facts
from vidtwin.model.vidtwin import VidTwin

FORMAT = 1
FACTS_FILE, TENSORS_FILE, AUTOENCODER = "generator.json", "generator.safetensors", "autoencoder"


@dataclass(frozen=True)
class _Facts:
    """What generator.json holds; older ones without `separate_levels`.

    Raises:
        ValueError: another format, a class named twice, or numbers that cannot be.
    """

    format: int
    process: Process
    denoiser: DiTConfig
    classes: list[str]
    fps: float
    separate_levels: float | None = None

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format {self.format}; this vidtwin reads format {FORMAT}")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("a class appears twice")
        if not 0 < self.fps <= 1000:
            raise ValueError(f"fps={self.fps}: expected a number above 0, 1000 at most")
        if not 0 <= (self.separate_levels or 0) <= 1:
            raise ValueError(f"separate_levels={self.separate_levels}: expected a number from 0 to 1")


class Generator(NamedTuple):
    """What is stored, as in `pipeline.VidTwinPipeline`."""

    autoencoder: VidTwin
    denoiser: DiT
    process: Process
    normalizer: Normalizer
    classes: Sequence[str]
    fps: float
    separate_levels: float | None


def write_generator(
    made: Generator, folder: Path, dtype: torch.dtype, figures: Mapping[str, object] | None, name: str | None
) -> None:
    """`VidTwinPipeline.save_pretrained`."""
    check_card(folder, figures)
    folder.mkdir(parents=True, exist_ok=True)
    if not _holds(folder / AUTOENCODER, made.autoencoder):
        made.autoencoder.save_pretrained(folder / AUTOENCODER, dtype=dtype)
    own = {f"denoiser.{name}": tensor for name, tensor in stored_in(made.denoiser.state_dict(), dtype).items()}
    for kind, values in (("mean", made.normalizer.mean), ("std", made.normalizer.std)):
        own |= stored_in({f"{kind}.{name}": tensor.float() for name, tensor in zip(NAMES, values, strict=True)}, torch.float32)
    if broken := next((name for name, tensor in own.items() if not torch.isfinite(tensor).all()), None):
        raise ValueError(f"{folder}: {broken} has NaN or infinite values; not saved")
    facts: dict[str, Any] = {"format": FORMAT, "process": asdict(made.process), "denoiser": made.denoiser.config.to_dict()}
    facts |= {"classes": list(made.classes), "fps": made.fps, "separate_levels": made.separate_levels}
    with tensor_output(folder / TENSORS_FILE) as partial:
        save_file(own, partial, metadata={"format": "pt"})
    write_json(folder / FACTS_FILE, facts)
    if not (folder / CARD_FILE).exists():
        with atomic_output(folder / CARD_FILE) as partial:
            partial.write_text(_card(made, name or folder.name, figures))


def _card(made: Generator, name: str, figures: Mapping[str, object] | None) -> str:
    load = f'from vidtwin import VidTwinPipeline\n\npipeline = VidTwinPipeline.from_pretrained("{name}")'
    facts = {"classes": ", ".join(made.classes) or "none", "frames per second": f"{made.fps:g}"} | {
        "process": ", ".join(f"{key} {value}" for key, value in asdict(made.process).items()),
        "parameters": f"{sum(weight.numel() for weight in made.denoiser.parameters()):,}, without the autoencoder's",
        **config_facts(made.autoencoder.config),
    }
    text = f"A generator of videos: a diffusion transformer on the latents of the VidTwin in `{AUTOENCODER}` ({PAPER})."
    return model_card("VidTwin generator", text, load, facts, figures, "video, diffusion")


def read_generator(folder: Path) -> Generator:
    """`VidTwinPipeline.from_pretrained` of a folder, in float32 on the CPU."""
    path = folder / FACTS_FILE
    try:
        facts = build(_Facts, read_json(path))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: missing; give the folder `model` of a run of vidtwin train-generator, or a shipped name: "
            f"{', '.join(shipped_generators())}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: not the description of a generator ({in_line(error)})") from error
    config = facts.denoiser
    tensors = own_float32(read_tensors(folder / TENSORS_FILE), folder / TENSORS_FILE)
    with torch.device("meta"), Uninitialized():
        shapes = {f"denoiser.{name}": tuple(t.shape) for name, t in DiT(config).state_dict().items()}
    channels = (config.structure[0], config.dynamics[0], config.dynamics[0])
    shapes |= {f"{kind}.{name}": (size,) for kind in ("mean", "std") for name, size in zip(NAMES, channels, strict=True)}
    refuse_differences(shapes, {name: tuple(t.shape) for name, t in tensors.items()}, str(folder / TENSORS_FILE))
    with Uninitialized():
        denoiser = DiT(config)
    weights = {name.removeprefix("denoiser."): t for name, t in tensors.items() if name.startswith("denoiser.")}
    denoiser.load_state_dict(weights, assign=True)
    mean, std = (tuple(tensors[f"{kind}.{name}"] for name in NAMES) for kind in ("mean", "std"))
    autoencoder = VidTwin.from_pretrained(folder / AUTOENCODER)
    normalizer = Normalizer((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))
    return Generator(autoencoder, denoiser, facts.process, normalizer, facts.classes, facts.fps, facts.separate_levels)


def shipped_generators() -> list[str]:
    """Names that `VidTwinPipeline.from_pretrained` finds in the package itself."""
    return sorted(folder.name for folder in SHIPPED.iterdir() if (folder / FACTS_FILE).is_file())


def find_generator(name: str | Path, options: HubOptions | None = None) -> Path:
    """The folder of a shipped name, of a path, or of a hub id (downloaded on first use).

    Raises:
        FileNotFoundError: the hub did not give it. ValueError: a revision of what is not on the hub.
    """
    options = options or HubOptions()
    path, (repository, file) = local(name, options, shipped_generators()), hub_id(str(name))
    if path is not None or file or not repository:
        return path or Path(name)
    try:
        folder, files = fetch(repository, options, _files_of)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"generator {str(name)!r}: no such folder, and {error}") from error.__cause__
    return (folder / files[0]).parent


def _files_of(prefix: str, files: Mapping[str, int | None]) -> list[str]:
    """Those of a generator in a repository."""
    names = (FACTS_FILE, TENSORS_FILE, f"{AUTOENCODER}/{CONFIG_FILE}", f"{AUTOENCODER}/{WEIGHTS_FILE}")
    wanted = [prefix + name for name in names]
    if missing := [name for name in wanted if name not in files]:
        raise FileNotFoundError(f"not a generator: {', '.join(missing)} missing")
    return wanted


def _holds(folder: Path, model: VidTwin) -> bool:
    """Whether a folder is a checkpoint of these weights."""
    try:
        return weights_hash(VidTwin.from_pretrained(folder)) == weights_hash(model)
    except (OSError, ValueError):
        return False
