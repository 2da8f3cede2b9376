"""The training loop of the autoencoder (paper Sec. 3.6, Table 9), with or without a discriminator, on one process or many."""

import math
import signal
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from vidtwin.data.clips import Batch, TrainingClips, collate, validation_clips
from vidtwin.data.failures import FailureList
from vidtwin.data.sources import recordings
from vidtwin.files import atomic_output
from vidtwin.frames.clips import Geometry, from_clip
from vidtwin.frames.panels import side_by_side
from vidtwin.losses.objective import bits
from vidtwin.metrics import clip_psnr
from vidtwin.model.vidtwin import Part, VidTwin
from vidtwin.training import checkpoints
from vidtwin.training.centring import CENTRED_ON
from vidtwin.training.coefficients import CoefficientBatch, CoefficientClips, cache_coefficients, collate_coefficients
from vidtwin.training.compact import CompactTwin
from vidtwin.training.guard import Guard, StopRequest
from vidtwin.training.initialize import start_low_variance, start_on_principal_patches, start_scaled, trained_weights
from vidtwin.training.linear.start import start_linear
from vidtwin.training.log import LOG, Clock, Means, RunLog
from vidtwin.training.log_variance import FITTED_ON, start_fitted_variance
from vidtwin.training.optimization import make_accelerator
from vidtwin.training.patches import block_side, fit_basis, to_patches
from vidtwin.training.recipe import Recipe
from vidtwin.training.run import Run
from vidtwin.training.schedule import StepBatches, noise_generator, seed_step

MODEL, BEST, FAILURES, RECIPE, COEFFICIENTS = "model", "best", "failures.jsonl", "recipe.yaml", "coefficients"
COMPONENTS = 128  # of a block, that a linear start on pixels is fitted to
PARTS: tuple[Part, Part] = ("structure", "dynamics")
__all__ = ["BEST", "FAILURES", "LOG", "MODEL", "RECIPE", "train"]


