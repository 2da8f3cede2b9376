"""Commands on training: train, recipes."""

from pathlib import Path

import torch
from tyro.conf import Positional

from vidtwin.cli.options import Device, Output, Settings, UsageError, check_not_written, device_of


def train_command(
    recipe: Positional[Path],
    out: Output = Path("runs/autoencoder"),
    train_videos: str | None = None,
    validation_videos: str | None = None,
    steps: int | None = None,
    device: Device = "auto",
    seed: int | None = None,
    init_from: str | None = None,
    set: Settings = (),
    wandb: str | None = None,
) -> None:
    """Train an autoencoder by a recipe; the same command continues a stopped run.

    On several devices: accelerate launch -m vidtwin train RECIPE ..., or torchrun --nproc-per-node N -m vidtwin train RECIPE ...

    Args:
        recipe: a shipped recipe (tiny; `vidtwin recipes` lists them), or a YAML file.
        out: folder of the run: checkpoints, logs, and the model.
        train_videos: replaces the recipe's: a folder, a .csv with a column "videos", a .txt list, WebDataset tars
            (shards-{000..010}.tar), or a LeRobot data set.
        validation_videos: the same for validation.
        steps: replaces the recipe's.
        device: auto is cuda if there is one, else cpu.
        seed: replaces the recipe's.
        init_from: weights to start from, instead of the recipe's.
        set: another key of the recipe, as in --set loss.kl=0.001; may be given several times.
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
        set,
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


def recipes_command(name: Positional[str | None] = None) -> None:
    """List the recipes that come with the package: what each trains, on which data, how long that takes, and the score to expect.

    Args:
        name: print this one as YAML instead, to make your own from it: vidtwin recipes tiny > mine.yaml
    """
    from vidtwin.training.shipped import find_recipe, shipped_recipes

    if name is not None:
        print(find_recipe(name).read_text(), end="")
        return
    for recipe in shipped_recipes():
        print(f"{recipe.name}: {recipe.trains}")
        for fact in ("data", "time", "score"):
            print(f"    {fact:7}{getattr(recipe, fact)}")
    print("\nNext: vidtwin train NAME --train-videos VIDEOS --validation-videos OTHERS")
    print("      vidtwin train-generator generator-NAME --latents LATENTS")
    print("      vidtwin recipes NAME, which prints one")
