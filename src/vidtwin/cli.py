"""The command line: `vidtwin COMMAND ...`. A command body is arguments -> one library call -> print.

Exit codes: 0; 1 when the work failed, with one line on standard error; 2 for wrong usage; 130 after Ctrl-C. With the environment
variable VIDTWIN_TRACEBACK set, failures show where they came from.
"""

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, TextIO

import torch
import tyro
from tqdm import tqdm
from tyro.conf import Positional, arg

from vidtwin import __version__, export_released
from vidtwin.checkpoint import shipped_names
from vidtwin.files import atomic_output, check_writable, write_json
from vidtwin.inference import decode as writing
from vidtwin.inference.decode import decode_video
from vidtwin.inference.encode import encode_stream, encode_video, plan_header
from vidtwin.inference.engine import CHECK_DB, DECODER, ENCODER, Engine, only
from vidtwin.inference.entropy import check_step, needs_constriction
from vidtwin.inference.latent_stream import Header, Identity, LatentStream
from vidtwin.inference.latent_video import SUFFIX, LatentVideo, is_latent_file
from vidtwin.inference.onnx_model import OnnxModel, is_exported
from vidtwin.inference.reconstruct import decode_row, interpolate, reconstruct, swap
from vidtwin.inspection import describe, load_weights
from vidtwin.model.vidtwin import Part
from vidtwin.released import RELEASED_SUFFIXES
from vidtwin.video.encoding import Encoding, is_picture_sequence
from vidtwin.video.pipes import spooled, stdout_output
from vidtwin.video.read import frame_count, probe

SAMPLE = Path(__file__).parent / "assets" / "sample.mp4"

Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["float32", "float16", "bfloat16"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]
Backend = Literal["torch", "onnx"]
Policy = Literal["crop", "squash", "pad", "tile"]
Codec = Literal["auto", "h264", "hevc", "vp9", "av1", "ffv1", "png"]
Output = Annotated[Path, arg(aliases=["-o"])]


@dataclass(frozen=True)
class ModelOptions:
    weights: str = "tiny"
    """A shipped name, a checkpoint folder, a hub id (owner/name), or a file in Microsoft's layout (.ckpt, .safetensors)."""
    config: str = "released"
    """Of a file in Microsoft's layout: a preset, or a config.json."""
    backend: Backend = "torch"
    """onnx runs a folder that `vidtwin export` wrote, given as --weights, on the CPU in the precision that it was exported in."""
    device: Device = "auto"
    """auto is cuda if there is one, else cpu."""
    dtype: Precision = "auto"
    """Of weights and activations of the decoding half; auto is float32, or bfloat16 on a GPU whose memory holds no clip of it."""
    encode_dtype: Precision | None = None
    """Of the encoding half; default as --dtype."""
    batch: int | None = None
    """Clips at a time; default one on a CPU, on a GPU as many as half of the free memory holds, at most 16."""
    check: float = CHECK_DB
    """Refuse a precision whose first clip is less than this many dB (PSNR) from float32; 0 for no check."""
    compile: bool = False
    """Compile the model's blocks (torch.compile): up to a minute at the start; on a CPU it needs a C++ compiler."""
    low_memory: bool = False
    """One clip at a time; and of the weights only what is used, read from their file as it is."""

    def load(self, parts: tuple[str, ...] = ENCODER + DECODER) -> tuple[Engine, Identity]:
        """A model placed where the options say, and the identity of its weights, which the dtype does not change.

        `parts` are those that will be used.
        """
        place = device_of(self.device)
        if self.backend == "onnx":
            return self._load_exported()
        if is_exported(Path(self.weights)):
            raise UsageError(f"--weights {self.weights}: was exported to ONNX; add --backend onnx")
        model = load_weights(self.weights, self.config)
        identity = Identity.of(model, self.weights)
        decode, encode = (
            None if name == "auto" else getattr(torch, name) for name in (self.dtype, self.encode_dtype or self.dtype)
        )
        if self.low_memory:
            del model  # and what was read of it for its identity
            model = load_weights(self.weights, self.config)
            if not (encode or decode):  # another precision is checked by decoding
                model = only(model, parts)
        batch = self.batch or (1 if self.low_memory else None)
        engine = Engine(model.to(place), encode_dtype=encode, dtype=decode, batch=batch, check_db=self.check, compile=self.compile)
        return engine, identity

    def _load_exported(self) -> tuple[Engine, Identity]:
        if self.device not in ("auto", "cpu"):
            raise UsageError(f"--device {self.device}: exported models run on the CPU here; leave it out")
        if self.dtype != "auto" or self.encode_dtype is not None:
            raise UsageError("--dtype and --encode-dtype: an exported model has the precision of its export; leave them out")
        if self.compile or self.low_memory:
            raise UsageError("--compile and --low-memory: not for an exported model; leave them out")
        exported = OnnxModel(self.weights)
        return Engine(exported, batch=self.batch, check_db=self.check), exported.identity


