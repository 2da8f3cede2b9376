"""A folder of sampled videos, a file each, that a stopped call goes on with."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidtwin.checked import read_json
from vidtwin.files import check_writable, clear_partial, in_line, locked, write_json
from vidtwin.frames.clips import Geometry, pad_tail, to_clip
from vidtwin.generation.config import GUIDANCE
from vidtwin.generation.diffusion import STEPS
from vidtwin.generation.pipeline import VidTwinPipeline
from vidtwin.latents.file import LatentVideo, is_latent_file
from vidtwin.latents.stream import Identity
from vidtwin.model.latents import Latents
from vidtwin.video.read.reader import read_video
from vidtwin.video.write.writer import VideoWriter

SETTINGS_FILE = "generated.json"
VIDEO = re.compile(r"[^.].*-\d{4,}\.mp4")  # what `_file_name` gives
ARGUMENTS = {"generator": "pipeline", "frames": "num_frames", "guidance": "guidance_scale", "steps": "num_inference_steps"}

Progress = Callable[[int, int], object]
One = tuple[str | None, int]  # a video: its class, None for an unconditional generator, and its number


class ArgumentError(ValueError):
    """Arguments of `generate` that cannot be meant, whatever the folder and the files hold."""


@dataclass(frozen=True)
class GeneratedFiles:
    """The videos of a call of `generate`.

    Attributes:
        paths: of all that were asked for, class by class. kept: how many of them were there before.
    """

    paths: tuple[Path, ...]
    kept: int


def generate(
    pipeline: VidTwinPipeline,
    out: str | Path,
    classes: str | Sequence[str] | None = None,
    *,
    per_class: int = 1,
    num_frames: int | None = None,
    guidance_scale: float = GUIDANCE,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    num_inference_steps: int = 50,
    seed: int = 0,
    structure: str | Path | None = None,
    dynamics: str | Path | None = None,
    batch: int = 8,
    progress: Progress | None = None,
) -> GeneratedFiles:
    """Sample videos into a folder; or take one latent from a file, and sample the other one for it.

    Writes CLASS-0000.mp4, CLASS-0001.mp4, ... (video-0000.mp4, ... of an unconditional generator): H.264, at `pipeline.fps`, of the
    autoencoder's height and width; in a class's name what is no letter, digit, "-", "_" or "." becomes "_". Beside them
    `generated.json` holds what the videos depend on: the generator, and the arguments from `num_frames` to `dynamics`.

    A video is a function of these, its class and its number, but for rounding. So the same call goes on where a stopped one was:
    videos that are there are kept, and the others are made; `classes`, `per_class` and `batch` may change from call to call. A
    folder with videos of other settings is refused. A call that fails before its first video is written leaves nothing that is.

    Args:
        pipeline: the generator, on the device to work on.
        out: the folder to write; made if there is none.
        classes: names of classes, default all of the generator's. One named twice gets twice as many videos.
        per_class: videos of each.
        num_frames: F of each video; default a window, f. More need a generator trained with `previous: true`.
        guidance_scale: weight of the class (classifier-free guidance); 1 is none.
        guidance_interval: the noise levels, 0 to 1, at which there is guidance.
        num_inference_steps: from noise to latents, 1 to 1000.
        seed: of the noise.
        structure: a video or a latent file (.vidtwin) whose first window, f frames, cropped to the model's size, gives Structure,
            (1, d_S, n_q, h_S, w_S), of all videos; Dynamics is sampled. Needs a generator trained with `separate_levels` above 0.
        dynamics: the same the other way round; not together with `structure`.
        batch: B, videos that are made together.
        progress: called with (done, total) at the beginning and after each step of a batch; a video takes `num_inference_steps` for
            each of its windows.

    Raises:
        ValueError: counts below 1; classes that the generator does not have, or two whose files would have one name; both latents
            given, or one that this generator, or its autoencoder, cannot take; a folder with videos of other settings; and what
            the pipeline refuses.
        OSError: a file cannot be read, or the folder not be written, or another call is writing it.

    Long for its arguments; the work is done by `pipeline` and the functions below.
    """
    _check_counts(per_class=(per_class, None), batch=(batch, None), num_inference_steps=(num_inference_steps, STEPS))
    if num_frames is not None:
        _check_counts(num_frames=(num_frames, None))
    if not math.isfinite(guidance_scale):
        raise ArgumentError(f"guidance_scale={guidance_scale}: give a finite number")
    out, wanted = Path(out), _wanted(pipeline, classes, per_class)
    files = {name: Path(path) for name, path in (("structure", structure), ("dynamics", dynamics)) if path is not None}
    if len(files) == 2:
        given_both = f"structure={str(structure)!r}, dynamics={str(dynamics)!r}"
        raise ArgumentError(f"{given_both}: nothing is left to sample; give one of them")
    settings = {
        "generator": _hash(pipeline),
        "frames": num_frames,
        "guidance": guidance_scale,
        "guidance_interval": list(guidance_interval),
        "steps": num_inference_steps,
        "seed": seed,
        "structure": None if structure is None else str(structure),
        "dynamics": None if dynamics is None else str(dynamics),
    }
    _check_settings(out, settings)
    given = {name: _first_window(pipeline, name, path) for name, path in files.items()}
    _make_folder(out)
    with locked(out):
        _check_settings(out, settings)  # again, for others may have come meanwhile
        clear_partial(out)
        todo = [one for one in wanted if not (out / _file_name(*one)).exists()]
        windows = 1 if num_frames is None else -(-num_frames // pipeline.autoencoder.config.frames)
        steps = _Steps(len(todo) * num_inference_steps * windows, progress)
        for start in range(0, len(todo), batch):
            now = todo[start : start + batch]
            made = pipeline(
                [name for name, _ in now if name is not None] or None,
                num_videos=len(now),
                num_frames=num_frames,
                guidance_scale=guidance_scale,
                guidance_interval=guidance_interval,
                num_inference_steps=num_inference_steps,
                generator=[_noise(seed, *one) for one in now],
                progress=partial(steps.add, len(now)),
                structure=_repeated(given.get("structure"), len(now)),
                dynamics=_repeated(given.get("dynamics"), len(now)),
            )
            if start == 0:
                write_json(out / SETTINGS_FILE, settings)
            for one, video in zip(now, made.videos.numpy(), strict=True):
                _write(out / _file_name(*one), video, pipeline.fps)
        return GeneratedFiles(tuple(out / _file_name(*one) for one in wanted), len(wanted) - len(todo))


class _Steps:
    """Counts steps for `progress`."""

    def __init__(self, total: int, progress: Progress | None):
        self.done, self.total, self.progress = 0, total, progress
        self.add(0, 0)

    def add(self, videos: int, steps: int) -> None:
        self.done += videos * steps
        if self.progress is not None:
            self.progress(self.done, self.total)


def _check_counts(**counts: tuple[int, int | None]) -> None:
    """Arguments with their values, and the most that these may be."""
    for name, (value, most) in counts.items():
        if value < 1 or (most is not None and value > most):
            raise ArgumentError(f"{name}={value}: give " + ("at least 1" if most is None else f"1 to {most}"))


def _wanted(pipeline: VidTwinPipeline, classes: str | Sequence[str] | None, per_class: int) -> list[One]:
    """The videos asked for, class by class."""
    asked = [classes] if isinstance(classes, str) else list(classes or ())
    if unknown := [name for name in asked if name not in pipeline.classes]:
        known = f"has {', '.join(pipeline.classes)}; choose among these" if pipeline.classes else "is unconditional; leave them out"
        raise ArgumentError(f"classes={unknown}: the generator {known}")
    names: list[str | None] = [*(asked or pipeline.classes)] or [None]
    times, taken = Counter(names), dict[str, str | None]()
    for name in times:
        if (other := taken.setdefault(_file_name(name, 0), name)) != name:
            raise ArgumentError(f"classes={[other, name]}: both would be written to {_file_name(name, 0)}; ask for them apart")
    return [(name, number) for name, count in times.items() for number in range(count * per_class)]


def _file_name(name: str | None, number: int) -> str:
    label = "video" if name is None else "".join(c if c.isalnum() or c in "-_." else "_" for c in name).lstrip(".") or "_"
    return f"{label}-{number:04}.mp4"


def _noise(seed: int, name: str | None, number: int) -> torch.Generator:
    """Of a video: a function of the seed, its class and its number."""
    digest = hashlib.sha256(json.dumps([seed, name, number]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _hash(pipeline: VidTwinPipeline) -> str:
    """Of the denoiser's weights, so that videos of two generators are not mixed."""
    digest = hashlib.sha256()
    for name, tensor in sorted(pipeline.denoiser.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder with videos of other settings; without a video, what a failed call left there does not count."""
    path = out / SETTINGS_FILE
    if not path.exists() or not any(VIDEO.fullmatch(file.name) for file in out.iterdir()):
        return
    try:
        before = read_json(path)
        if not isinstance(before, dict):
            raise ValueError("no settings")
    except ValueError:
        raise ValueError(f"{path}: is damaged; delete it, or choose another folder") from None
    changed = next((key for key in settings if before.get(key) != settings[key]), None)
    if changed is not None:
        name = ARGUMENTS.get(changed, changed)
        raise ValueError(
            f"out={str(out)!r}: holds videos made with another {name} ({in_line(before.get(changed))}, not {settings[changed]}); "
            "choose another folder, or the same settings"
        )


def _make_folder(out: Path) -> None:
    """What writing would end in is said before any work."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(f"out={str(out)!r}: is not a folder, or lies in a file; choose another one") from None
    check_writable(out / SETTINGS_FILE)


def _first_window(pipeline: VidTwinPipeline, part: str, path: Path) -> Latents:
    """Latents (1, ...) of the first window of a video or latent file."""
    pipeline.check_given(part)
    config = pipeline.autoencoder.config
    if not is_latent_file(path):
        frames = pad_tail(read_video(path, 0, config.frames).frames, config.frames)
        geometry = Geometry.plan("crop", (frames.shape[1], frames.shape[2]), (config.height, config.width))
        with torch.no_grad():
            clip = to_clip(frames, geometry)[None].to(pipeline.device, pipeline.autoencoder.dtype)
            return pipeline.autoencoder.encode(clip).to(torch.float32)
    video, own = LatentVideo.load(path), Identity.of(pipeline.autoencoder, "the generator's autoencoder")
    remedy = "give the video itself"
    if video.header.weights.hash != own.hash:
        raise ValueError(f"{part}={str(path)!r}: was encoded with weights {video.header.weights}, not with {own}; {remedy}")
    if video.header.tiles > 1:
        raise ValueError(f"{part}={str(path)!r}: has {video.header.tiles} clips of each window, tiles of a larger frame; {remedy}")
    return video.window(0).latents


def _repeated(latents: Latents | None, count: int) -> Latents | None:
    return latents and latents.map(lambda z: z.expand(count, *z.shape[1:]))


def _write(path: Path, frames: np.ndarray, fps: float) -> None:
    rate = Fraction(fps).limit_denominator(1001)
    with VideoWriter(path, rate, (frames.shape[1], frames.shape[2])) as writer:
        writer.write(frames)
