"""Commands on generators: draw-sprites, train-generator, generate."""

from pathlib import Path

import torch
from tqdm import tqdm
from tyro.conf import Positional

from vidtwin.cli.options import Device, Output, Settings, UsageError, check_not_written, counter, device_of
from vidtwin.generation.config import GUIDANCE


def draw_sprites_command(out: Output, per_class: int = 100, frames: int = 32, size: int = 64, seed: int = 0) -> None:
    """Draw a data set to train and judge generators with: sprites of 4 colours that go 8 ways, a folder of videos for each class.

    Args:
        out: the folder to write: CLASS/CLASS-0000.mp4, and sprites.csv with each video's class and factors.
        per_class: videos of each of the 32 classes.
        frames: of each video, at 8 a second.
        size: pixels, of the square frames.
        seed: of the factors.
    """
    from vidtwin.data.moving_sprites import CLASSES, write_moving_sprites

    for option, value, low in (("per-class", per_class, 1), ("frames", frames, 1), ("size", size, 16), ("seed", seed, 0)):
        if value < low:
            raise UsageError(f"--{option} {value}: give at least {low}")
    with tqdm(total=per_class * len(CLASSES), unit="video", leave=False, disable=None) as shown:
        written = write_moving_sprites(out, per_class, frames, size, seed, shown.update)
    print(f"{written}: {per_class * len(CLASSES)} videos of {len(CLASSES)} classes")


def train_generator_command(
    recipe: Positional[Path],
    out: Output = Path("runs/generator"),
    latents: str | None = None,
    validation_latents: str | None = None,
    autoencoder: str | None = None,
    steps: int | None = None,
    device: Device = "auto",
    seed: int | None = None,
    set: Settings = (),
    wandb: str | None = None,
) -> None:
    """Train a generator on the latents of a data set; the same command goes on where a stopped run was.

    On several devices: accelerate launch -m vidtwin train-generator RECIPE ..., or torchrun --nproc-per-node N -m vidtwin ...

    Args:
        recipe: a shipped recipe (generator-tiny; `vidtwin recipes` lists them), or a YAML file.
        out: folder of the run: checkpoints, logs, samples, and the generator.
        latents: replaces the recipe's: a data set of `vidtwin encode-dataset`.
        validation_latents: the same for validation.
        autoencoder: replaces the recipe's: the weights that encoded them.
        steps: replaces the recipe's.
        device: auto is cuda if there is one, else cpu.
        seed: replaces the recipe's.
        set: another key of the recipe, as in --set method=flow; may be given several times.
        wandb: a Weights & Biases project to log to, beside log.jsonl and TensorBoard.
    """
    check_not_written(out)
    try:
        from vidtwin.training.generator import train_generator
        from vidtwin.training.generator_recipe import GeneratorRecipe
        from vidtwin.training.recipe import read_recipe
    except ModuleNotFoundError as error:
        raise UsageError(f"training needs the package {error.name}: pip install 'vidtwin[train,generate]'") from None
    plan = read_recipe(
        recipe,
        GeneratorRecipe,
        set,
        latents=latents,
        validation_latents=validation_latents,
        autoencoder=autoencoder,
        steps=steps,
        seed=seed,
    )
    train_generator(plan, out, device=device_of(device), wandb=wandb)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    print(f"{out}: trained {plan.steps} steps; the generator is in {out / 'model'}")


def generate_command(
    generator: Positional[str],
    out: Output,
    classes: tuple[str, ...] = (),
    per_class: int = 1,
    frames: int | None = None,
    guidance: float = GUIDANCE,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    steps: int = 50,
    seed: int = 0,
    structure: Path | None = None,
    dynamics: Path | None = None,
    batch: int = 8,
    device: Device = "auto",
) -> None:
    """Sample videos, each a file; with --structure or --dynamics, one latent is taken from a video and the other one sampled.

    A video is a function of the seed, its class and its number, but for rounding. The same command goes on where a stopped one was.

    Args:
        generator: a shipped name (sprites), a hub id, or the folder `model` of a run of `vidtwin train-generator`.
        out: the folder to write: CLASS-0000.mp4, ...
        classes: names of classes; default all of the generator's. One named twice gets twice as many videos.
        per_class: videos of each.
        frames: of each; default a window. More need a generator trained with previous: true.
        guidance: weight of the class (classifier-free guidance); 1 is none.
        guidance_interval: noise levels, 0 to 1, at which there is guidance.
        steps: number of sampling steps.
        seed: random seed.
        structure: a video or latent file whose first window gives Structure; Dynamics is sampled.
        dynamics: the same for Dynamics; Structure is sampled.
        batch: videos sampled together.
        device: auto is cuda if there is one, else cpu.
    """
    from vidtwin.generation.diffusion import STEPS
    from vidtwin.generation.generate import ArgumentError, generate
    from vidtwin.generation.pipeline import VidTwinPipeline

    for option, value in (("per-class", per_class), ("batch", batch), ("steps", steps)):
        if value < 1:
            raise UsageError(f"--{option} {value}: give at least 1")
    if steps > STEPS:
        raise UsageError(f"--steps {steps}: give at most {STEPS}")
    if structure is not None and dynamics is not None:
        raise UsageError("--structure and --dynamics: nothing is left to sample; vidtwin swap decodes two given ones")
    pipeline = VidTwinPipeline.from_pretrained(generator).to(device_of(device))
    with counter("step") as progress:
        try:
            made = generate(
                pipeline,
                out,
                classes,
                per_class=per_class,
                num_frames=frames,
                guidance_scale=guidance,
                guidance_interval=guidance_interval,
                num_inference_steps=steps,
                seed=seed,
                structure=structure,
                dynamics=dynamics,
                batch=batch,
                progress=progress,
            )
        except ArgumentError as error:
            raise UsageError(str(error)) from error
    print(f"{out}: {len(made.paths) - made.kept} videos" + (f", {made.kept} were there" if made.kept else ""))