@dataclass(frozen=True)
class FitOptions:
    policy: Policy = "crop"
    """How frames are fitted to the model's size: centre crop, squash, pad with black (cut away again), or overlapping tiles of it,
    which keep the full resolution."""
    tile_overlap: int | None = None
    """Pixels that neighbouring tiles share; default a quarter of the model's size."""
    overlap: int = 0
    """Frames that a window of the model shares with the one before; they fade into each other, but not across a shot cut."""


@dataclass(frozen=True)
class VideoOptions:
    codec: Codec = "auto"
    """auto goes by the name: H.264 for .mp4, .m4v, .mov and .mkv, VP9 for .webm, PNG for a folder or a pattern (%05d.png)."""
    crf: int | None = None
    """Quality, 0 (best) to 51 for H.264 and HEVC, to 63 for VP9 and AV1; default 18 for H.264."""
    lossless: bool = False
    """Keep every decoded pixel."""
    sound: bool = True
    """Copy sound, subtitles and chapters of the source."""

    def output(self, source: Path | None) -> writing.Output:
        """With what of `source` is to be copied."""
        return writing.Output(Encoding(self.codec, self.crf, self.lossless), source if self.sound else None)


Model = Annotated[ModelOptions, arg(name="")]  # options without a prefix
Fitting = Annotated[FitOptions, arg(name="")]
Video = Annotated[VideoOptions, arg(name="")]
TINY, AS_ENCODED = ModelOptions(), ModelOptions(weights="those that encoded")
FIT, VIDEO = FitOptions(), VideoOptions()


def reconstruct_command(
    input: Positional[Path | None] = None,
    out: Output = Path("reconstruction.mp4"),
    side_by_side: bool = False,
    frames: str | None = None,
    resume: bool = False,
    fit: Fitting = FIT,
    video: Video = VIDEO,
    model: Model = TINY,
) -> None:
    """Encode a video to Structure and Dynamics, decode it, and say how good it is.

    Args:
        input: a video, a folder of images, a pattern of image names (%04d.png), or - for standard input; without one, the sample
            clip that comes with the package.
        out: the video to write (.mp4, .mov, .mkv, .webm), a folder for PNG frames, or - for standard output (.mp4).
        side_by_side: write original | reconstruction | structure only | dynamics only.
        frames: START:STOP, frame numbers from 0, either may be left out; default all.
        resume: go on where a run with the same options was stopped.
    """
    start, stop = parse_frames(frames)
    with spooled(input or SAMPLE) as path, video_output(out, video, path) as target:
        engine, identity = model.load()
        with bar(selected_frames(path, start, stop)) as progress:
            report = reconstruct(
                engine,
                path,
                target,
                policy=fit.policy,
                tile_overlap=fit.tile_overlap,
                overlap=fit.overlap,
                start=start,
                stop=stop,
                panels=side_by_side,
                output=video.output(path),
                weights=identity,
                resume=resume,
                progress=progress,
            )
    to = said_to(out)
    print(f"{'input':14}{input or 'the sample clip of the package'}", file=to)
    print(f"{'weights':14}{model.weights}", file=to)
    print(report.table(), file=to)
    print(f"{'written':14}{out}", file=to)


