"""Reconstruction quality of a model on a folder of videos, beside controls with as many numbers per clip.

    python benchmarks/quality.py VIDEOS --weights tiny --out results.json

Prints one row per video and the means over clips, writes everything with its protocol as JSON, and ends with the bars.
Exit code 0: all bars met; 1: a bar missed, or the work failed; 2: bad usage.
"""

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidtwin import VidTwin, VidTwinConfig
from vidtwin.data.sources import find_videos
from vidtwin.evaluation.controls import (
    Box,
    DCTBoxes,
    dct_control,
    default_boxes,
    resize_control,
    resize_shape,
    search_boxes,
)
from vidtwin.evaluation.metrics import clip_psnr, unit_range
from vidtwin.evaluation.reconstruct import Tail, evaluate, evaluation_clips, video_names
from vidtwin.evaluation.results import Result, Scores
from vidtwin.files import atomic_output, check_writable

PSNR_BAR = 20.0  # dB, mean over clips
BRANCH_BAR = 1.0  # dB lost when a branch is held at its mean
COLUMNS = ("clips", "PSNR", "SSIM", "DCT", "resize", "no S", "no D", "S only", "D only")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark with command-line arguments (those of the process if None) and return the exit code."""
    options = parse(arguments)
    try:
        return run(options)
    except (OSError, ValueError) as error:
        print(f"quality: {error}", file=sys.stderr)
        return 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="quality", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("videos", type=Path, help="folder with the test videos")
    parser.add_argument("--weights", default="tiny", help="shipped name, folder or hub id (default: tiny)")
    parser.add_argument("--train-folder", type=Path, help="choose the DCT boxes on these (default: built-in)")
    parser.add_argument("--train-videos", type=int, default=60, help="how many of them, evenly spread (default: 60)")
    parser.add_argument("--tail", choices=("repeat", "drop"), default="repeat", help="last frames that fill no clip")
    parser.add_argument("--latents", choices=("mean", "sample"), default="mean", help="posterior mean or sample")
    parser.add_argument("--sample-fps", type=float, help="frames per second to sample at (default: every frame)")
    parser.add_argument("--device", help="cpu, cuda, mps (default: cuda if there is one)")
    parser.add_argument("--seed", type=int, default=0, help="of sampled latents (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    for folder in (options.videos, options.train_folder):
        try:
            if folder is not None:
                find_videos(folder)
        except FileNotFoundError as error:
            parser.error(str(error))
    if options.train_videos < 1:
        parser.error(f"--train-videos {options.train_videos}: must be at least 1")
    return options


def run(options: argparse.Namespace) -> int:
    check_writable(options.out)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = VidTwin.from_pretrained(options.weights)
    config = model.config
    size = config.frames, config.height, config.width
    if options.train_folder is None:
        boxes, chosen = default_boxes(config.latent_values, size), "built in"
    else:
        training = find_videos(options.train_folder)
        picks = np.linspace(0, len(training) - 1, min(options.train_videos, len(training))).round().astype(int)
        boxes = search_boxes(first_clips([training[i] for i in picks], config), config.latent_values)
        chosen = f"on the first clips of {len(picks)} training videos"
    paths = find_videos(options.videos)
    result = evaluate(
        model,
        paths,
        tail=options.tail,
        latents=options.latents,
        seed=options.seed,
        device=device,
        sample_fps=options.sample_fps,
        weights=options.weights,
        progress=show_progress,
    )
    shape = resize_shape(config.latent_values, size)
    named = video_names(paths)
    controls = {n: control_scores(named[n], config, boxes, shape, options.sample_fps, options.tail) for n in result.videos}
    clips = [scores.clips for scores in result.videos.values()]
    means = {name: float(np.average([row[name] for row in controls.values()], weights=clips)) for name in ("dct", "resize")}
    bars = check_bars(result.overall)
    record = result.to_dict() | {
        "controls": {
            "values": config.latent_values,
            "dct": {**dataclasses.asdict(boxes), "values": boxes.values, "chosen": chosen},
            "resize": {"shape": shape, "values": 3 * shape[0] * shape[1] * shape[2]},
            "psnr": {"overall": means, "videos": controls},
        },
        "bars": bars,
    }
    with atomic_output(options.out) as partial:
        partial.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
    print_table(result, controls, means, boxes, config)
    for bar in bars:
        print(f"{'PASS' if bar['met'] else 'FAIL'}  {bar['name']}: {bar['value']:.2f} dB (bar {bar['bar']:g} dB)")
    return 0 if all(bar["met"] for bar in bars) else 1


def first_clips(paths: list[Path], config: VidTwinConfig) -> Iterator[torch.Tensor]:
    """The first clip of each video, (3, F, h, w) in [0, 1]."""
    for path in paths:
        for clip in itertools.islice(evaluation_clips(path, config.frames, config.height, config.width), 1):
            yield unit_range(clip)


def control_scores(
    path: Path, config: VidTwinConfig, boxes: DCTBoxes, shape: Box, sample_fps: float | None, tail: Tail
) -> dict[str, float]:
    """Mean PSNR in dB over the clips of a video for the DCT and the resize control."""
    dct, resize = [], []
    for x in evaluation_clips(path, config.frames, config.height, config.width, sample_fps, tail):
        clip = unit_range(x)
        dct.append(clip_psnr(dct_control(clip, boxes) * 2 - 1, x))
        resize.append(clip_psnr(resize_control(clip, shape) * 2 - 1, x))
    return {"dct": float(np.mean(dct)), "resize": float(np.mean(resize))}


def check_bars(overall: Scores) -> list[dict[str, Any]]:
    """Each bar with its value in dB and whether it is met."""
    values = (
        ("mean PSNR", overall.psnr, PSNR_BAR),
        ("PSNR lost with Structure at its mean", overall.lost_without_structure, BRANCH_BAR),
        ("PSNR lost with Dynamics at its mean", overall.lost_without_dynamics, BRANCH_BAR),
    )
    return [{"name": name, "value": value, "bar": bar, "met": value >= bar} for name, value, bar in values]


def print_table(
    result: Result,
    controls: dict[str, dict[str, float]],
    means: dict[str, float],
    boxes: DCTBoxes,
    config: VidTwinConfig,
) -> None:
    rows = [(name, scores, controls[name]) for name, scores in result.videos.items()]
    rows.append(("mean over clips", result.overall, means))
    width = max(len(name) for name, _, _ in rows)
    print(" " * width, *(f"{column:>7}" for column in COLUMNS))
    for name, s, control in rows:
        numbers = (s.psnr, control["dct"], control["resize"], s.lost_without_structure, s.lost_without_dynamics)
        db = [f"{value:7.2f}" for value in (*numbers, s.psnr_structure_only, s.psnr_dynamics_only)]
        print(f"{name:{width}} {s.clips:7}", db[0], f"{s.ssim:7.4f}", *db[1:])
    for name, reason in result.failures.items():
        print(f"not measured: {name}: {reason}")
    protocol = result.protocol
    print("PSNR in dB. no S, no D: dB lost with Structure or Dynamics at its mean. S only, D only: one branch decoded.")
    print(f"{config.latent_values} values per clip; DCT boxes Y {boxes.luma}, Cb and Cr {boxes.chroma}.")
    print(f"weights {protocol['weights']}, latents {protocol['latents']}, tail {protocol['tail']}, ", end="")
    print(f"{protocol['clips']} clips of {config.frames} frames, {protocol['device']}.")


def show_progress(done: int, total: int) -> None:
    print(f"\r{done}/{total} videos read", end="" if done < total else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
