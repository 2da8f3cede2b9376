"""Training of a generator (paper Sec. 3.5, D.3), on one process or many."""

from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from vidtwin.files import in_line, locked
from vidtwin.frames.panels import side_by_side
from vidtwin.generation.diffusion import add_noise, diffusion_loss
from vidtwin.generation.dit import DiT
from vidtwin.generation.pipeline import VidTwinPipeline
from vidtwin.latent_sets.dataset import LatentDataset
from vidtwin.model.checkpoint import weights_hash
from vidtwin.model.loading import load_weights
from vidtwin.training import checkpoints
from vidtwin.training.generator_recipe import GeneratorRecipe
from vidtwin.training.latent_rows import Examples, TrainingRows, class_names, collate
from vidtwin.training.log import Means, RunLog
from vidtwin.training.loop import MODEL, Task, train_steps
from vidtwin.training.optimization import Optimization, averaging, make_accelerator

SHOWN = 8  # classes of which samples are shown


def train_generator(
    recipe: GeneratorRecipe, out: str | Path, device: str = "cpu", progress: bool = True, wandb: str | None = None
) -> VidTwinPipeline:
    """Train from `recipe` and leave a pipeline in `out`/model; a run that was stopped goes on from `out`/checkpoints.

    Every example, its noise and its levels are functions of (seed, number), so a resumed run equals one that never stopped, and
    one on several processes equals one on a single process, up to rounding. `out` holds what a run of
    `training.autoencoder.train` holds, but for failures and `best`.

    Args and errors are those of `training.autoencoder.train`; also:

    Raises:
        ValueError: `autoencoder` is not what encoded the latents; no column of classes.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator(recipe, device)
    with locked(out) if accelerator.is_main_process else nullcontext():
        return _train(recipe, out, accelerator, progress, wandb)


def _train(recipe: GeneratorRecipe, out: Path, accelerator: Accelerator, progress: bool, wandb: str | None) -> VidTwinPipeline:
    """`train_generator` in a folder that no other run is writing."""
    data = LatentDataset(recipe.latents)
    classes = class_names(data, recipe.label)
    autoencoder = load_weights(recipe.autoencoder, data.plan.config)
    if weights_hash(autoencoder) != data.plan.weights.hash:
        raise ValueError(
            f"autoencoder: {recipe.autoencoder} did not encode {recipe.latents}, but {data.plan.weights} did; give those weights"
        )
    config = replace(recipe.config.of_latents(data.plan.config), classes=len(classes))
    examples = TrainingRows(recipe.latents, recipe, config, classes)
    checks = None
    if recipe.validation_latents is not None:
        checks = TrainingRows(recipe.validation_latents, recipe, config, classes, recipe.validation_rows)
        if (other := checks.rows.plan.weights.hash) != data.plan.weights.hash:
            raise ValueError(f"validation_latents: {recipe.validation_latents} are of other weights ({other[:12]}); encode again")

    before = checkpoints.latest(out, recipe)
    torch.manual_seed(recipe.seed)
    network = DiT(config).to(accelerator.device)
    network.checkpointing = recipe.gradient_checkpointing
    if recipe.compile:
        for block in network.blocks:
            block.compile()
    run = Optimization(recipe, network, averaging(network, accelerator), accelerator)
    pipeline = VidTwinPipeline(
        autoencoder.to(accelerator.device),
        network,
        recipe.process,
        data.normalizer,
        classes,
        frames_per_second(data),
        recipe.separate_levels,
    )
    train_steps(GeneratorTask(recipe, run, pipeline, checks), examples, collate, out, before, progress, wandb)
    return VidTwinPipeline.from_pretrained(out / MODEL)


class GeneratorTask(Task):
    """The loop's part of a generator.

    Args:
        pipeline: the network is its denoiser. checks: rows to validate on; None does without.
    """

    shown = ("structure_mse", "dynamics_mse")

    def __init__(self, recipe: GeneratorRecipe, run: Optimization, pipeline: VidTwinPipeline, checks: TrainingRows | None):
        self.recipe, self.run, self.pipeline, self.checks = recipe, run, pipeline, checks
        classes = len(pipeline.classes)
        self.data = f"latents of {in_line(recipe.latents)}, " + (f"{classes} classes" if classes else "no classes")

    def backward(self, batch: Examples, step: int) -> dict[str, Tensor]:
        """The losses of examples, and their gradients."""
        accelerator = self.run.accelerator
        with accelerator.autocast():
            losses = self.losses(self.run.model, batch)
        accelerator.backward(losses["total"] / self.recipe.accumulate)
        return losses

    def losses(self, model: torch.nn.Module, batch: Examples) -> dict[str, Tensor]:
        """`diffusion_loss` of examples."""
        recipe, process, batch = self.recipe, self.recipe.process, batch.to(self.run.accelerator.device)
        noisy = add_noise(process, batch.clean, batch.noise, batch.levels)
        context = (batch.previous, batch.has_previous) if recipe.previous else ()
        estimate = model(noisy, batch.levels, batch.labels, *context)
        return diffusion_loss(process, estimate, batch.clean, batch.levels, (recipe.structure_weight, recipe.dynamics_weight))

    def record(self, means: dict[str, float], step: int) -> dict[str, float]:
        """Mean losses, and the learning rate."""
        return means | {"learning_rate": self.run.rate("model", step - 1)}

    @torch.no_grad()
    def validate(self, step: int, log: RunLog | None) -> dict[str, float]:
        """Means of the losses over the rows of `checks`."""
        if self.checks is None:
            return {}
        means, checks, size = Means(), self.checks, self.recipe.batch_size
        with self.run.weights_in_place():
            self.run.network.eval()
            for start in range(0, len(checks), size):
                batch = collate([checks[n] for n in range(start, min(start + size, len(checks)))])
                losses = self.losses(self.run.network, batch)
                for _ in range(len(batch.labels)):
                    means.add({name: float(value) for name, value in losses.items()})
        return {f"validation_{name}": value for name, value in means.take().items()}

    def sample(self, step: int, log: RunLog) -> None:
        """Log a sample of each of some classes beside each other, every `sample_every` steps and after the last one."""
        recipe, pipeline = self.recipe, self.pipeline
        if recipe.sample_every is None or (step % recipe.sample_every and step != recipe.steps):
            return
        count = len(pipeline.classes)
        numbers = [i * count // min(count, SHOWN) for i in range(min(count, SHOWN))]
        draws = [torch.Generator().manual_seed(i) for i in range(len(numbers) or 4)]
        with self.run.weights_in_place():
            pipeline.denoiser.eval()
            made = pipeline(numbers or None, num_videos=len(draws), generator=draws).videos.numpy()
        names = [pipeline.classes[i] for i in numbers] or [str(i) for i in range(len(made))]
        log.video(step, side_by_side(dict(zip(names, made, strict=True))), round(pipeline.fps))

    def save(self, folder: Path) -> None:
        """Write the pipeline."""
        weights, made = self.run.weights(), self.pipeline
        if self.run.accelerator.is_main_process:
            denoiser = DiT(made.denoiser.config)
            denoiser.load_state_dict(weights)
            kept = VidTwinPipeline(
                made.autoencoder, denoiser, made.process, made.normalizer, made.classes, made.fps, made.separate_levels
            )
            kept.save_pretrained(folder)


def frames_per_second(data: LatentDataset) -> float:
    """Of the windows of a data set: the median."""
    rates = [rate / data.plan.step(Fraction(rate).limit_denominator(1001)) for rate in data.column("fps")]
    return float(np.median(rates))
