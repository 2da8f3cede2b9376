"""Training of the autoencoder (paper Sec. 3.6, Table 9), with or without a discriminator, on one process or many."""

import math
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from vidtwin.data.clips import Batch, TrainingClips, collate, validation_clips
from vidtwin.data.failures import FailureList
from vidtwin.data.sources import recordings
from vidtwin.files import in_line, locked
from vidtwin.frames.clips import Geometry, from_clip
from vidtwin.frames.panels import side_by_side
from vidtwin.losses.objective import bits
from vidtwin.metrics import clip_psnr
from vidtwin.model.vidtwin import Part, VidTwin
from vidtwin.training import checkpoints
from vidtwin.training.autoencoder_state import AutoencoderState
from vidtwin.training.centring import CENTRED_ON
from vidtwin.training.coefficients import CoefficientBatch, CoefficientClips, cache_coefficients, collate_coefficients
from vidtwin.training.compact import CompactTwin
from vidtwin.training.initialize import start_low_variance, start_on_principal_patches, start_scaled, trained_weights
from vidtwin.training.linear.start import start_linear
from vidtwin.training.log import RunLog
from vidtwin.training.log_variance import FITTED_ON, start_fitted_variance
from vidtwin.training.loop import MODEL, Task, train_steps
from vidtwin.training.optimization import make_accelerator
from vidtwin.training.patches import block_side, fit_basis, to_patches
from vidtwin.training.recipe import Recipe
from vidtwin.training.schedule import noise_generator

BEST, FAILURES, COEFFICIENTS = "best", "failures.jsonl", "coefficients"
COMPONENTS = 128  # of a block, that a linear start on pixels is fitted to
PARTS: tuple[Part, Part] = ("structure", "dynamics")


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
        FileNotFoundError: a source of videos, or weights to start from, are missing.
        OSError: `out` cannot be written, or another run is writing it.
        ValueError: the run in `out` has another recipe or only damaged checkpoints; too many videos cannot be used.
        FloatingPointError: values were not finite for `max_skipped` steps in a row; names the first of them.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the step is finished and saved.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator(recipe, device)
    with locked(out) if accelerator.is_main_process else nullcontext():
        return _train(recipe, out, accelerator, progress, wandb)


def _train(recipe: Recipe, out: Path, accelerator: Accelerator, progress: bool, wandb: str | None) -> VidTwin:
    """`train` in a folder that no other run is writing."""
    first = accelerator.is_main_process
    sources = recordings(recipe.train_videos)
    checks, unusable = validation_clips(recordings(recipe.validation_videos), recipe.config, recipe.validation_clips)
    for name, reason in unusable if first else ():
        tqdm.write(f"not validated on: {in_line(name)}: {in_line(reason)}")
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

    before = checkpoints.latest(out, recipe)
    torch.manual_seed(recipe.seed)
    run = AutoencoderState(recipe, network(recipe, clips, not (progress and first), before is not None), accelerator)
    if before is not None:
        if any(before["recipe"][key] != recipe.to_dict()[key] for key in ("validation_videos", "validation_clips")):
            before["best"] = -math.inf
    elif run.centring is not None:
        run.centre_on(next(iter(DataLoader(clips, batch_sampler=[list(range(CENTRED_ON))], collate_fn=collated))))
    words = f"{len(sources)} recordings of {in_line(recipe.train_videos)}, {len(checks)} clips to validate on"
    train_steps(AutoencoderTask(run, checks, failures, out, words), clips, collated, out, before, progress, wandb)
    if len(failures) and first:
        tqdm.write(f"{len(failures)} of {len(sources)} recordings were skipped; the reasons are in {out / FAILURES}")
    return VidTwin.from_pretrained(out / MODEL)


class AutoencoderTask(Task):
    """The loop's part of an autoencoder.

    Args:
        checks: clips (N, 3, F, H, W) to validate on. failures: takes the recordings that are passed over. out: holds `best`.
        data: what is trained on, in words.
    """

    shown = ("l1", "psnr", "kl")

    def __init__(self, run: AutoencoderState, checks: Tensor, failures: FailureList, out: Path, data: str):
        self.run: AutoencoderState = run
        self.checks, self.failures, self.out, self.data = checks, failures, out, data

    def backward(self, batch: Batch | CoefficientBatch, step: int) -> dict[str, Tensor]:
        """Losses of the autoencoder, and of the discriminator from its start on; "data" is finite if the clips are."""
        run, recipe, accelerator = self.run, self.run.recipe, self.run.accelerator
        if accelerator.is_main_process:
            self.failures.add(batch.failures)
        x = run.clips(batch)
        data = x.mean()
        x = x.nan_to_num(0.0, 0.0, 0.0)  # the model refuses such clips; every process goes through the step, which is skipped
        noise = [noise_generator(recipe.seed, number) for number in batch.indices.tolist()]
        with accelerator.autocast():
            x_hat, posterior = run.model(x, recipe.sample_posterior, noise, **run.options(batch))
        x_hat, posterior = x_hat.float(), posterior.to(torch.float32)
        adversarial = run.adversarial_at(step)
        losses = run.losses(batch, x, x_hat, posterior, adversarial)
        accelerator.backward(losses["total"] / recipe.accumulate)
        if adversarial:
            critic_losses = run.discriminator_losses(x, x_hat)
            accelerator.backward(critic_losses["total"] / recipe.accumulate)
            losses |= {f"discriminator_{name}": loss for name, loss in critic_losses.items()}
        return {"data": data} | losses

    def record(self, means: dict[str, float], step: int) -> dict[str, float]:
        """Mean losses, with PSNR (dB, of the mean squared error) and bits per latent value; `AutoencoderState.facts`."""
        if "l2" in means:  # else all steps were skipped
            means.pop("data")
            means["psnr"] = -10 * math.log10(means["l2"] / 4 + 1e-8)
            means |= {f"bits_{part}": bits(means[f"kl_{part}"]) for part in PARTS}
        return means | self.run.facts(step - 1)

    def validate(self, step: int, log: RunLog | None) -> dict[str, float]:
        """Mean over clips of the mean over frames of PSNR (dB), from mean latents; the weights are saved if it is the best so far.

        The video is of the first clip beside its reconstruction and the decodes of each latent alone.
        """
        run, scores = self.run, []
        with torch.no_grad(), run.weights_in_place():  # not inference_mode, in which shared-out weights cannot be gathered
            model = run.pixel_model()
            for x in self.checks.split(1):
                x = x.to(run.accelerator.device)
                x_hat, posterior = model(x)
                x_hat, latents = x_hat.float(), posterior.mean.to(torch.float32)
                scores.append(clip_psnr(x_hat[0].clamp(-1, 1), x[0]))
                if len(scores) == 1:
                    parts = () if run.sharded else PARTS
                    panels = {"original": x, "reconstruction": x_hat}
                    panels |= {f"{part} only": model.decode(latents, only=part) for part in parts}
                    size = x.shape[-2], x.shape[-1]
                    frames = {name: from_clip(clip[0].float(), Geometry.plan("crop", size, size)) for name, clip in panels.items()}
        psnr = run.agreed({"psnr": torch.tensor(sum(scores) / len(scores))})["psnr"]
        if log is not None:
            log.video(step, side_by_side(frames))
        if psnr > self.best:
            self.best = psnr
            self.save(self.out / BEST)
        return {"validation_psnr": psnr}

    def save(self, folder: Path) -> None:
        """Write a checkpoint folder of the model on pixels."""
        weights = self.run.weights()
        if self.run.accelerator.is_main_process:
            self.run.pixel_model(weights).save_pretrained(folder)


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