def train(recipe: Recipe, out: str | Path, device: str = "cpu", progress: bool = True, wandb: str | None = None) -> VidTwin:
    """Train from `recipe` and leave the model in `out`/model; a run that was stopped goes on from `out`/checkpoints.

    Every step draws its clips and its noise from (seed, step) alone, so a resumed run equals one that never stopped, and one on
    several processes equals one on a single process (up to rounding; dropout and batch norm, which see the process, excepted).
    `out` holds: `recipe.yaml`; `log.jsonl` and `tensorboard`, a record each `log_every` steps, of means since the last one: losses
    per element, PSNR in dB (of the training clips as one number, and per frame on validation clips), bits per latent value,
    gradient norms, learning rates, clips per second; `videos` of a validation clip; `failures.jsonl`; `model` (the running mean
    of the weights if ema_decay is set), and `best`, the same at the best validation PSNR.

    A step whose losses or gradients are not finite is skipped; `max_skipped` in a row end the run.

    Args:
        device: "cpu", or the accelerator that is there. wandb: a Weights & Biases project to log to.

    Raises:
        FileNotFoundError: a source of videos, or weights to start from, are missing. OSError: `out` cannot be written.
        ValueError: the run in `out` has another recipe or only damaged checkpoints; too many videos cannot be used.
        FloatingPointError: values were not finite for `max_skipped` steps in a row; names the first of them.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the step is finished and saved.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator(recipe, device)
    rank, processes, first = accelerator.process_index, accelerator.num_processes, accelerator.is_main_process
    sources = recordings(recipe.train_videos)
    checks, unusable = validation_clips(recordings(recipe.validation_videos), recipe.config, recipe.validation_clips)
    for name, reason in unusable if first else ():
        tqdm.write(f"not validated on: {name}: {reason}")
    failures = FailureList(out / FAILURES, len(sources), recipe.max_failures)
    clips: TrainingClips | CoefficientClips
    if recipe.coefficients is None:
        clips = TrainingClips(sources, recipe.config, recipe.sample_fps, recipe.flip, recipe.short_side, recipe.seed)
    else:
        cache = out / COEFFICIENTS if recipe.cache is None else Path(recipe.cache)
        if first:
            cache_coefficients(recipe, sources, cache, failures, not progress)
        accelerator.wait_for_everyone()
        clips = CoefficientClips(cache, recipe)

    collated = collate if isinstance(clips, TrainingClips) else collate_coefficients

    guard, step, best = Guard(recipe.max_skipped), 0, -math.inf
    before = checkpoints.latest(out, recipe)
    torch.manual_seed(recipe.seed)
    run = Run(recipe, network(recipe, clips, not (progress and first), before is not None), accelerator)
    if before is not None:
        run.load(before["run"])
        step, best, guard.skipped = before["step"], before["best"], before["skipped"]
        if any(before["recipe"][key] != recipe.to_dict()[key] for key in ("validation_videos", "validation_clips")):
            best = -math.inf
        del before
    elif run.centring is not None:
        run.centre_on(next(iter(DataLoader(clips, batch_sampler=[list(range(CENTRED_ON))], collate_fn=collated))))
    numbers = StepBatches(step, recipe.steps, recipe.batch_size, processes, rank, recipe.accumulate)
    pinned = accelerator.device.type == "cuda"
    loader = DataLoader(
        clips,
        batch_sampler=numbers,
        collate_fn=collated,
        num_workers=recipe.workers,
        pin_memory=pinned,
        worker_init_fn=deaf,
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
                values = gradients(run, batches, step, failures if first else None, clock, stop)
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
                        record = summary(means.take()) | run.facts(step - 1) | {"skipped_steps": guard.skipped}
                        if step % recipe.validate_every < recipe.log_every or last:
                            psnr, shown = validate(run, checks)
                            record["validation_psnr"] = run.agreed({"psnr": torch.tensor(psnr)})["psnr"]
                            if log is not None:
                                log.video(step, shown)
                            if record["validation_psnr"] > best:
                                best = record["validation_psnr"]
                                save_model(run, out / BEST)
                        record |= clock.take(recipe.batch_size)
                        if log is not None:
                            log.write(step, record)
                        bar.set_postfix({name: f"{record[name]:.4g}" for name in ("l1", "psnr", "kl") if name in record})
                    if step % recipe.checkpoint_every == 0 or last or stopping:
                        save_model(run, out / MODEL)  # first: with the checkpoint of the last step the run counts as finished
                        state = run.state()
                        if first:
                            checkpoints.save(out, recipe, step, best, guard.skipped, state)
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
    if len(failures) and first:
        tqdm.write(f"{len(failures)} of {len(sources)} recordings were passed over; the reasons are in {out / FAILURES}")
    return VidTwin.from_pretrained(out / MODEL)


def gradients(
    run: Run, batches: Iterator[Batch | CoefficientBatch], step: int, failures: FailureList | None, clock: Clock, stop: StopRequest
) -> dict[str, float]:
    """Forward and backward passes of a step: clipped gradients of its losses are in the weights' `grad`.

    Returns the losses, means over passes and processes, the gradient norms before clipping, and "stop": above 0 if a process was
    asked to stop.
    """
    recipe, accelerator = run.recipe, run.accelerator
    adversarial = run.adversarial_at(step)
    values: dict[str, float] = defaultdict(float)
    seed_step(recipe.seed, step, accelerator.process_index)
    run.zero_grad()
    run.model.train()
    for part in range(recipe.accumulate):
        with clock("data"):
            batch = next(batches)
            if failures is not None:
                failures.add(batch.failures)
            x = run.clips(batch)
            data = x.mean()
            x = x.nan_to_num(0.0, 0.0, 0.0)  # the model refuses such clips; every process goes through the step, which is skipped
        noise = [noise_generator(recipe.seed, number) for number in batch.indices.tolist()]
        with run.gradients_shared(part + 1 == recipe.accumulate):
            with accelerator.autocast():
                x_hat, posterior = run.model(x, recipe.sample_posterior, noise, **run.options(batch))
            x_hat, posterior = x_hat.float(), posterior.to(torch.float32)
            losses = run.losses(batch, x, x_hat, posterior, adversarial)
            accelerator.backward(losses["total"] / recipe.accumulate)
            if adversarial:
                critic_losses = run.discriminator_losses(x, x_hat)
                accelerator.backward(critic_losses["total"] / recipe.accumulate)
                losses |= {f"discriminator_{name}": loss for name, loss in critic_losses.items()}
        for name, value in run.agreed({"data": data, "stop": torch.tensor(float(stop.asked))} | losses).items():
            values[name] += value / recipe.accumulate
    clock.steps += 1
    return values | run.clip_gradients(step)


def network(recipe: Recipe, clips: TrainingClips | CoefficientClips, quiet: bool, resumed: bool) -> VidTwin | CompactTwin:
    """The network before the first step; of a run that is `resumed`, whose weights come from its checkpoint, only the shapes."""
    if resumed:
        return CompactTwin(recipe.config, len(clips.basis)) if isinstance(clips, CoefficientClips) else VidTwin(recipe.config)
    fresh = untrained(recipe, clips, quiet)
    if recipe.fitted_logvar and isinstance(fresh, CompactTwin) and isinstance(clips, CoefficientClips):
        first = collate_coefficients([clips[number] for number in range(FITTED_ON)])
        start_fitted_variance(fresh, first.clips.float(), first.outside, recipe.loss, recipe.seed)
    return fresh


def untrained(recipe: Recipe, clips: TrainingClips | CoefficientClips, quiet: bool = True) -> VidTwin | CompactTwin:
    """The network from `init_from`, or from scratch by torch's generator; `quiet` shows no bar."""
    basis = clips.basis if isinstance(clips, CoefficientClips) else None
    if recipe.init_from is not None:
        try:
            model = trained_weights(recipe.init_from, recipe.config)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"init_from of the recipe, where training starts from: {error}; train these first") from error
        if recipe.initial_logvar is not None:
            start_low_variance(model, recipe.initial_logvar)
        return model if basis is None else CompactTwin.fold(model, basis)
    fitted, logvar = recipe.initialization != "released", recipe.from_scratch_logvar
    numbers = tqdm(range(recipe.init_clips), desc="clips to start on", unit="clip", leave=False, disable=quiet or not fitted)
    if recipe.initialization == "linear":
        return linear_network(recipe, clips, numbers)
    model = VidTwin(recipe.config)
    if recipe.initialization == "principal":
        start_scaled(model)
        if basis is None:
            drawn = torch.stack([clips[index].clip[:, ::4] for index in numbers])  # every fourth frame
            start_on_principal_patches(model, drawn.float() / 127.5 - 1)
    start_low_variance(model, logvar)
    return model if basis is None else CompactTwin.fold(model, basis)


