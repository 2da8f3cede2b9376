"""Can `tiny` learn one real clip by heart? PSNR of the sample's first 16 frames over the steps of a training run from scratch.

    python -m benchmarks.overfit [--steps 2000] [--out FOLDER]

The clip is written as a video of its own and trained on alone: every step sees the same 16 frames. Writes results/overfit.json.
"""

import argparse
import json
import sys
from fractions import Fraction
from pathlib import Path

from benchmarks.setting import setting, write_results
from vidtwin import preset
from vidtwin.cli.options import SAMPLE
from vidtwin.frames.clips import Geometry, from_clip, to_clip
from vidtwin.losses.objective import LossWeights
from vidtwin.training.autoencoder import train
from vidtwin.training.log import LOG
from vidtwin.training.recipe import Recipe
from vidtwin.video.read.reader import read_clip
from vidtwin.video.write.encoding import Encoding
from vidtwin.video.write.writer import VideoWriter

GOAL = 35.0  # dB


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("runs/overfit"))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)

    config = preset("tiny")
    size = config.height, config.width
    frames = read_clip(SAMPLE, 0, config.frames)
    clip = to_clip(frames, Geometry.plan("crop", frames.shape[1:3], size))
    videos = options.out / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    with VideoWriter(videos / "clip.mp4", Fraction(25), size, Encoding(crf=10)) as writer:
        writer.write(from_clip(clip, Geometry.plan("crop", size, size)))
    recipe = Recipe(
        model="tiny",
        train_videos=str(videos),
        validation_videos=str(videos),
        perceptual="none",
        loss=LossWeights(l1=0.2, l2=5.0, kl=1e-7),
        sample_posterior=False,
        flip=False,
        initialization="principal",
        init_clips=1,
        batch_size=1,
        steps=options.steps,
        learning_rate=2e-3,
        warmup_steps=50,
        betas=(0.9, 0.95),
        weight_decay=0.0,
        ema_decay=0.98,
        log_every=50,
        validate_every=50,
        checkpoint_every=250,
        keep_checkpoints=1,
    )
    train(recipe, options.out, device=options.device)
    curve = {
        record["step"]: round(record["validation_psnr"], 3)
        for record in map(json.loads, (options.out / LOG).read_text().splitlines())
        if "validation_psnr" in record
    }
    reached = next((step for step, psnr in curve.items() if psnr >= GOAL), None)
    print(f"{max(curve.values()):.2f} dB; {GOAL:g} dB at step {reached}")
    write_results(
        "overfit", {"best_psnr": max(curve.values()), "step_of_35_dB": reached, "curve": curve} | setting(options.device, arguments)
    )
    return int(reached is None)


if __name__ == "__main__":
    sys.exit(main())