def encode_command(
    input: Positional[Path],
    out: Output,
    frames: str | None = None,
    logvar: bool = False,
    compress: bool = False,
    step: float = 1.0,
    resume: bool = False,
    fit: Fitting = FIT,
    model: Model = TINY,
) -> None:
    """Encode a video to a latent file (.vidtwin), which `decode` needs nothing else to decode.

    Until it is finished it grows as NAME.partial.vidtwin, which can be decoded as far as it goes.

    Args:
        input: a video, a folder of images, a pattern of image names (%04d.png), or - for standard input.
        out: the latent file to write.
        frames: START:STOP, frame numbers from 0, either may be left out; default all.
        logvar: store the posterior's log-variances beside its means.
        compress: round the means and code them by their entropy: a file of a few bits a value.
        step: of the rounding with --compress, in units of the posterior's mean standard deviation of a channel; smaller is nearer.
        resume: go on where a run with the same options was stopped.
    """
    if out.suffix != SUFFIX:
        raise UsageError(f"{out}: name the latent file {SUFFIX}, as in {out.with_suffix(SUFFIX)}")
    start, stop = parse_frames(frames)
    if compress:
        check_compressed(step, logvar)
    check_output(out, input)
    with spooled(input) as path:
        engine, identity = model.load(ENCODER)
        with bar(selected_frames(path, start, stop)) as progress:
            video = encode_video(
                engine,
                path,
                out,
                policy=fit.policy,
                tile_overlap=fit.tile_overlap,
                overlap=fit.overlap,
                start=start,
                stop=stop,
                weights=identity,
                logvar=logvar,
                step=step if compress else None,
                resume=resume,
                progress=progress,
            )
        notes = (*probe(path).notes, *engine.notes)
    print(f"{out}: {video.frames} frames, {len(video.cuts)} shot cuts, {video.window_count} windows of {video.header.tiles} clips")
    if video.size is not None:
        print(f"{out}: {video.size}")
    print_notes(notes)


def decode_command(
    input: Positional[Path],
    out: Output,
    only: Part | None = None,
    start: str | None = None,
    end: str | None = None,
    sound_from: Path | None = None,
    video: Video = VIDEO,
    model: Model = AS_ENCODED,
) -> None:
    """Decode a latent file to a video.

    Args:
        input: a latent file (.vidtwin), finished or still growing.
        out: the video to write (.mp4, .mov, .mkv, .webm), a folder for PNG frames, or - for standard output (.mp4).
        only: decode one of the two latents alone.
        start: where to begin: a frame number from 0 (48), or seconds from the first frame (2s, 1.5, 1:02).
        end: where to stop, in the same way; this frame is not decoded.
        sound_from: the video that was encoded, to copy its sound, subtitles and chapters.
    """
    latents = LatentVideo.load(input)
    first = 0 if start is None else parse_position(start, "--start", latents)
    stop = None if end is None else parse_position(end, "--end", latents)
    if model.weights == AS_ENCODED.weights:
        model = replace(model, weights=weights_of(latents.header, input))
    with video_output(out, video, input) as target:
        engine, identity = model.load(DECODER)
        with bar((latents.frames if stop is None else stop) - first) as progress:
            notes = decode_video(
                engine,
                latents,
                target,
                only=only,
                start=first,
                stop=stop,
                output=video.output(sound_from),
                weights=identity,
                progress=progress,
            )
    growing = "" if latents.complete else ", of a file that is not finished"
    print(f"{out}: {min(latents.frames, stop or latents.frames) - first} frames{growing}", file=said_to(out))
    print_notes((*engine.notes, *notes), said_to(out))


def swap_command(
    structure: Path,
    dynamics: Path,
    out: Output,
    fit: Fitting = FIT,
    video: Video = VIDEO,
    model: Model = TINY,
) -> None:
    """Decode the Structure of one video with the Dynamics of another.

    Args:
        structure: video or latent file whose scene, timing, geometry and sound are kept.
        dynamics: video or latent file whose colour and fast motion are taken.
        out: the video to write, as long as the shorter of the two.
    """
    with video_output(out, video, structure, dynamics) as target:
        engine, identity = model.load()
        first, second = (latents_of(engine, path, fit, identity) for path in (structure, dynamics))
        mixed = swap(first, second)
        with bar(mixed.frames) as progress:
            output = video.output(None if is_latent_file(structure) else structure)
            notes = decode_video(engine, mixed, target, output=output, weights=identity, progress=progress)
    print(f"{out}: Structure of {structure}, Dynamics of {dynamics}", file=said_to(out))
    print_notes((*engine.notes, *notes), said_to(out))


def interpolate_command(
    a: Positional[Path],
    b: Positional[Path],
    out: Output,
    steps: int = 5,
    part: Literal["both", "structure", "dynamics"] = "both",
    fit: Fitting = FIT,
    video: Video = VIDEO,
    model: Model = TINY,
) -> None:
    """Decode steps on the line between the latents of two videos, side by side.

    Args:
        a: video or latent file, at the left; its timing, geometry and sound are kept.
        b: video or latent file, at the right.
        out: the video to write, as long as the shorter of the two.
        steps: number of videos side by side, a and b included.
        part: which latent moves; the other stays that of a.
    """
    with video_output(out, video, a, b) as target:
        engine, identity = model.load()
        first, last = (latents_of(engine, path, fit, identity) for path in (a, b))
        streams = interpolate(first, last, steps, part)
        with bar(streams[0].frames) as progress:
            output = video.output(None if is_latent_file(a) else a)
            notes = decode_row(engine, streams, target, output=output, weights=identity, progress=progress)
    print(f"{out}: {steps} steps from {a} to {b}", file=said_to(out))
    print_notes((*engine.notes, *notes), said_to(out))


