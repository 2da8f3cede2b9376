"""The training loop of the autoencoder."""

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from vidtwin.checkpoint import read_pickle
from vidtwin.data.videos import TrainingClips, find_videos, usable_videos
from vidtwin.evaluation.metrics import clip_psnr
from vidtwin.files import atomic_output, tensor_output
from vidtwin.losses.objective import autoencoder_loss
from vidtwin.model.vidtwin import VidTwin
from vidtwin.training.initialize import inflated, start_low_variance
from vidtwin.training.recipe import RESUMABLE, Recipe
from vidtwin.video.clips import Geometry, to_clip
from vidtwin.video.read import read_clip

CHECKPOINT, LOG, MODEL = "checkpoint.pt", "log.jsonl", "model"


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up to the peak at step warmup_steps - 1, then a cosine towards final_lr_ratio of it at `steps`."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    low = recipe.final_lr_ratio
    return recipe.learning_rate * (low + (1 - low) * (1 + math.cos(math.pi * done)) / 2)


def train(recipe: Recipe, out: str | Path, device: str = "cpu", progress: bool = True) -> VidTwin:
    """Train from `recipe` and leave the model in `out`/model; a run that was stopped goes on from `out`/checkpoint.pt.

    Every step draws its clips and its noise from (seed, step) alone, so a resumed run equals one that never stopped. Losses,
    PSNR (dB, of the training batch as one number, and per frame on validation clips), gradient norm and clips per second go
    to `out`/log.jsonl, a line each `log_every` steps.

    Raises:
        FileNotFoundError: a video folder is missing or empty. OSError: `out` cannot be written.
        ValueError: the run in `out` has another recipe or a damaged checkpoint; no video is long enough; one cannot be decoded.
        FloatingPointError: a loss or a gradient is not finite; the last checkpoint is left as it was.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    videos = videos_of(recipe.train_videos, recipe.config.frames, recipe.sample_fps)
    checks = validation_set(recipe).to(device)

    torch.manual_seed(recipe.seed)
    model = VidTwin(recipe.config).to(device)
    if recipe.init_from is None:
        start_low_variance(model, recipe.initial_logvar)
    elif not (out / CHECKPOINT).exists():
        model.load_state_dict(inflated(VidTwin.from_pretrained(recipe.init_from), recipe.config))
    optimizer = torch.optim.AdamW(model.parameters(), betas=recipe.betas, weight_decay=recipe.weight_decay)
    first = resume(out, model, optimizer, recipe)

    clips = TrainingClips(videos, recipe.config, recipe.sample_fps, recipe.flip, recipe.seed)
    order = range(first * recipe.batch_size, recipe.steps * recipe.batch_size)
    loader = DataLoader(clips, recipe.batch_size, sampler=order, num_workers=recipe.workers)
    bar = tqdm(loader, initial=first, total=recipe.steps, unit="step", disable=not progress)
    log = (out / LOG).open("a")
    clock, logged, step = time.perf_counter(), first, first
    try:
        for step, frames in enumerate(bar, first):
            torch.manual_seed(recipe.seed * 1_000_003 + step)  # dropout and posterior noise of this step
            x = frames.to(device).float() / 127.5 - 1
            x_hat, posterior = model.train()(x, sample=recipe.sample_posterior)
            losses = autoencoder_loss(x, x_hat, posterior, recipe.loss)
            optimizer.zero_grad()
            losses["total"].backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            refuse_non_finite(losses | {"gradient norm": norm}, step)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, recipe)
            optimizer.step()

            if (step + 1) % recipe.log_every == 0 or step + 1 == recipe.steps:
                seconds, clock = time.perf_counter() - clock, time.perf_counter()
                record = {"step": step + 1} | {name: loss.item() for name, loss in losses.items()}
                record |= {"psnr": -10 * math.log10(record["l2"] / 4 + 1e-8), "gradient_norm": norm.item()}
                record |= {"learning_rate": learning_rate(step, recipe)}
                record |= {"clips_per_second": (step + 1 - logged) * recipe.batch_size / seconds}
                logged = step + 1
                if (step + 1) % recipe.validate_every < recipe.log_every or step + 1 == recipe.steps:
                    record["validation_psnr"] = validate(model, checks)
                log.write(json.dumps(record) + "\n")
                log.flush()
                bar.set_postfix(l1=record["l1"], psnr=record["psnr"], kl=record["kl"])
            if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
                save(out, model, optimizer, recipe, step + 1)
    except KeyboardInterrupt:
        tqdm.write(f"stopped at step {step}; the same command goes on from the last checkpoint in {out}")
        raise
    except ValueError as error:  # of a loader's worker it carries the whole traceback; the last line says what
        *_, last = str(error).strip().splitlines() or ["the run failed"]
        raise ValueError(last.removeprefix("ValueError: ")) from error
    finally:
        log.close()
    return model.eval()


def refuse_non_finite(values: dict[str, Tensor], step: int) -> None:
    """Raise a FloatingPointError that names the first value that is NaN or infinite."""
    for name, value in values.items():
        if not torch.isfinite(value):
            raise FloatingPointError(
                f"step {step}: {name} is {value.item()}; start again in another --out with a lower learning_rate or clip_norm"
            )


def videos_of(folder: str, frames: int, sample_fps: float | None) -> list[Path]:
    """The videos of a folder that hold a clip; what is left out is said, with the reason."""
    videos, failures = usable_videos(find_videos(folder), frames, sample_fps)
    for path, reason in failures.items():
        tqdm.write(f"left out: {path}: {reason}")
    if not videos:
        raise ValueError(f"{folder}: no video with a whole clip of {frames} frames; add longer videos")
    return videos


def validation_set(recipe: Recipe) -> Tensor:
    """The first clip of each of the first `validation_clips` videos, centre-cropped: (N, 3, F, H, W) in [-1, 1]."""
    config = recipe.config
    videos = videos_of(recipe.validation_videos, config.frames, None)
    clips = []
    for path in videos[: recipe.validation_clips]:
        frames = read_clip(path, 0, config.frames)
        clips.append(to_clip(frames, Geometry.plan("crop", frames.shape[1:3], (config.height, config.width))))
    return torch.stack(clips)


@torch.inference_mode()
def validate(model: VidTwin, clips: Tensor) -> float:
    """Mean over clips of the mean over frames of PSNR (dB), from mean latents."""
    model.eval()
    return sum(clip_psnr(model.decode(model.encode(x))[0], x[0]) for x in clips.split(1)) / len(clips)


def save(out: Path, model: VidTwin, optimizer: torch.optim.Optimizer, recipe: Recipe, step: int) -> None:
    """Write the model as it is now, and everything that resuming needs."""
    model.save_pretrained(out / MODEL)  # first: once the checkpoint of the last step is there, the run counts as finished
    state = {"step": step, "recipe": recipe.to_dict(), "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with tensor_output(out / CHECKPOINT) as partial:
        torch.save(state, partial)


def resume(out: Path, model: VidTwin, optimizer: torch.optim.Optimizer, recipe: Recipe) -> int:
    """Load the checkpoint of `out` if there is one, cut the log to it, and return the number of steps done."""
    if not (out / CHECKPOINT).exists():
        return 0
    state: dict[str, Any] = read_pickle(out / CHECKPOINT)
    if not isinstance(state, dict) or not {"step", "recipe", "model", "optimizer"} <= set(state):
        raise ValueError(f"{out / CHECKPOINT}: not a checkpoint of a training run; choose another --out")
    before, now = state["recipe"], recipe.to_dict()
    changed = [key for key in now if key not in RESUMABLE and before.get(key) != now[key]]
    if changed:
        raise ValueError(
            f"{out}: holds a run with another recipe ({', '.join(f'{k}: {before.get(k)!r}, now {now[k]!r}' for k in changed)}); "
            "choose another --out or restore the recipe"
        )
    step = int(state["step"])
    if step > recipe.steps:
        raise ValueError(f"{out}: holds a run of {step} steps, more than steps={recipe.steps}; raise steps or choose another --out")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if (out / LOG).exists():
        whole = [line for line in (out / LOG).read_text().splitlines() if line.endswith("}")]  # a kill can cut the last one
        with atomic_output(out / LOG) as partial:
            partial.write_text("".join(line + "\n" for line in whole if json.loads(line)["step"] <= step))
    return step
