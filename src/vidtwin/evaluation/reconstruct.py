"""How well a model reconstructs videos, by the protocol of the released evaluation, and what each latent adds."""

import datetime
import itertools
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidtwin.evaluation.codecs import Point, mean_curve
from vidtwin.evaluation.fvd import I3D_REMEDY, frechet_distance, kernel_distance, real_floor
from vidtwin.evaluation.results import Result, list_hash
from vidtwin.evaluation.scoring import Code, Control, LatentChoice, Networks, Rules, Scored, Scorer, Tail, evaluation_clips
from vidtwin.evaluation.workers import Workers
from vidtwin.latents.bins import needs_constriction
from vidtwin.latents.entropy import LatentCoder, Moments
from vidtwin.losses.lpips import REMEDY as LPIPS_REMEDY
from vidtwin.losses.ms_ssim import TOO_SMALL
from vidtwin.model.checkpoint import weights_hash
from vidtwin.model.latents import Latents, Posterior
from vidtwin.model.vidtwin import VidTwin
from vidtwin.version import __version__

__all__ = ["PROTOCOLS", "StrPath", "evaluate", "evaluation_clips", "video_names"]

StrPath = str | os.PathLike[str]
Progress = Callable[[int, int], None]
STEPS = (1.0, 12**0.5, 8.0, 16.0, 32.0, 64.0)  # of the quantiser, in sigma, for the curve of the latents

# The released script samples the posterior, the paper takes its mean; both see 25 frames a second and repeat a last frame.
PROTOCOLS: dict[str, Rules] = {
    "vidtwin-released": Rules(sample_fps=25.0, tail="repeat", latents="sample"),
    "vidtwin-paper": Rules(sample_fps=25.0, tail="repeat", latents="mean"),
}


def evaluate(
    model: VidTwin,
    paths: Sequence[StrPath],
    *,
    tail: Tail = "repeat",
    latents: LatentChoice = "mean",
    seed: int = 0,
    device: str | torch.device | None = None,
    sample_fps: float | None = None,
    controls: Sequence[Control] = (),
    first: int | None = None,
    codecs: Sequence[str] = (),
    networks: Networks | None = None,
    weights: str = "unnamed",
    workers: int = 1,
    progress: Progress | None = None,
) -> Result:
    """Reconstruct every clip of the videos and score the full decoding and each branch's share of it. Long for its arguments.

    The videos are read twice: first to encode, then, when the mean of each latent over all clips is known, to decode.
    A video that cannot be read, or that gives no clip, is listed under `failures` and counts nowhere. With a single
    clip the mean is that clip's own latent, and the branches seem to cost nothing.

    Args:
        model: a VidTwin; left in evaluation mode or not, as it was.
        paths: the videos.
        tail, sample_fps, latents, seed, controls, first, codecs: as in `Rules`; `PROTOCOLS` has those of the released script and
            the paper.
        device: moves the model there first; None leaves it where it is.
        networks: for LPIPS, FVD and KVD, which are `missing` without them; and for the controls "pca" and "grid".
        weights: name of the weights for the protocol.
        workers: processes; the numbers do not depend on it.
        progress: called with (done, total) after each video of each of the two passes, or three with `codecs`.

    Raises:
        ValueError: an unknown choice, no videos, one listed twice, or none that gives a clip; networks that are not what they
            must be. OSError: files of networks are not there.
    """
    rules = Rules(sample_fps, tail, latents, seed, tuple(controls), first, tuple(codecs))
    if codecs:
        needs_constriction()
    videos, networks, begun = video_names(paths), networks or Networks(), time.perf_counter()
    if device is not None:
        model = model.to(device)
    was_training = model.training
    advance = _counter(progress, passes(rules) * len(videos))
    try:
        with Workers(model, rules, networks, workers) as pool:
            codes, failures = _encoded(pool, videos, model.config.frames, tail, advance)
            scored = _scored(pool, videos, codes, advance)
            curves = _curves(pool, videos, codes, advance) if codecs else {}
            facts_of_controls = pool.controls
    finally:
        model.train(was_training)
    seconds, frames = time.perf_counter() - begun, len(scored) * model.config.frames
    counts = {
        "list_sha256": list_hash([videos[name] for name in codes]),
        "videos": len(codes),
        "clips": len(scored),
        "frames": frames,
    }
    return Result(
        protocol=_protocol(model, weights, rules, counts, facts_of_controls, networks),
        clips=tuple(item.clip for item in scored),
        distances=_distances(scored, seed),
        failures=failures,
        missing=_missing(model, networks, len(scored)),
        run={
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "frames_per_second": round(frames / seconds, 1),
            "processes": workers,
        },
        rate_distortion=curves,
    )


def _counter(progress: Progress | None, total: int) -> Callable[[], None]:
    """What to call after each video of each pass."""
    numbers = itertools.count(1)
    return lambda: None if progress is None else progress(next(numbers), total)


def _encoded(
    pool: Workers, videos: dict[str, Path], frames: int, tail: Tail, advance: Callable[[], None]
) -> tuple[dict[str, list[Code]], dict[str, str]]:
    """The first pass: codes of each video's clips, and why a video has none.

    Raises:
        ValueError: none has any.
    """
    codes: dict[str, list[Code]] = {}
    failures: dict[str, str] = {}
    for name, found in pool.each(Scorer.encode, [(name, path, ()) for name, path in videos.items()]):
        if isinstance(found, str):
            failures[name] = found
        elif found:
            codes[name] = found
        else:
            failures[name] = f"gives fewer than {frames} frames, dropped as a tail"
        advance()
    if not codes:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(failures.items())[:3])
        raise ValueError(f"none of {len(videos)} videos gave a clip ({reasons}); check the files or tail={tail!r}")
    return codes, failures


