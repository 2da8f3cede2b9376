"""The training loop of a generator (paper Sec. 3.5, D.3), on one process or many."""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from vidtwin.files import atomic_output
from vidtwin.frames.panels import side_by_side
from vidtwin.generation.diffusion import add_noise, diffusion_loss
from vidtwin.generation.dit import DiT
from vidtwin.generation.pipeline import VidTwinPipeline
from vidtwin.latent_sets.dataset import LatentDataset
from vidtwin.model.checkpoint import weights_hash
from vidtwin.model.loading import load_weights
from vidtwin.training import checkpoints
from vidtwin.training.autoencoder import MODEL, RECIPE, deaf
from vidtwin.training.generator_recipe import GeneratorRecipe
from vidtwin.training.guard import Guard, StopRequest
from vidtwin.training.latent_rows import Examples, TrainingRows, class_names, collate
from vidtwin.training.log import Clock, Means, RunLog
from vidtwin.training.optimization import Optimization, averaging, make_accelerator
from vidtwin.training.schedule import StepBatches, seed_step

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
    rank, processes, first = accelerator.process_index, accelerator.num_processes, accelerator.is_main_process
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

    guard, step = Guard(recipe.max_skipped), 0
    before = checkpoints.latest(out, recipe)
    torch.manual_seed(recipe.seed)
    network = DiT(config).to(accelerator.device)
    network.checkpointing = recipe.gradient_checkpointing
    if recipe.compile:
        for block in network.blocks:
            block.compile()
    run = Optimization(recipe, network, averaging(network, accelerator), accelerator)
    if before is not None:
        run.load(before["run"])
        step, guard.skipped = before["step"], before["skipped"]
        del before
    numbers = StepBatches(step, recipe.steps, recipe.batch_size, processes, rank, recipe.accumulate)
    pinned = accelerator.device.type == "cuda"
    loader = DataLoader(
        examples, batch_sampler=numbers, collate_fn=collate, num_workers=recipe.workers, pin_memory=pinned, worker_init_fn=deaf
    )
    pipeline = VidTwinPipeline(
        autoencoder.to(accelerator.device),
        network,
        recipe.process,
        data.normalizer,
        classes,
        frames_per_second(data),
        recipe.separate_levels,
    )
    log = RunLog(out, step, recipe.to_dict(), wandb) if first else None
    if first:
        checkpoints.clear(out)
        with atomic_output(out / RECIPE) as partial:
            partial.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False))

    means, clock = Means(), Clock()
    bar = tqdm(total=recipe.steps, initial=step, unit="step", disable=not (progress and first))
    try:
        with StopRequest().listening() as stop:
            batches = iter(loader)
            while step < recipe.steps:
                values = gradients(run, recipe, batches, step, clock, stop)
                stopping = values.pop("stop") > 0
                bad = guard.passes(run.judged(values), run.clipped(step), step)
                if bad is None:
                    run.update(step, values)
                    means.add(values)
                else:
                    run.skip()
                    if first:
                        tqdm.write(f"step {step + 1} skipped: {bad} is not finite")
                step += 1
                bar.update()

                with clock("log"):
                    last = step == recipe.steps
                    if step % recipe.log_every == 0 or last:
                        record = means.take() | {"learning_rate": run.rate("model", step - 1), "skipped_steps": guard.skipped}
                        if checks is not None and (step % recipe.validate_every < recipe.log_every or last):
                            record |= validate(run, recipe, checks)
                        record |= clock.take(recipe.batch_size)
                        if log is not None:
                            log.write(step, record)
                        bar.set_postfix(
                            {name: f"{record[name]:.4g}" for name in ("structure_mse", "dynamics_mse") if name in record}
                        )
                    if log is not None and recipe.sample_every is not None and (step % recipe.sample_every == 0 or last):
                        with run.weights_in_place():
                            log.video(step, samples(pipeline), round(pipeline.fps))
                    if step % recipe.checkpoint_every == 0 or last or stopping:
                        save_pipeline(run, pipeline, out / MODEL)
                        state = run.state()
                        if first:
                            checkpoints.save(out, recipe, step, -math.inf, guard.skipped, state)
                        accelerator.wait_for_everyone()
                if stopping and not last:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        if first:
            tqdm.write(f"stopped after step {step}; the same command goes on from the last checkpoint in {out}")
        raise
    except ValueError as error:  # of a loader's worker it carries the whole traceback; the last line says what
        *_, text = str(error).strip().splitlines() or ["the run failed"]
        raise ValueError(text.removeprefix("ValueError: ")) from error
    finally:
        bar.close()
        if log is not None:
            log.close()
    return VidTwinPipeline.from_pretrained(out / MODEL)


