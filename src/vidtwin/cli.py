"""The command line: `vidtwin COMMAND ...`. A command body is arguments -> one library call -> print.

Exit codes: 0; 1 when the work failed, with one line on standard error; 2 for wrong usage; 130 after Ctrl-C. With the environment
variable VIDTWIN_TRACEBACK set, failures show where they came from.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from tqdm import tqdm
from tyro.conf import Positional, arg

from vidtwin import VidTwin, __version__, export_released
from vidtwin.checkpoint import shipped_names
from vidtwin.files import atomic_output, check_writable
from vidtwin.inference.latent_video import SUFFIX, Identity, LatentVideo, is_latent_file
from vidtwin.inference.reconstruct import decode_row, interpolate, reconstruct, swap
from vidtwin.inference.windows import decode_video, encode_video
from vidtwin.inspection import describe, load_weights
from vidtwin.model.vidtwin import Part
from vidtwin.released import RELEASED_SUFFIXES
from vidtwin.video.read import frame_count
from vidtwin.video.write import VideoWriter

SAMPLE = Path(__file__).parent / "assets" / "sample.mp4"

Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["float32", "float16", "bfloat16"]
Policy = Literal["crop", "squash", "pad"]
Output = Annotated[Path, arg(aliases=["-o"])]


@dataclass(frozen=True)
class ModelOptions:
    weights: str = "tiny"
    """A shipped name, a checkpoint folder, a hub id (owner/name), or a file in Microsoft's layout (.ckpt, .safetensors)."""
    config: str = "released"
    """Of a file in Microsoft's layout: a preset, or a config.json."""
    device: Device = "auto"
    """auto is cuda if there is one, else cpu."""
    dtype: Dtype = "float32"
    """Of weights and activations."""

    def load(self) -> tuple[VidTwin, Identity]:
        """A model placed where the options say, and the identity of its weights, which the dtype does not change."""
        place = device_of(self.device)
        model = load_weights(self.weights, self.config)
        identity = Identity.of(model, self.weights)
        return model.to(place, getattr(torch, self.dtype)), identity


Model = Annotated[ModelOptions, arg(name="")]  # options without a prefix
TINY, AS_ENCODED = ModelOptions(), ModelOptions(weights="those that encoded")


def reconstruct_command(
    input: Positional[Path | None] = None,
    out: Output = Path("reconstruction.mp4"),
    side_by_side: bool = False,
    policy: Policy = "crop",
    frames: str | None = None,
    crf: int = 18,
    model: Model = TINY,
) -> None:
    """Encode a video to Structure and Dynamics, decode it, and say how good it is.

    Args:
        input: a video; without one, the sample clip that comes with the package.
        out: the video to write (.mp4).
        side_by_side: write original | reconstruction | structure only | dynamics only.
        policy: how frames are fitted to the model's size: centre crop, squash, or pad with black (cut away again).
        frames: START:STOP, frame numbers from 0, either may be left out; default all.
        crf: H.264 quality of the output, 0 (best) to 51.
    """
    path = input or SAMPLE
    start, stop = parse_frames(frames)
    check_video_output(out, crf, path)
    twin, identity = model.load()
    with bar(2 * selected_frames(path, start, stop)) as progress:
        report = reconstruct(
            twin,
            path,
            out,
            policy=policy,
            start=start,
            stop=stop,
            panels=side_by_side,
            crf=crf,
            weights=identity,
            progress=progress,
        )
    print(f"{'input':14}{path if input else 'the sample clip of the package'}")
    print(f"{'weights':14}{model.weights}")
    print(report.table())
    print(f"{'written':14}{out}")


def encode_command(
    input: Positional[Path],
    out: Output,
    policy: Policy = "crop",
    frames: str | None = None,
    logvar: bool = False,
    model: Model = TINY,
) -> None:
    """Encode a video to a latent file (.vidtwin), which `decode` needs nothing else to decode.

    Args:
        input: a video.
        out: the latent file to write.
        policy: how frames are fitted to the model's size: centre crop, squash, or pad with black (cut away again).
        frames: START:STOP, frame numbers from 0, either may be left out; default all.
        logvar: store the posterior's log-variances beside its means.
    """
    if out.suffix != SUFFIX:
        raise UsageError(f"{out}: name the latent file {SUFFIX}, as in {out.with_suffix(SUFFIX)}")
    start, stop = parse_frames(frames)
    check_output(out, input)
    twin, identity = model.load()
    with bar(selected_frames(input, start, stop)) as progress:
        video = encode_video(twin, input, policy=policy, start=start, stop=stop, weights=identity, logvar=logvar, progress=progress)
    video.save(out)
    print(f"{out}: {video.frames} frames, {video.latents}")