def info_command(file: Positional[str]) -> None:
    """Say what a checkpoint, latent file or video is, without loading a model.

    Args:
        file: a shipped name, a checkpoint folder, an exported model, a file in Microsoft's layout, a latent file or a video.
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


def export_command(
    out: Output,
    weights: str = "tiny",
    config: str = "released",
    quantize: Literal["int8"] | None = None,
) -> None:
    """Export weights to ONNX, encoder.onnx and decoder.onnx in a folder, and check them against torch; --backend onnx runs it.

    Args:
        out: name of the folder; an earlier export in it is replaced.
        weights: a shipped name, a checkpoint folder, a hub id (owner/name), or a file in Microsoft's layout.
        config: of a file in Microsoft's layout: a preset, or a config.json.
        quantize: int8 stores linear layers as whole numbers, and computes with them: smaller, not the same.
    """
    from vidtwin.export import export_onnx

    model = load_weights(weights, config)
    print(export_onnx(model, out, quantize=quantize, weights=Identity.of(model, weights)).table())
    print(f"{'written':14}{out}")


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
        write_json(json_out, report.to_dict())


def evaluate_command(
    data: Positional[str | None] = None,
    weights: str = "tiny",
    out: Output = Path("evaluation.json"),
    protocol: Literal["vidtwin-paper", "vidtwin-released"] | None = None,
    sample_fps: float | None = None,
    tail: Literal["repeat", "drop"] = "repeat",
    latents: Literal["mean", "sample"] = "mean",
    seed: int = 0,
    controls: tuple[Literal["dct", "resize"], ...] = (),
    lpips: str | None = None,
    i3d: str | None = None,
    config: str = "released",
    workers: int = 1,
    device: Device = "auto",
    compare: tuple[Path, Path] | None = None,
) -> None:
    """Reconstruct the clips of videos and score them: a table, and a file that another lab can check, clip by clip.

    With --compare A.json B.json: the paired differences of two such files, with bootstrap intervals.

    Args:
        data: a folder of videos, or a video.
        weights: a shipped name, a checkpoint folder, a hub id (owner/name), or a file in Microsoft's layout.
        out: the file to write (.json).
        protocol: that of the paper (25 frames per second, posterior mean, last frame repeated) or of the released script (a sample
            of the posterior instead); in place of the next three.
        sample_fps: frames per second to take; default every frame.
        tail: last frames that fill no clip: repeat the last one, or drop them.
        latents: the posterior's mean, or a sample.
        seed: of samples.
        controls: also score what arithmetic does with as many values: a 3-D DCT; down- and upsampling.
        lpips: for LPIPS: a folder with vgg16-397923af.pth and vgg.pth, or a released checkpoint with them.
        i3d: for FVD and KVD: i3d_torchscript.pt of StyleGAN-V.
        config: of a file in Microsoft's layout: a preset, or a config.json.
        workers: processes; the numbers do not depend on it.
        device: auto is cuda if there is one, else cpu.
        compare: two files that this command wrote.
    """
    if compare is not None:
        from vidtwin.evaluation.compare import compare as compare_files

        print(compare_files(*compare).table())
        return
    if data is None:
        raise UsageError("vidtwin evaluate: name a folder of videos, or two files with --compare A.json B.json")
    try:
        from vidtwin.evaluation.reconstruct import PROTOCOLS, evaluate
    except ModuleNotFoundError as error:
        raise UsageError(f"evaluating needs the package {error.name}: pip install 'vidtwin[eval]'") from None
    from vidtwin.data.sources import find_videos
    from vidtwin.evaluation.scoring import Networks, Rules

    check_output(out, Path(data))
    rules = PROTOCOLS[protocol] if protocol else Rules(sample_fps, tail, latents, seed)
    videos = [Path(data)] if Path(data).is_file() else find_videos(data)
    with tqdm(total=2 * len(videos), unit="video", leave=False, disable=None) as shown:

        def progress(done: int, total: int) -> None:
            shown.n = done
            shown.refresh()

        result = evaluate(
            load_weights(weights, config),
            videos,
            tail=rules.tail,
            latents=rules.latents,
            seed=seed,
            device=device_of(device),
            sample_fps=rules.sample_fps,
            controls=controls,
            networks=Networks(lpips, i3d),
            weights=weights,
            workers=workers,
            progress=progress,
        )
    write_json(out, result.to_dict(), indent=1, allow_nan=False)
    print(result.table())
    print(f"{'written':24}{out}")


def analyze_command(
    data: Positional[str],
    weights: str = "tiny",
    out: Output = Path("analysis.json"),
    report: Path | None = None,
    evaluation: Path | None = None,
    clips: int = 1,
    sprites: int = 240,
    seed: int = 0,
    config: str = "released",
    device: Device = "auto",
) -> None:
    """Say what each latent holds: spectra, swaps, dependence, probes on sprites, bits; beside a model that was never trained.

    Args:
        data: a folder of videos, 10 at least.
        weights: a shipped name, a checkpoint folder, a hub id (owner/name), or a file in Microsoft's layout.
        out: the file to write (.json).
        report: also write a page (.html) with everything to see, videos included.
        evaluation: what `vidtwin evaluate` wrote, for the page.
        clips: of each video, the first ones that are whole.
        sprites: drawn clips with known factors, 40 at least.
        seed: of the untrained weights, the sprites, and what is drawn in the tests.
        config: of a file in Microsoft's layout: a preset, or a config.json.
        device: auto is cuda if there is one, else cpu.
    """
    if clips < 1:
        raise UsageError(f"--clips {clips}: give at least 1")
    try:
        from vidtwin.evaluation.analysis import analyze
        from vidtwin.evaluation.report import report as page
    except ModuleNotFoundError as error:
        raise UsageError(f"analysing needs the package {error.name}: pip install 'vidtwin[eval]'") from None
    from vidtwin.data.sources import find_videos
    from vidtwin.evaluation.compare import read_result
    from vidtwin.evaluation.scoring import first_clips

    for path in filter(None, (out, report)):
        check_output(path, Path(data))
    scores = None if evaluation is None else read_result(evaluation)
    model = load_weights(weights, config).to(device_of(device))
    pixels, names = first_clips(find_videos(data), model.config, clips)
    with tqdm(leave=False, disable=None) as shown:

        def progress(what: str, done: int, total: int) -> None:
            shown.set_description(what, refresh=False)
            shown.total, shown.n = total, done
            shown.refresh()

        analysis = analyze(model, pixels, names, seed=seed, sprites=sprites, progress=progress)
    write_json(out, analysis.to_dict(), indent=1, allow_nan=False)
    for name, sentence in analysis.sentences().items():
        print(f"{name}: {sentence}")
    print(f"written: {out}")
    if report is not None:
        text = page(model, pixels, names, analysis, weights, scores)
        with atomic_output(report) as partial:
            partial.write_text(text, encoding="utf-8")
        print(f"written: {report}, {len(text.encode()) / 2**20:.1f} MiB")


def benchmark_command(
    models: Positional[tuple[str, ...]] = ("tiny",),
    dtypes: tuple[Dtype, ...] = ("float32",),
    batches: tuple[int, ...] = (1, 2),
    repeats: int = 5,
    train: bool = False,
    compile: bool = False,
    video: Path | None = None,
    device: Device = "auto",
    json_out: Path | None = None,
) -> None:
    """Say how fast models run here, and how near that is to the limit: the rate of a large matrix product in the same dtype.

    Args:
        models: presets (random weights), shipped names, checkpoint folders or files.
        dtypes: of weights and activations.
        batches: clips at a time.
        repeats: calls, fewer where they take over half a minute; the median counts.
        train: also training steps, with and without gradient checkpointing.
        compile: compile the models' blocks first.
        video: also say where the time goes when (500 frames of) this video is reconstructed with the first of the models.
        device: auto is cuda if there is one, else cpu.
        json_out: also write everything to this file, anew after each row.
    """
    from vidtwin.benchmark import INFERENCE, STEPS, Row, Split, measure, split, table
    from vidtwin.model.config import PRESETS, preset
    from vidtwin.model.vidtwin import VidTwin

    if json_out is not None:
        check_writable(json_out)
    place = device_of(device)
    rows: list[Row] = []
    parts: Split | None = None

    def save() -> None:
        if json_out is not None:
            write_json(json_out, {"rows": [row.to_dict() for row in rows], "video": parts and parts.to_dict()})

    steps = STEPS if train else INFERENCE
    with tqdm(total=len(models) * len(dtypes) * len(batches) * len(steps), unit="row", leave=False, disable=None) as progress:
        for number, name in enumerate(models):
            model = (VidTwin(preset(name)) if name in PRESETS else load_weights(name)).to(place)
            if video is not None and number == 0:
                parts = split(Engine(model, compile=compile), video)
            for dtype in dtypes:
                for batch in batches:
                    for row in measure(model, name, getattr(torch, dtype), batch, repeats, steps, compile):
                        rows.append(row)
                        progress.update()
                        save()
    print(table(rows))
    if parts is not None:
        print(f"\n{video}, {models[0]}\n{parts.table()}")
    save()


COMMANDS: dict[str, Callable[..., None]] = {
    "reconstruct": reconstruct_command,
    "encode": encode_command,
    "decode": decode_command,
    "swap": swap_command,
    "interpolate": interpolate_command,
    "info": info_command,
    "convert": convert_command,
    "export": export_command,
    "train": train_command,
    "check-data": check_data_command,
    "evaluate": evaluate_command,
    "analyze": analyze_command,
    "benchmark": benchmark_command,
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


def check_compressed(step: float, logvar: bool) -> None:
    """Refuse, before any work, what `encode --compress` cannot do."""
    if logvar:
        raise UsageError("--logvar: a compressed file holds no log-variances; leave out one of --logvar and --compress")
    try:
        check_step(step)
    except ValueError as error:
        raise UsageError(str(error)) from error
    needs_constriction()


@contextmanager
def video_output(out: Path, video: VideoOptions, *inputs: Path) -> Iterator[Path]:
    """Where to write: `out`, checked before any work, or a temporary file that goes to standard output at the end."""
    encoding = Encoding(video.codec, video.crf, video.lossless)
    if str(out) == "-":
        with stdout_output(".mp4") as target:
            yield target
        return
    encoding.check(out)
    if not is_picture_sequence(out):  # the writer looks at folders
        check_output(out, *inputs)
    yield out


def said_to(out: Path) -> TextIO:
    """Where a command speaks: not to standard output, if the video goes there."""
    return sys.stderr if str(out) == "-" else sys.stdout


def print_notes(notes: Sequence[str], to: TextIO | None = None) -> None:
    """What was not kept, or done otherwise than asked."""
    for note in notes:
        print(f"{'note':14}{note}", file=to)


def device_of(name: str) -> str:
    """The device that `name` means here; refused in one line if there is none."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if (name == "cuda" and not torch.cuda.is_available()) or (name == "mps" and not torch.backends.mps.is_available()):
        raise UsageError(f"--device {name}: there is none here; use --device cpu")
    return name