def gradients(
    run: Optimization, recipe: GeneratorRecipe, batches: Iterator[Examples], step: int, clock: Clock, stop: StopRequest
) -> dict[str, float]:
    """Forward and backward passes of a step: clipped gradients of its losses are in the weights' `grad`.

    Returns the losses, means over passes and processes, the gradient norm before clipping, and "stop": above 0 if a process was
    asked to stop.
    """
    accelerator = run.accelerator
    values: dict[str, float] = defaultdict(float)
    seed_step(recipe.seed, step, accelerator.process_index)
    run.zero_grad()
    run.model.train()
    for part in range(recipe.accumulate):
        with clock("data"):
            batch = next(batches).to(accelerator.device)
        with run.gradients_shared(part + 1 == recipe.accumulate):
            with accelerator.autocast():
                losses = losses_of(run.model, recipe, batch)
            accelerator.backward(losses["total"] / recipe.accumulate)
        for name, value in run.agreed({"stop": torch.tensor(float(stop.asked))} | losses).items():
            values[name] += value / recipe.accumulate
    clock.steps += 1
    return values | run.clip_gradients(step)


def losses_of(model: torch.nn.Module, recipe: GeneratorRecipe, batch: Examples) -> dict[str, Tensor]:
    """`diffusion_loss` of examples."""
    process = recipe.process
    noisy = add_noise(process, batch.clean, batch.noise, batch.levels)
    context = (batch.previous, batch.has_previous) if recipe.previous else ()
    estimate = model(noisy, batch.levels, batch.labels, *context)
    return diffusion_loss(process, estimate, batch.clean, batch.levels, (recipe.structure_weight, recipe.dynamics_weight))


@torch.no_grad()
def validate(run: Optimization, recipe: GeneratorRecipe, checks: TrainingRows) -> dict[str, float]:
    """Means of the losses over the rows of `checks`, of the weights to use."""
    means = Means()
    with run.weights_in_place():
        run.network.eval()
        for start in range(0, len(checks), recipe.batch_size):
            batch = collate([checks[n] for n in range(start, min(start + recipe.batch_size, len(checks)))])
            losses = losses_of(run.network, recipe, batch.to(run.accelerator.device))
            for _ in range(len(batch.labels)):
                means.add({name: float(value) for name, value in losses.items()})
    return {f"validation_{name}": value for name, value in means.take().items()}


def samples(pipeline: VidTwinPipeline) -> np.ndarray:
    """A sample of each of some classes beside each other, uint8 (F, H', W', 3)."""
    pipeline.denoiser.eval()
    count = len(pipeline.classes)
    numbers = [i * count // min(count, SHOWN) for i in range(min(count, SHOWN))]
    labels = numbers or None
    draws = [torch.Generator().manual_seed(i) for i in range(len(numbers) or 4)]
    made = pipeline(labels, num_videos=len(draws), generator=draws).videos.numpy()
    names = [pipeline.classes[i] for i in numbers] or [str(i) for i in range(len(made))]
    return side_by_side(dict(zip(names, made, strict=True)))


def save_pipeline(run: Optimization, pipeline: VidTwinPipeline, folder: Path) -> None:
    """Write the pipeline with the weights to use; call it on all processes."""
    weights = run.weights()
    if run.accelerator.is_main_process:
        denoiser = DiT(pipeline.denoiser.config)
        denoiser.load_state_dict(weights)
        kept = VidTwinPipeline(
            pipeline.autoencoder,
            denoiser,
            pipeline.process,
            pipeline.normalizer,
            pipeline.classes,
            pipeline.fps,
            pipeline.separate_levels,
        )
        kept.save_pretrained(folder)


def frames_per_second(data: LatentDataset) -> float:
    """Of the windows of a data set: the median."""
    rates = [rate / data.plan.step(Fraction(rate).limit_denominator(1001)) for rate in data.column("fps")]
    return float(np.median(rates))
