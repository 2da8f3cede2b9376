"""A training recipe: a YAML file whose every key is read, and whose unknown keys are refused."""

import difflib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from vidtwin.losses.objective import LossWeights
from vidtwin.model.config import VidTwinConfig, preset


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, and how.

    Attributes:
        model: name of a preset, or a mapping of VidTwinConfig fields.
        train_videos, validation_videos: folders.
        sample_fps: frame rate at which clips are sampled from the videos (whole strides); null is every frame.
        flip: mirror half of the clips.
        loss: weights of the objective's terms (`LossWeights`).
        sample_posterior: decode a draw from the posterior (a variational autoencoder) or its mean.
        init_from: weights to start from (a shipped name, a folder or a hub id); only the number of frames may
            differ (`initialize.inflated`). null starts from scratch, the posterior's log-variance at `initial_logvar`.
        batch_size (clips), steps, warmup_steps (linear from 0, then cosine to `final_lr_ratio` times `learning_rate`).
        clip_norm: L2 norm that the gradient is clipped to.
        log_every, validate_every, checkpoint_every: in steps; validation_clips: the first clip of that many videos.
    """

    model: str | dict[str, Any]
    train_videos: str
    validation_videos: str
    sample_fps: float | None = None
    flip: bool = True
    loss: LossWeights = field(default_factory=LossWeights)
    sample_posterior: bool = True
    init_from: str | None = None
    initial_logvar: float = -6.0
    batch_size: int = 4
    steps: int = 10_000
    learning_rate: float = 1e-3
    final_lr_ratio: float = 0.01
    warmup_steps: int = 200
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    workers: int = 1
    seed: int = 0
    log_every: int = 20
    validate_every: int = 1000
    validation_clips: int = 24
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps", "log_every", "validate_every", "validation_clips", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: must not be negative")
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be positive")

    @property
    def config(self) -> VidTwinConfig:
        return preset(self.model) if isinstance(self.model, str) else VidTwinConfig.from_dict(self.model)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"betas": list(self.betas)}


# What may differ when a run is resumed: where things are, how the run is carried out, when it ends. Not what a step does.
RESUMABLE = (
    "train_videos",
    "validation_videos",
    "steps",
    "workers",
    "log_every",
    "validate_every",
    "validation_clips",
    "checkpoint_every",
)


def read_recipe(path: str | Path, **overrides: Any) -> Recipe:
    """A recipe from a YAML file; `overrides` that are not None replace its keys.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a YAML mapping, an unknown key (with the nearest known one), or a value of a wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such recipe; recipes are YAML files, see recipes/tiny.yaml")
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: not a recipe; it must be a YAML mapping of keys to values")
    values |= {key: value for key, value in overrides.items() if value is not None}
    try:
        if isinstance(values.get("loss"), dict):
            values["loss"] = _build(LossWeights, values["loss"], "loss.")
        recipe: Recipe = _build(Recipe, values, "")
        recipe.config  # noqa: B018 (an unknown preset or a bad field is an error of the recipe)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
    return recipe


def _build(kind: type, values: dict[str, Any], prefix: str) -> Any:
    known = {f.name: f for f in fields(kind)}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise ValueError(f"unknown key {prefix}{key}; the nearest known one is {prefix}{near}")
        values[key] = _convert(prefix + key, value, known[key].type)
    missing = [key for key in ("model", "train_videos", "validation_videos") if key in known and key not in values]
    if missing:
        raise ValueError(f"key {missing[0]} is missing; add it to the recipe or give it on the command line")
    return kind(**values)


def _convert(key: str, value: Any, kind: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and isinstance(value, str):  # YAML reads 1e-4 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and number:
        return float(value)
    if kind == tuple[float, float] and isinstance(value, list) and len(value) == 2:
        return tuple(_convert(key, item, float) for item in value)
    if (kind in (int, bool, str) and type(value) is not kind) or kind in (float, tuple[float, float]):
        raise ValueError(f"{key}={value!r}: expected {getattr(kind, '__name__', kind)}")
    if kind is LossWeights and not isinstance(value, LossWeights):
        raise ValueError(f"{key}={value!r}: expected a mapping of loss weights, as in {{l1: 1.0}}")
    if kind == str | dict[str, Any] and not isinstance(value, str | dict):
        raise ValueError(f"{key}={value!r}: expected a preset's name or a mapping of config fields")
    if kind == str | None and not isinstance(value, str | None):
        raise ValueError(f"{key}={value!r}: expected text or null")
    if kind == float | None and value is not None and not (number and value > 0):
        raise ValueError(f"{key}={value!r}: expected a positive number or null")
    return value
