"""A training recipe: a YAML file whose every key is read, and whose unknown keys are refused."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from vidtwin.checked import build
from vidtwin.files import check_regular, in_line
from vidtwin.losses.apart import TERMS
from vidtwin.losses.objective import LossWeights
from vidtwin.model.config import VidTwinConfig, preset
from vidtwin.training.patches import block_side
from vidtwin.training.shipped import RECIPES, describe, find_recipe
from vidtwin.training.yaml_values import parse_yaml, put

MOST_RECIPE = 2**20  # bytes


@dataclass(frozen=True)
class DiscriminatorRecipe:
    """The adversarial part of the objective.

    Attributes:
        weight: of the adversarial term; `adaptive` scales it by the ratio of gradient norms at the decoder's last layer.
        start: generator steps before the discriminator learns and its term counts.
        dims: 2 judges frames, 3 space-time patches. norm, width, layers: see `losses.discriminator.PatchGAN`.
        learning_rate: after `warmup_steps` from `start`; the same cosine as the generator's then.
        lecam: weight of the LeCam regularisation.
    """

    weight: float = 0.05
    start: int = 10_000
    dims: Literal[2, 3] = 2
    norm: Literal["batch", "group"] = "group"
    width: int = 64
    layers: int = 3
    adaptive: bool = True
    learning_rate: float = 1e-4
    warmup_steps: int = 500
    lecam: float = 0.0

    def __post_init__(self) -> None:
        _at_least(self, 0, "start", "warmup_steps", "lecam", prefix="discriminator.")
        _at_least(self, 1, "width", "layers", prefix="discriminator.")
        _positive(self, "weight", "learning_rate", prefix="discriminator.")


SCRATCH_LOGVAR = -6.0
MOST_WORKERS = 1024
ON_COEFFICIENTS = (
    *("reverse", "max_stride", "brightness", "contrast", "colour", "views"),
    *("structure_alone", "dynamics_alone", "fitted_logvar"),
)


@dataclass(frozen=True, kw_only=True)
class RunRecipe:
    """What every kind of training has.

    Attributes:
        batch_size: clips per step, over all processes. accumulate: passes that each process splits its share into.
        steps, warmup_steps: linear from 0, then a cosine to `final_lr_ratio` times `learning_rate`.
        optimizer: "adamw" for all, or "muon": Muon (Jordan 2024; torch 2.9 or newer) for the matrices of transformer blocks, at
            `muon_learning_rate`, and AdamW for the rest.
        rate_factors: factors of the learning rates, by what a parameter's name holds; the first that fits counts.
        betas, eps: of AdamW, for all optimizers. weight_decay: of matrices and kernels; not of biases, norms, tables and queries.
        clip_norm: L2 norm that gradients are clipped to.
        ema_decay: of the running mean of the weights, which validation, `model` and `best` use; null is none.
        precision: of the forward and backward pass; weights and losses are float32.
        gradient_checkpointing: less memory, more time, the same numbers. compile: torch.compile.
        max_skipped: steps in a row that may be skipped because a value was not finite.
        log_every, validate_every, checkpoint_every: in steps; keep_checkpoints: how many of the last ones stay.
    """

    batch_size: int = 4
    accumulate: int = 1
    steps: int = 10_000
    learning_rate: float = 1e-3
    final_lr_ratio: float = 0.01
    warmup_steps: int = 200
    optimizer: Literal["adamw", "muon"] = "adamw"
    muon_learning_rate: float = 1e-3
    rate_factors: dict[str, float] = field(default_factory=dict)
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema_decay: float | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    gradient_checkpointing: bool = False
    compile: bool = False
    workers: int = 1
    seed: int = 0
    max_skipped: int = 3
    log_every: int = 20
    validate_every: int = 1000
    checkpoint_every: int = 500
    keep_checkpoints: int = 2

    # What may differ when a run is resumed: where things are, how the run is carried out, when it ends. Not what a step does.
    RESUMABLE: ClassVar[frozenset[str]] = frozenset(
        {
            "steps",
            "workers",
            "gradient_checkpointing",
            "max_skipped",
            "log_every",
            "validate_every",
            "checkpoint_every",
            "keep_checkpoints",
        }
    )

    def __post_init__(self) -> None:
        _at_least(self, 1, "batch_size", "accumulate", "steps", "max_skipped", "keep_checkpoints")
        _at_least(self, 1, "log_every", "validate_every", "checkpoint_every")
        _at_least(self, 0, "seed", "workers", "warmup_steps", "weight_decay", "final_lr_ratio")
        if self.workers > MOST_WORKERS:
            raise ValueError(f"workers={self.workers}: at most {MOST_WORKERS}")
        _positive(self, "learning_rate", "muon_learning_rate", "clip_norm", "eps")
        for name, factor in self.rate_factors.items():
            if factor < 0:
                raise ValueError(f"rate_factors.{name}={factor!r}: must be a number of at least 0")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay}: must be in [0, 1)")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas={list(self.betas)}: must be in [0, 1)")

    def to_dict(self) -> dict[str, Any]:
        """The keys and values, as YAML and JSON hold them."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class Recipe(RunRecipe):
    """How to train an autoencoder, and on what. Further keys are those of `RunRecipe`.

    Attributes:
        model: name of a preset, or a mapping of VidTwinConfig fields.
        train_videos, validation_videos: a folder, a .csv with a `videos` column, a .txt list, WebDataset tars, or a LeRobot data
            set (`data.sources.recordings`).
        perceptual: "lpips" (needs VGG16's weights: `perceptual_weights`, else downloaded), "ms-ssim" or "none"; its weight is
            loss.perceptual.
        sample_fps: frame rate at which clips are sampled from the videos (whole strides); null is every frame. A slower video is
            taken at every frame.
        flip: mirror half of the clips. reverse: play half of them backwards. max_stride: take every n-th frame, n up to this, drawn
            per clip. brightness, contrast: pixels x in [-1, 1] become gain x + offset, drawn per clip, gain from 1 +- contrast,
            offset from +- brightness. All but flip with coefficients only.
        short_side: [low, high], pixels that a video's shorter side is resized to before the random
            crop, a draw per clip; null is the model's size.
        loss: weights and scaling of the objective's terms (`LossWeights`).
        learned_logvar: learn the log-variance s of the likelihood, r / exp(s) + s, kept within +- logvar_bound.
        discriminator: null is none.
        sample_posterior: decode a draw from the posterior (a variational autoencoder) or its mean.
        centre: gradients and steps of maps as if their inputs were centred, on the means of the first clips (`training.centring`).
        init_from: weights to start from: a shipped name, a folder, a hub id, or a file in Microsoft's layout; only the number of
            frames may differ (`initialize.inflated`). null starts from scratch.
        initial_logvar: log-variance that the posterior starts at (the bias of its map); null is that of `init_from`, or -6.
        fitted_logvar: start instead at the log-variances that suit the objective and the decoder (`training.log_variance`); with
            coefficients only, and loss.kl above 0.
        coefficients: train on so many principal coefficients of each 16x16 block (`training.coefficients`) instead of pixels; the
            squared error alone is known there, so loss.l1 and loss.perceptual are 0. null is pixels.
        cache: folder of the coefficients; null is `coefficients` in the run's folder. views: of each video, of drawn short side,
            place and colour (gains from 1 +- colour).
        structure_alone, dynamics_alone: shares of the clips that are decoded from one latent alone, so that the decoder does not
            unlearn it; with coefficients only.
        initialization: from scratch: "released" as the released code does, "linear": as the best linear coder, fitted to
            `init_clips` clips (`training.linear`), or "principal": the maps from and to patches on the
            principal components of the patches of `init_clips` clips, the branches at a scale that keeps variance; much faster.
        clip_norm: of the generator's and the discriminator's gradients each.
        shard: over several processes, each holds a share of the weights, gradients and optimizer states (FSDP) instead of all of
            them (DDP).
        max_failures: share of the recordings that may fail before the run stops.
        validation_clips: validate on the first clip of that many videos.
    """

    model: str | dict[str, Any]
    train_videos: str
    validation_videos: str
    perceptual: Literal["lpips", "ms-ssim", "none"]
    perceptual_weights: str | None = None
    sample_fps: float | None = None
    flip: bool = True
    reverse: bool = False
    max_stride: int = 1
    brightness: float = 0.0
    contrast: float = 0.0
    coefficients: int | None = None
    cache: str | None = None
    views: int = 1
    colour: float = 0.0
    structure_alone: float = 0.0
    dynamics_alone: float = 0.0
    short_side: tuple[int, int] | None = None
    loss: LossWeights = field(default_factory=LossWeights)
    learned_logvar: bool = False
    logvar_bound: float = 4.0
    discriminator: DiscriminatorRecipe | None = None
    sample_posterior: bool = True
    centre: bool = False
    init_from: str | None = None
    initialization: Literal["released", "principal", "linear"] = "released"
    init_clips: int = 256
    initial_logvar: float | None = None
    fitted_logvar: bool = False
    shard: bool = False
    max_failures: float = 0.1
    validation_clips: int = 24

    RESUMABLE: ClassVar[frozenset[str]] = RunRecipe.RESUMABLE | {
        "train_videos",
        "validation_videos",
        "perceptual_weights",
        "cache",
        "shard",
        "max_failures",
        "validation_clips",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.config  # noqa: B018 (an unknown preset or a bad field is an error of the recipe)
        _at_least(self, 1, "init_clips", "validation_clips", "max_stride", "views")
        _at_least(self, 0, "max_failures", "brightness", "contrast", "colour", "structure_alone", "dynamics_alone")
        for name in ("structure_alone", "dynamics_alone"):
            if getattr(self, name) > 0.5:
                raise ValueError(f"{name}={getattr(self, name)}: must be in [0, 0.5]")
        _positive(self, "logvar_bound")
        self._check_apart()
        if self.sample_fps is not None:
            _positive(self, "sample_fps")
        if self.coefficients is not None:
            self._check_coefficients(self.coefficients)
        elif any(getattr(self, name) != getattr(type(self), name) for name in ON_COEFFICIENTS):
            raise ValueError(f"{', '.join(ON_COEFFICIENTS)} work on coefficients; set coefficients: 128")
        if (self.perceptual == "none") != (self.loss.perceptual == 0):
            raise ValueError(
                f"perceptual: {self.perceptual} with loss.perceptual={self.loss.perceptual}: "
                "give the term a weight above 0, or set perceptual: none and leave the weight out"
            )
        if self.perceptual_weights is not None and self.perceptual != "lpips":
            raise ValueError(f"perceptual_weights={self.perceptual_weights!r}: only perceptual: lpips reads them; leave it out")

    def _check_apart(self) -> None:
        """Refuse the terms of `losses.apart` where they cannot be computed."""
        given = [name for name in TERMS if getattr(self.loss, name)]
        for name in given:
            _at_least(self.loss, 0, name, prefix="loss.")
        if given and self.shard:
            raise ValueError(f"loss.{given[0]}: not with shard, which calls the model only as a whole; set shard: false")
        if self.loss.consistency and (self.structure_alone or self.dynamics_alone):
            raise ValueError(
                "loss.consistency: not with structure_alone or dynamics_alone, whose clips lack a latent; set them to 0"
            )
        if {"swap", "decorrelation"} & set(given) and self.batch_size // self.accumulate < 2:
            raise ValueError(
                "loss.swap and loss.decorrelation: they need two clips in a pass; raise batch_size, or lower accumulate"
            )

    def _check_coefficients(self, count: int) -> None:
        most = 3 * block_side(self.config.patch) ** 2
        if not 1 <= count <= most:
            raise ValueError(f"coefficients={count}: a block has 1 to {most}")
        if self.loss.l1 or self.perceptual != "none" or self.discriminator is not None or self.learned_logvar:
            raise ValueError(
                "coefficients: they know the squared error alone; set loss.l1: 0, perceptual: none, and no discriminator"
            )
        if self.fitted_logvar and (self.loss.kl == 0 or self.initial_logvar is not None):
            raise ValueError("fitted_logvar: it follows from loss.kl; give that a value above 0, and leave initial_logvar out")
        if self.shard:
            raise ValueError("shard: not with coefficients; set shard: false")

    @property
    def from_scratch_logvar(self) -> float:
        """Log-variance that the posterior starts at from scratch."""
        return SCRATCH_LOGVAR if self.initial_logvar is None else self.initial_logvar

    @property
    def config(self) -> VidTwinConfig:
        return preset(self.model) if isinstance(self.model, str) else VidTwinConfig.from_dict(self.model)


R = TypeVar("R", bound=RunRecipe)


def read_recipe(
    given: str | Path,
    kind: type[R] = Recipe,  # type: ignore[assignment]
    settings: Sequence[str] = (),
    **overrides: Any,
) -> R:
    """A recipe of a kind from a YAML file, or a shipped one by its name (`shipped.find_recipe`).

    Args:
        settings: key=value in place of the file's, the value as YAML writes it; loss.kl=0.001 is a key of a mapping.
        overrides: keys in place of the file's, where they are not None.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a YAML mapping, an unknown key (with the nearest known one), or a value of a wrong type.
    """
    path = find_recipe(given)
    try:
        check_regular(path, MOST_RECIPE)
        values = parse_yaml(path.read_text())
    except ValueError as error:
        raise ValueError(f"{given}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{given}: not a recipe; it must be a YAML mapping of keys to values")
    overrides = {key: value for key, value in overrides.items() if value is not None}
    for setting in settings:
        put(values, setting, overrides)
    try:
        return build(kind, values | overrides)
    except (ValueError, TypeError, OverflowError) as error:
        remedy = "; add it to the recipe or give it on the command line" if str(error).endswith(" is missing") else ""
        if path.parent == RECIPES and describe(path).of_generator != (kind is not Recipe):
            remedy = f"; {path.stem} is a recipe of {'generators' if kind is Recipe else 'autoencoders'}"
        raise ValueError(f"{given}: {in_line(error)}{remedy}") from None


def _at_least(recipe: Any, low: int, *names: str, prefix: str = "") -> None:
    for name in names:
        if not getattr(recipe, name) >= low:
            raise ValueError(f"{prefix}{name}={getattr(recipe, name)}: must be at least {low}")


def _positive(recipe: Any, *names: str, prefix: str = "") -> None:
    for name in names:
        if not getattr(recipe, name) > 0:
            raise ValueError(f"{prefix}{name}={getattr(recipe, name)}: must be positive")
