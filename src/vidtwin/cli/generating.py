"""Commands on generators: draw-sprites, train-generator, generate."""

import hashlib
import json
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from tyro.conf import Positional

from vidtwin.cli.options import Device, Output, UsageError, device_of
from vidtwin.files import write_json
from vidtwin.generation.config import GUIDANCE

SETTINGS_FILE = "generated.json"


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
    wandb: str | None = None,
) -> None:
    """Train a generator on the latents of a data set; the same command goes on where a stopped run was.

    On several devices: accelerate launch -m vidtwin train-generator RECIPE ..., or torchrun --nproc-per-node N -m vidtwin ...

    Args:
        recipe: a YAML file; recipes/generator-sprites.yaml explains the keys by example.
        out: folder of the run: checkpoints, logs, samples, and the generator.
        latents: in place of the recipe's: what `vidtwin encode-dataset` wrote.
        validation_latents: the same for validation.
        autoencoder: in place of the recipe's: the weights that encoded them.
        steps: in place of the recipe's.
        device: auto is cuda if there is one, else cpu.
        seed: in place of the recipe's.
        wandb: a Weights & Biases project to log to, beside log.jsonl and TensorBoard.
    """
    try:
        from vidtwin.training.generator import train_generator
        from vidtwin.training.generator_recipe import GeneratorRecipe
        from vidtwin.training.recipe import read_recipe
    except ModuleNotFoundError as error:
        raise UsageError(f"training needs the package {error.name}: pip install 'vidtwin[train,generate]'") from None
    plan = read_recipe(
        recipe,
        GeneratorRecipe,
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
        generator: a shipped name (sprites), or the folder `model` of a run of `vidtwin train-generator`.
        out: the folder to write: CLASS-0000.mp4, ...
        classes: names of classes; default all of the generator's.
        per_class: videos of each.
        frames: of each; default a window. More need a generator trained with previous: true.
        guidance: weight of the class (classifier-free guidance); 1 is none.
        guidance_interval: noise levels, 0 to 1, at which there is guidance.
        steps: from noise to latents.
        seed: of the noise.
        structure: a video or latent file, whose first window gives Structure; Dynamics is sampled.
        dynamics: the same the other way round.
        batch: videos that are made together.
        device: auto is cuda if there is one, else cpu.
    """
    from vidtwin.generation.diffusion import STEPS
    from vidtwin.generation.pipeline import VidTwinPipeline

    for option, value in (("per-class", per_class), ("batch", batch), ("steps", steps)):
        if value < 1:
            raise UsageError(f"--{option} {value}: give at least 1")
    if steps > STEPS:
        raise UsageError(f"--steps {steps}: give at most {STEPS}")
    if structure is not None and dynamics is not None:
        raise UsageError("--structure and --dynamics: nothing is left to sample; vidtwin swap decodes two given ones")
    pipeline = VidTwinPipeline.from_pretrained(generator).to(device_of(device))
    names: list[str | None] = list(classes or pipeline.classes) or [None]
    if unknown := [name for name in classes if name not in pipeline.classes]:
        known = ", ".join(pipeline.classes) or "none, it is unconditional"
        raise UsageError(f"--classes {unknown[0]}: not one of the generator's: {known}")
    taken: dict[str, str | None] = {}
    for name in names:
        if (other := taken.setdefault(_file_name(name, 0), name)) != name:
            raise UsageError(f"--classes {other} {name}: both would be written to {_file_name(name, 0)}; ask for them apart")
    given = {name: _first_window(pipeline, path) for name, path in (("structure", structure), ("dynamics", dynamics)) if path}
    settings = {
        "generator": _hash(pipeline),
        "frames": frames,
        "guidance": guidance,
        "guidance_interval": list(guidance_interval),
        "steps": steps,
        "seed": seed,
        "structure": structure and str(structure),
        "dynamics": dynamics and str(dynamics),
    }
    _same_settings(out, settings)
    wanted = [(name, number) for name in names for number in range(per_class)]
    todo = [one for one in wanted if not (out / _file_name(*one)).exists()]
    windows = 1 if frames is None else -(-frames // pipeline.autoencoder.config.frames)
    with tqdm(total=len(todo) * steps * windows, unit="step", leave=False, disable=None) as shown:
        for start in range(0, len(todo), batch):
            now = todo[start : start + batch]
            made = pipeline(
                None if now[0][0] is None else [str(name) for name, _ in now],
                num_videos=len(now),
                num_frames=frames,
                guidance_scale=guidance,
                guidance_interval=guidance_interval,
                num_inference_steps=steps,
                generator=[_noise(seed, name, number) for name, number in now],
                progress=partial(_advance, shown, len(now)),
                **{name: _repeated(latents, len(now)) for name, latents in given.items()},
            )
            for one, video in zip(now, made.videos.numpy(), strict=True):
                _write(out / _file_name(*one), video, pipeline.fps)
    print(f"{out}: {len(todo)} videos" + (f", {len(wanted) - len(todo)} were there" if len(todo) < len(wanted) else ""))


def _advance(shown: Any, videos: int, steps: int) -> None:
    shown.update(videos * steps)


def _file_name(name: str | None, number: int) -> str:
    label = "video" if name is None else "".join(c if c.isalnum() or c in "-_." else "_" for c in name).lstrip(".") or "_"
    return f"{label}-{number:04}.mp4"


def _noise(seed: int, name: str | None, number: int) -> torch.Generator:
    """Of a video: a function of the seed, its class and its number."""
    digest = hashlib.sha256(json.dumps([seed, name, number]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _hash(pipeline: Any) -> str:
    """Of the denoiser's weights, so that videos of two generators are not mixed."""
    digest = hashlib.sha256()
    for name, tensor in sorted(pipeline.denoiser.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _same_settings(out: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder with videos of other settings; note these in a new one."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / SETTINGS_FILE
    if path.exists():
        try:
            before = json.loads(path.read_text())
            changed = [key for key in settings if before.get(key) != settings[key]]
        except (ValueError, AttributeError):
            raise ValueError(f"{path}: is damaged; delete it, or choose another --out") from None
        if changed:
            raise ValueError(f"{out}: holds videos made with another {changed[0]} ({before.get(changed[0])}); choose another --out")
        return
    write_json(path, settings)


def _first_window(pipeline: Any, path: Path) -> Any:
    """Latents (1, ...) of the first window of a video or latent file."""
    from vidtwin.cli.options import FitOptions
    from vidtwin.cli.videos import latents_of
    from vidtwin.inference.engine import Engine
    from vidtwin.latents.stream import Identity

    identity = Identity.of(pipeline.autoencoder)
    stream = latents_of(Engine(pipeline.autoencoder), path, FitOptions(), identity)
    stream.header.check_weights(identity)
    return next(iter(stream.windows)).latents


def _repeated(latents: Any, count: int) -> Any:
    return latents.map(lambda z: z.expand(count, *z.shape[1:]))


def _write(path: Path, frames: Any, fps: float) -> None:
    from vidtwin.video.write.writer import VideoWriter

    rate = Fraction(fps).limit_denominator(1001)
    with VideoWriter(path, rate, (frames.shape[1], frames.shape[2])) as writer:
        writer.write(frames)
