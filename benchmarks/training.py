"""How much of a training step goes to the model, and how much to data, logging and the rest.

    python -m benchmarks.training VIDEOS [--model tiny] [--batch-size 2] [--steps 40] [--workers 2] [--discriminator]

Trains without checkpoints and validation between the first and the last step, and reads the run's own log: `data_share` is the
time that the loop waits for clips, `log_share` that of logging. The first `--skip` steps, in which the workers start, do not count.
Writes results/training-MODEL.json.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.setting import setting, write_results
from vidtwin.training.autoencoder import train
from vidtwin.training.log import LOG
from vidtwin.training.recipe import DiscriminatorRecipe, Recipe


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("videos")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--skip", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--discriminator", action="store_true")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)

    recipe = Recipe(
        model=options.model,
        train_videos=options.videos,
        validation_videos=options.videos,
        perceptual="none",
        discriminator=DiscriminatorRecipe(start=0) if options.discriminator else None,
        batch_size=options.batch_size,
        steps=options.steps + 1,
        workers=options.workers,
        precision=options.precision,
        ema_decay=0.999,
        log_every=options.skip,
        validate_every=10**9,
        validation_clips=1,
        checkpoint_every=10**9,
    )
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, folder, device=options.device)
        records = [json.loads(line) for line in (Path(folder) / LOG).read_text().splitlines()]
    counted = [record for record in records if options.skip < record["step"] <= options.steps]
    rates = [record["clips_per_second"] for record in counted]
    seconds = sum(1 / rate for rate in rates)
    shares = {
        name: sum(record[name] / rate for record, rate in zip(counted, rates, strict=True)) / seconds
        for name in ("data_share", "log_share")
    }
    result = {
        "model": options.model,
        "batch_size": options.batch_size,
        "workers": options.workers,
        "discriminator": options.discriminator,
        "precision": options.precision,
        "steps": options.steps - options.skip,
        "clips_per_second": len(rates) / seconds,
        **shares,
        "outside_the_model": sum(shares.values()),
    }
    write_results(f"training-{options.model}", result | setting(options.device, arguments))
    for name, value in result.items():
        print(f"{name:20}{value:.4g}" if isinstance(value, float) else f"{name:20}{value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
