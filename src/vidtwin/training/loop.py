"""The training loop of autoencoders and generators, on one process or many."""

import math
import signal
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from vidtwin.files import atomic_output
from vidtwin.training import checkpoints
from vidtwin.training.guard import Guard, StopRequest
from vidtwin.training.log import Clock, Means, RunLog
from vidtwin.training.optimization import Optimization
from vidtwin.training.schedule import StepBatches, seed_step

MODEL, RECIPE = "model", "recipe.yaml"


class Task(ABC):
    """What the loop leaves to the kind of training. Its methods, but for `sample`, are called on all processes.

    Attributes:
        shown: names of the values of a record beside the progress bar.
        data: what is trained on, in words.
        run: what is trained. best: the validation of the best weights so far; checkpoints keep it.
    """

    shown: ClassVar[tuple[str, ...]]
    data: str
    run: Optimization
    best = -math.inf

    @abstractmethod
    def backward(self, batch: Any, step: int) -> dict[str, Tensor]:
        """A pass of a step: add its gradients to the weights' `grad`, and return scalars, all of which must be finite."""

    @abstractmethod
    def record(self, means: dict[str, float], step: int) -> dict[str, float]:
        """What the log says after `step` steps, from means of the scalars and gradient norms since the last record."""

    @abstractmethod
    def validate(self, step: int, log: RunLog | None) -> dict[str, float]:
        """What is added to the record, found with the weights to use; `log`, None but on the main process, takes videos."""

    def sample(self, step: int, log: RunLog) -> None:  # noqa: B027 (not every kind draws samples)
        """Log a video of samples, if one is due."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the weights to use."""


def train_steps(
    task: Task,
    data: Dataset[Any],
    collate: Callable[..., Any],
    out: Path,
    before: dict[str, Any] | None,
    progress: bool,
    wandb: str | None,
) -> None:
    """Take the steps of a run in folder `out`, all or those after the checkpoint `before`, whose "run" is taken out of it.

    Long so that a step can be read from top to bottom. Errors are those of `autoencoder.train`.
    """
    run, recipe, accelerator = task.run, task.run.recipe, task.run.accelerator
    rank, processes, first = accelerator.process_index, accelerator.num_processes, accelerator.is_main_process
    guard, step = Guard(recipe.max_skipped), 0
    if before is not None:
        checkpoints.restore(out, before, run.load)
        step, task.best, guard.skipped = before["step"], before["best"], before["skipped"]
    numbers = StepBatches(step, recipe.steps, recipe.batch_size, processes, rank, recipe.accumulate)
    pinned = accelerator.device.type == "cuda"
    loader = DataLoader(
        data, batch_sampler=numbers, collate_fn=collate, num_workers=recipe.workers, pin_memory=pinned, worker_init_fn=deaf
    )
    log = RunLog(out, step, recipe.to_dict(), wandb) if first else None
    if first:
        checkpoints.clear(out)
        with atomic_output(out / RECIPE) as partial:
            partial.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False))

        if progress:
            weights = sum(parameter.numel() for parameter in run.network.parameters())
            place = f"{accelerator.device.type}, {processes} process{'es' * (processes > 1)}"
            tqdm.write(f"{task.data}; {weights:,} parameters; {place}; {recipe.steps} steps of {recipe.batch_size}")

    means, clock = Means(), Clock()
    bar = tqdm(total=recipe.steps, initial=step, unit="step", disable=not (progress and first))
    try:
        with StopRequest().listening() as stop:
            batches = iter(loader)
            while step < recipe.steps:
                values = gradients(task, batches, step, clock, stop)
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
                        record = task.record(means.take(), step) | {"skipped_steps": guard.skipped}
                        if step % recipe.validate_every < recipe.log_every or last:
                            record |= task.validate(step, log)
                        record |= clock.take(recipe.batch_size)
                        if log is not None:
                            log.write(step, record)
                        bar.set_postfix({name: f"{record[name]:.4g}" for name in task.shown if name in record})
                    if log is not None:
                        task.sample(step, log)
                    if step % recipe.checkpoint_every == 0 or last or stopping:
                        task.save(out / MODEL)  # first: with the checkpoint of the last step the run counts as finished
                        state = run.state()
                        if first:
                            checkpoints.save(out, recipe, step, task.best, guard.skipped, state)
                        accelerator.wait_for_everyone()
                if stopping and not last:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        if first:
            tqdm.write(f"stopped after step {step}; the same command continues from the last checkpoint in {out}")
        raise
    except ValueError as error:  # of a loader's worker it carries the whole traceback; the last line says what
        *_, text = str(error).strip().splitlines() or ["the run failed"]
        raise ValueError(text.removeprefix("ValueError: ")) from error
    finally:
        bar.close()
        if log is not None:
            log.close()


def gradients(task: Task, batches: Iterator[Any], step: int, clock: Clock, stop: StopRequest) -> dict[str, float]:
    """Forward and backward passes of a step: clipped gradients of its losses are in the weights' `grad`.

    Returns the scalars of `Task.backward`, means over passes and processes, the gradient norms before clipping, and "stop": above 0
    if a process was asked to stop.
    """
    run, recipe = task.run, task.run.recipe
    values: dict[str, float] = defaultdict(float)
    seed_step(recipe.seed, step, run.accelerator.process_index)
    run.zero_grad()
    run.model.train()
    for part in range(recipe.accumulate):
        with clock("data"):
            batch = next(batches)
        with run.gradients_shared(part + 1 == recipe.accumulate):
            losses = task.backward(batch, step)
        for name, value in run.agreed({"stop": torch.tensor(float(stop.asked))} | losses).items():
            values[name] += value / recipe.accumulate
    clock.steps += 1
    return values | run.clip_gradients(step)


def deaf(worker: int) -> None:
    """Loader processes leave signals, which often go to the whole group, to the main one, which ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