def linear_network(recipe: Recipe, clips: TrainingClips | CoefficientClips, numbers: Iterable[int]) -> VidTwin | CompactTwin:
    """The network that is the best linear coder for the clips of some numbers (`training.linear`)."""
    if isinstance(clips, TrainingClips):
        drawn = torch.stack([clips[index].clip for index in numbers])
        m = recipe.config.patch // block_side(recipe.config.patch)
        basis = fit_basis((clip.float() / 127.5 - 1 for clip in drawn), recipe.config.patch, COMPONENTS)
        found = [basis.project(clip.movedim(1, 0).float() / 127.5 - 1) for clip in drawn]
        x = torch.stack([to_patches(coefficients, m).bfloat16() for coefficients, _ in found])
        outside = torch.stack([errors.sum() for _, errors in found])
    else:
        basis, samples = clips.basis, [clips[index] for index in numbers]
        x, outside = torch.stack([sample.clip for sample in samples]), torch.stack([sample.outside.sum() for sample in samples])
    compact = CompactTwin(recipe.config, len(basis))
    compact.basis = basis
    start_linear(compact, x, outside, recipe.from_scratch_logvar, recipe.seed)
    return compact.unfold() if isinstance(clips, TrainingClips) else compact


def summary(means: dict[str, float]) -> dict[str, float]:
    """Mean losses of some steps, as a log shows them: with PSNR (dB, of the mean squared error) and bits per latent value."""
    if "l2" not in means:  # all steps were skipped
        return {}
    means.pop("data")
    latents = {f"bits_{part}": bits(means[f"kl_{part}"]) for part in ("structure", "dynamics")}
    return means | {"psnr": -10 * math.log10(means["l2"] / 4 + 1e-8)} | latents


@torch.no_grad()  # not inference_mode, in which shared-out weights cannot be gathered
def validate(run: Run, clips: Tensor) -> tuple[float, np.ndarray]:
    """Mean over clips (N, 3, F, H, W) of the mean over frames of PSNR (dB), from mean latents and the weights to use; and the
    first clip beside its reconstruction and the decodes of each latent alone, uint8 (F, H', W', 3)."""
    with run.weights_in_place():
        model = run.pixel_model()
        scores = []
        for x in clips.split(1):
            x = x.to(run.accelerator.device)
            x_hat, posterior = model(x)
            x_hat, latents = x_hat.float(), posterior.mean.to(torch.float32)
            scores.append(clip_psnr(x_hat[0].clamp(-1, 1), x[0]))
            if len(scores) == 1:
                parts = () if run.sharded else PARTS
                alone = {f"{part} only": model.decode(latents, only=part) for part in parts}
                panels = {"original": x, "reconstruction": x_hat} | alone
                size = x.shape[-2], x.shape[-1]
                frames = {name: from_clip(clip[0].float(), Geometry.plan("crop", size, size)) for name, clip in panels.items()}
    return sum(scores) / len(scores), side_by_side(frames)


def save_model(run: Run, folder: Path) -> None:
    """Write the weights to use as a checkpoint folder; call it on all processes."""
    weights = run.weights()
    if run.accelerator.is_main_process:
        run.pixel_model(weights).save_pretrained(folder)


def deaf(worker: int) -> None:
    """Loader processes leave signals, which often go to the whole group, to the main one, which ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