def _scored(pool: Workers, videos: dict[str, Path], codes: dict[str, list[Code]], advance: Callable[[], None]) -> list[Scored]:
    """The second pass: scores of all clips, with each latent at its mean over all of them, too."""
    mean = Latents.cat([code.posterior.mean for clips in codes.values() for code in clips])
    mean = mean.map(lambda tensor: tensor.double().mean(dim=0, keepdim=True))
    scored: list[Scored] = []
    for name, found in pool.each(Scorer.score, [(name, videos[name], (clips, mean)) for name, clips in codes.items()]):
        if isinstance(found, str):
            raise ValueError(f"{name}: could be read once, but not a second time: {found}")
        scored += found
        advance()
    return scored


def _curves(
    pool: Workers, videos: dict[str, Path], codes: dict[str, list[Code]], advance: Callable[[], None]
) -> dict[str, list[Point]]:
    """The third pass: mean rate-distortion curves of the latents, entropy-coded, and of the codecs."""
    coders = _coders([code.posterior for clips in codes.values() for code in clips])
    curves: list[dict[str, list[Point]]] = []
    for name, found in pool.each(Scorer.curves, [(name, videos[name], (clips, coders)) for name, clips in codes.items()]):
        if isinstance(found, str):
            raise ValueError(f"{name}: could be read twice but not a third time, or its latents could not be coded: {found}")
        curves += found
        advance()
    return {name: mean_curve([of_clip[name] for of_clip in curves]) for name in (curves[0] if curves else ())}


def _protocol(
    model: VidTwin, weights: str, rules: Rules, counts: dict[str, Any], controls: dict[str, Any], networks: Networks
) -> dict[str, Any]:
    """What decides the numbers, as the result states it."""
    config = model.config
    return {
        "weights": weights,
        "weights_hash": weights_hash(model),
        "model": config.to_dict(),
        "latent_values": config.latent_values,
        "compression_rate": config.compression_rate,
        **counts,
        "sample_fps": "native" if rules.sample_fps is None else rules.sample_fps,
        "resize": f"shorter side, bilinear with antialias, centre crop {config.height}x{config.width}",
        "range": "clamped to [-1, 1], scored in [0, 1], not rounded to 8 bits",
        "mean": "over frames, then clips",
        "tail": rules.tail,
        "latents": rules.latents,
        "seed": rules.seed if rules.latents == "sample" else None,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "first_clips": rules.first or "all",
        "controls": controls,
        "i3d_sha256": networks.i3d_sha256 if networks.i3d else None,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "vidtwin": __version__},
    }


def passes(rules: Rules) -> int:
    """How often each video is read."""
    return 3 if rules.codecs else 2


def _coders(posteriors: list[Posterior]) -> list[LatentCoder]:
    """One of each of `STEPS`, fitted to all clips."""
    moments = Moments()
    for posterior in posteriors:
        moments.add(posterior.mean, posterior.logvar)
    return [LatentCoder.fit(moments, step) for step in STEPS]


def _distances(scored: list[Scored], seed: int) -> dict[str, float]:
    """FVD and KVD of decoded against real clips, beside those of two halves of the real ones."""
    pairs = [(item.features, item.features_decoded) for item in scored if item.features is not None]
    if len(pairs) < 4:
        return {}
    real, decoded = (np.stack(features) for features in zip(*pairs, strict=True))
    floor = real_floor(real, seed)
    return {
        "fvd": frechet_distance(real, decoded),
        "kvd": kernel_distance(real, decoded),
        "clips": len(real),
        "fvd_of_real_halves": floor[0],
        "kvd_of_real_halves": floor[1],
    }


def _missing(model: VidTwin, networks: Networks, clips: int) -> dict[str, str]:
    """Metrics that were not measured, and what they need."""
    missing: dict[str, Any] = {}
    if min(model.config.height, model.config.width) <= TOO_SMALL:
        missing["ms_ssim"] = f"needs frames with sides above {TOO_SMALL} pixels"
    if networks.lpips is None:
        missing["lpips"] = f"the network was not given; {LPIPS_REMEDY.partition(';')[0]}"
    if networks.i3d is None:
        missing["fvd"] = missing["kvd"] = f"the network was not given; {I3D_REMEDY}"
    elif clips < 4:
        missing["fvd"] = missing["kvd"] = f"needs at least 4 clips, got {clips}"
    return missing


def video_names(paths: Sequence[StrPath]) -> dict[str, Path]:
    """Short names for the videos: their paths below the folder that all have in common.

    Raises:
        ValueError: none, or one twice.
    """
    if not paths:
        raise ValueError("no videos to evaluate; give at least one path")
    files = [Path(path).absolute() for path in paths]
    folder = os.path.commonpath([path.parent for path in files])
    videos = {path.relative_to(folder).as_posix(): path for path in files}
    if len(videos) < len(files):
        twice = next(path for path in files if files.count(path) > 1)
        raise ValueError(f"{twice}: listed more than once; give every video once")
    return videos