def decode_command(
    input: Positional[Path],
    out: Output,
    only: Part | None = None,
    crf: int = 18,
    model: Model = AS_ENCODED,
) -> None:
    """Decode a latent file to a video.

    Args:
        input: a latent file (.vidtwin).
        out: the video to write (.mp4).
        only: decode one of the two latents alone.
        crf: H.264 quality of the output, 0 (best) to 51.
    """
    check_video_output(out, crf, input)
    video = LatentVideo.load(input)
    if model.weights == AS_ENCODED.weights:
        model = replace(model, weights=weights_of(video, input))
    twin, identity = model.load()
    with bar(video.frames) as progress:
        decode_video(twin, video, out, only=only, crf=crf, weights=identity, progress=progress)
    print(f"{out}: {video.frames} frames")


def swap_command(
    structure: Path,
    dynamics: Path,
    out: Output,
    policy: Policy = "crop",
    crf: int = 18,
    model: Model = TINY,
) -> None:
    """Decode the Structure of one video with the Dynamics of another.

    Args:
        structure: video or latent file whose scene, timing and geometry are kept.
        dynamics: video or latent file whose colour and fast motion are taken.
        out: the video to write (.mp4), as long as the shorter of the two.
        policy: how frames are fitted to the model's size: centre crop, squash, or pad with black (cut away again).
        crf: H.264 quality of the output, 0 (best) to 51.
    """
    check_video_output(out, crf, structure, dynamics)
    twin, identity = model.load()
    first, second = (latents_of(twin, path, policy, identity) for path in (structure, dynamics))
    video = swap(first, second)
    with bar(video.frames) as progress:
        decode_video(twin, video, out, crf=crf, weights=identity, progress=progress)
    print(f"{out}: {video.frames} frames")


def interpolate_command(
    a: Positional[Path],
    b: Positional[Path],
    out: Output,
    steps: int = 5,
    part: Literal["both", "structure", "dynamics"] = "both",
    policy: Policy = "crop",
    crf: int = 18,
    model: Model = TINY,
) -> None:
    """Decode steps on the line between the latents of two videos, side by side.

    Args:
        a: video or latent file, at the left; its timing and geometry are kept.
        b: video or latent file, at the right.
        out: the video to write (.mp4), as long as the shorter of the two.
        steps: number of videos side by side, a and b included.
        part: which latent moves; the other stays that of a.
        policy: how frames are fitted to the model's size: centre crop, squash, or pad with black (cut away again).
        crf: H.264 quality of the output, 0 (best) to 51.
    """
    check_video_output(out, crf, a, b)
    twin, identity = model.load()
    first, last = (latents_of(twin, path, policy, identity) for path in (a, b))
    videos = interpolate(first, last, steps, part)
    with bar(videos[0].frames) as progress:
        decode_row(twin, videos, out, crf=crf, weights=identity, progress=progress)
    print(f"{out}: {videos[0].frames} frames, {steps} steps")


def info_command(file: Positional[str]) -> None:
    """Say what a checkpoint, latent file or video is, without loading a model.

    Args:
        file: a shipped name, a checkpoint folder, a file in Microsoft's layout, a latent file or a video.
    """
    for name, value in describe(file).items():
        print(f"{name:14}{value}")