def latents_of(engine: Engine, path: Path, fit: FitOptions, weights: Identity) -> LatentStream:
    """The windows of a latent file, or of a video as it is encoded."""
    if is_latent_file(path):
        return LatentVideo.load(path).stream()
    header = plan_header(engine, probe(path), weights, policy=fit.policy, tile_overlap=fit.tile_overlap, overlap=fit.overlap)
    return replace(encode_stream(engine, path, header), frames=selected_frames(path, 0, None))


def weights_of(header: Header, path: Path) -> str:
    """The shipped weights that a latent file names. Other names in a file are not trusted as paths."""
    if header.weights.name not in shipped_names():
        raise UsageError(f"{path}: was encoded with weights {header.weights}; say where they are with --weights")
    return header.weights.name


def parse_position(text: str, option: str, video: LatentVideo) -> int:
    """A frame number: "48" is frame 48; "2s", "1.5" and "1:02.5" are the first frame shown then, in seconds from the first."""
    if text.isdecimal():
        return int(text)
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)s?", text)
    if match is None:
        raise UsageError(f"{option} {text}: expected a frame number (48) or seconds (2s, 1.5, 1:02)")
    hours, minutes, seconds = (Fraction(part or 0) for part in match.groups())
    return video.frame_at(3600 * hours + 60 * minutes + seconds)


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
    count = probe(path).frames or frame_count(path)
    return max(0, min(count, stop or count) - start)


@contextmanager
def bar(total: int | None) -> Iterator[Callable[[int], object]]:
    """A progress bar over frames on standard error, gone when done; none if that is not a terminal."""
    with tqdm(total=total, unit="frame", leave=False, disable=None) as progress:
        yield progress.update


if __name__ == "__main__":
    sys.exit(main())
