"""The recipe of a generator."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from vidtwin.generation.config import DiTConfig, generator_preset
from vidtwin.generation.diffusion import Process
from vidtwin.training.recipe import RunRecipe

OF_DATA = ("structure", "dynamics", "classes")  # fields of a DiTConfig that the latents decide


@dataclass(frozen=True, kw_only=True)
class GeneratorRecipe(RunRecipe):
    """How to train a generator, and on what. Further keys are those of `RunRecipe`; batches are of latents.

    Attributes:
        model: name of a preset ("paper", "base", "small", "tiny"), or a mapping of DiTConfig fields, without what the latents
            decide (structure, dynamics, classes).
        latents: a data set that `vidtwin encode-dataset` wrote. validation_latents: another, for the loss on it; null is none.
        autoencoder: the weights that encoded them: a shipped name, a folder or a hub id.
        label: the column of the data set whose values are the classes; null trains without classes.
        method: "ddim" (the paper's) or "flow"; shift, center, spread: of flow (`generation.diffusion.Process`).
        previous: train to go on from the window before, too, for videos longer than a window.
        class_dropout, previous_dropout: shares of the clips that are shown without their class, or without the window before.
        separate_levels: share of the clips whose latents have levels of their own: one of them clean, or both apart. It is
            what sampling Dynamics for a given Structure, or the other way round, needs; 0 is the paper's.
        structure_weight, dynamics_weight: of the branches' losses, each of which is a mean.
        validation_rows: rows of `validation_latents`, spread over it.
        sample_every: steps between videos of samples in `videos`, of up to 8 classes; null is none.
    """

    model: str | dict[str, Any]
    latents: str
    autoencoder: str
    validation_latents: str | None = None
    label: str | None = "label"
    method: Literal["ddim", "flow"] = "ddim"
    shift: float = 1.0
    center: float = 0.0
    spread: float = 1.0
    previous: bool = False
    class_dropout: float = 0.2
    previous_dropout: float = 0.2
    separate_levels: float = 0.0
    structure_weight: float = 1.0
    dynamics_weight: float = 1.0
    validation_rows: int = 256
    sample_every: int | None = None

    RESUMABLE: ClassVar[frozenset[str]] = RunRecipe.RESUMABLE | {
        "latents",
        "validation_latents",
        "autoencoder",
        "validation_rows",
        "sample_every",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.config, self.process  # noqa: B018 (an unknown preset or a bad field is an error of the recipe)
        for name in ("class_dropout", "previous_dropout", "separate_levels"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be in [0, 1]")
        for name in ("structure_weight", "dynamics_weight"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be positive")
        for name in ("validation_rows", "sample_every"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")

    @property
    def config(self) -> DiTConfig:
        """Of the denoiser, but for what the latents decide."""
        if isinstance(self.model, str):
            return replace(generator_preset(self.model), previous=self.previous)
        if taken := [name for name in (*OF_DATA, "previous") if name in self.model]:
            raise ValueError(f"model.{taken[0]}: is not a key of model; latents and the recipe decide it")
        return DiTConfig.from_dict(self.model | {"previous": self.previous})

    @property
    def process(self) -> Process:
        return Process(self.method, self.shift, self.center, self.spread)