def convert_command(
    input: Positional[str],
    out: Output,
    config: str = "released",
    dtype: Dtype = "float32",
) -> None:
    """Convert weights between our folders and Microsoft's layout; the output's name says which way.

    Args:
        input: a shipped name, a checkpoint folder, a hub id, or a file in Microsoft's layout.
        out: a .ckpt or .safetensors file (Microsoft's layout), or the name of a folder to make (ours).
        config: of a file in Microsoft's layout: a preset, or a config.json.
        dtype: of the tensors in a folder of ours.
    """
    if out.suffix in RELEASED_SUFFIXES:
        if dtype != "float32":
            raise UsageError(f"--dtype {dtype}: files in Microsoft's layout hold float32; convert to a folder, or leave it out")
        check_output(out, Path(input))
        model = load_weights(input, config)
        export_released(model, out)
    else:
        if out.is_file():
            raise UsageError(f"{out}: is a file; name a folder, or a .ckpt or .safetensors file")
        model = load_weights(input, config)
        model.save_pretrained(out, dtype=getattr(torch, dtype))
    print(f"{out}: {sum(p.numel() for p in model.parameters()):,} parameters")


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
    try:
        from vidtwin.training.autoencoder import train
        from vidtwin.training.recipe import read_recipe
    except ModuleNotFoundError as error:
        raise UsageError(f"training needs the package {error.name}: pip install 'vidtwin[train]'") from None
    plan = read_recipe(
        recipe,
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


def check_data_command(
    source: Positional[str],
    frames: int = 16,
    sample_fps: float | None = None,
    workers: int = 1,
    json_out: Path | None = None,
) -> None:
    """Decode a data set once and say what is in it: counts, sizes, rates, durations, shot cuts, and what is broken.

    Args:
        source: a folder of videos, a .csv with a column "videos", a .txt list, WebDataset tars (shards-{000..010}.tar), or a
            LeRobot data set.
        frames: length of the clips that it is to be trained on.
        sample_fps: frame rate of the clips; default every frame.
        workers: processes that decode; 0 decodes in this one.
        json_out: also write the report to this file.
    """
    from vidtwin.data.check import check_data

    if json_out is not None:
        check_writable(json_out)
    with tqdm(unit="recording", leave=False) as shown:

        def progress(done: int, total: int) -> None:
            shown.total, shown.n = total, done
            shown.refresh()

        report = check_data(source, frames, sample_fps, workers, progress)
    print(report.table())
    if json_out is not None:
        with atomic_output(json_out) as partial:
            partial.write_text(json.dumps(report.to_dict(), indent=2) + "\n")


COMMANDS: dict[str, Callable[..., None]] = {
    "reconstruct": reconstruct_command,
    "encode": encode_command,
    "decode": decode_command,
    "swap": swap_command,
    "interpolate": interpolate_command,
    "info": info_command,
    "convert": convert_command,
    "train": train_command,
    "check-data": check_data_command,
}


class UsageError(ValueError):
    """An option that cannot be meant: exit code 2."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"vidtwin {__version__}")
        return 0
    warnings.showwarning = lambda message, *rest: print(f"vidtwin: warning: {message}", file=sys.stderr)
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="vidtwin",
            description="Video autoencoder with Structure and Dynamics latents.",
            args=arguments,
        )
    except KeyboardInterrupt:
        print("vidtwin: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ArithmeticError, MemoryError, RuntimeError) as error:
        if os.environ.get("VIDTWIN_TRACEBACK"):  # for whoever looks for a fault of ours
            raise
        print(f"vidtwin: error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def check_output(out: Path, *inputs: Path) -> None:
    """Refuse, before any work, an output that cannot be written or is one of the inputs."""
    check_writable(out)
    for path in inputs:
        if path.exists() and out.exists() and out.samefile(path):
            raise UsageError(f"{out}: is the input; choose another output")


def check_video_output(out: Path, crf: int, *inputs: Path) -> None:
    """`check_output`, and what the video writer asks of names and options."""
    VideoWriter(out, Fraction(25), (2, 2), crf)  # checks, and opens nothing until it is entered
    check_output(out, *inputs)


def device_of(name: str) -> str:
    """The device that `name` means here; refused in one line if there is none."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if (name == "cuda" and not torch.cuda.is_available()) or (name == "mps" and not torch.backends.mps.is_available()):
        raise UsageError(f"--device {name}: there is none here; use --device cpu")
    return name


def latents_of(model: VidTwin, path: Path, policy: str, weights: Identity) -> LatentVideo:
    """Load a latent file, or encode a video."""
    if is_latent_file(path):
        return LatentVideo.load(path)
    with bar(frame_count(path)) as progress:
        return encode_video(model, path, policy=policy, weights=weights, progress=progress)


def weights_of(video: LatentVideo, path: Path) -> str:
    """The shipped weights that a latent file names. Other names in a file are not trusted as paths."""
    if video.weights.name not in shipped_names():
        raise UsageError(f"{path}: was encoded with weights {video.weights}; say where they are with --weights")
    return video.weights.name


def parse_frames(text: str | None) -> tuple[int, int | None]:
    """ "10:20" -> (10, 20), "10:" -> (10, None), ":20" -> (0, 20), None -> (0, None)."""
    if text is None:
        return 0, None
    begin, colon, end = text.partition(":")
    if colon and all(part == "" or part.isdecimal() for part in (begin, end)):
        start, stop = int(begin or 0), int(end) if end else None
        if stop is None or stop > start:
            return start, stop
    raise UsageError(f"--frames {text}: expected START:STOP with 0 <= START < STOP, as in 0:100")


def selected_frames(path: Path, start: int, stop: int | None) -> int:
    """How many frames start..stop-1 of a file are, for a progress bar."""
    count = frame_count(path)
    return max(0, min(count, stop or count) - start)


@contextmanager
def bar(total: int) -> Iterator[Callable[[int], object]]:
    """A progress bar over frames on standard error, gone when done; none if that is not a terminal."""
    with tqdm(total=total, unit="frame", leave=False, disable=None) as progress:
        yield progress.update


if __name__ == "__main__":
    sys.exit(main())
