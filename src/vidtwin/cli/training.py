"""The command for training."""

from pathlib import Path

import torch
from tyro.conf import Positional

from vidtwin.cli.options import Device, Output, UsageError, check_not_written, device_of


def train_command(
    recipe: Positional[Path],
    out: Output = Path("runs/autoencoder"),
    train_videos: str | None = None,
    validation_videos: str | None = None,
    steps: int | None = None,
    device: Device = "auto",
    seed: int | None = None,
    init_from: str | None = None,
    wandb: str | None = None,
) -> None:
    """Train an autoencoder as a recipe says; the same command goes on where a stopped run was.

    On several devices: accelerate launch -m vidtwin train RECIPE ..., or torchrun --nproc-per-node N -m vidtwin train RECIPE ...

    Args:
        recipe: a YAML file; recipes/tiny.yaml explains the keys by example.
        out: folder of the run: checkpoints, logs, and the model.
        train_videos: in place of the recipe's: a folder, a .csv with a column "videos", a .txt list, WebDataset tars
            (shards-{000..010}.tar), or a LeRobot data set.
        validation_videos: the same for validation.
        steps: in place of the recipe's.
        device: auto is cuda if there is one, else cpu.
        seed: in place of the recipe's.
        init_from: weights to start from, in place of the recipe's.
        wandb: a Weights & Biases project to log to, beside log.jsonl and TensorBoard.
    """
    check_not_written(out)
    try:
        from vidtwin.training.autoencoder import train
        from vidtwin.training.recipe import Recipe, read_recipe
    except ModuleNotFoundError as error:
        raise UsageError(f"training needs the package {error.name}: pip install 'vidtwin[train]'") from None
    plan = read_recipe(
        recipe,
        Recipe,
        train_videos=train_videos,
        validation_videos=validation_videos,
        steps=steps,
        seed=seed,
        init_from=init_from,
    )
    train(plan, out, device=device_of(device), wandb=wandb)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    print(f"{out}: trained {plan.steps} steps; the model is in {out / 'model'}")
