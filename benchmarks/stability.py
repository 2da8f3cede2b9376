"""A long run of a small model with every loss on, from scratch and then fine-tuned: does anything stop being finite?

    python -m benchmarks.stability VIDEOS --steps 20000 [--precision float32 bfloat16] [--out FOLDER]

L1, L2, LPIPS (its network narrow and of random weights: the layout, not the perception), learned log-variance, KL, 2-D and then 3-D
discriminator with adaptive weight and LeCam, running mean of the weights, dropout. Writes results/stability.json: per run the
steps, skipped steps, the largest gradient norm and KL, and losses at the start and at the end. Exit code 1 if a step was skipped.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.setting import setting, write_results
from vidtwin import VidTwinConfig
from vidtwin.losses.lpips import LPIPS
from vidtwin.losses.objective import LossWeights
from vidtwin.training.autoencoder import train
from vidtwin.training.log import LOG
from vidtwin.training.loop import MODEL
from vidtwin.training.recipe import DiscriminatorRecipe, Recipe

CONFIG = VidTwinConfig(
    frames=4, height=32, width=32, patch=8, hidden=32, depth=1, heads=2, num_queries=2, query_dim=32, query_layers=1, query_heads=2,
    query_mlp=64, query_dropout=0.1, structure_channels=4, structure_downsamples=1, structure_width=16, dynamics_channels=4,
)  # fmt: skip


def recipe_for(videos: str, out: Path, steps: int, precision: str) -> Recipe:
    """Every loss on, at a learning rate that is not careful."""
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    torch.save(LPIPS((4, 4, 8, 8, 8)).state_dict(), out / "lpips.pth")
    return Recipe(
        model=CONFIG.to_dict(),
        train_videos=videos,
        validation_videos=videos,
        perceptual="lpips",
        perceptual_weights=str(out / "lpips.pth"),
        loss=LossWeights(l1=1.0, l2=1.0, perceptual=0.05, kl=1e-4),
        learned_logvar=True,
        discriminator=DiscriminatorRecipe(start=steps // 10, width=8, layers=2, lecam=1e-3, learning_rate=1e-3),
        initialization="principal",
        init_clips=16,
        batch_size=2,
        steps=steps,
        learning_rate=2e-3,
        ema_decay=0.999,
        precision=precision,  # type: ignore[arg-type]
        log_every=100,
        validate_every=steps,
        validation_clips=8,
        checkpoint_every=1000,
        keep_checkpoints=1,
    )


def facts(run: Path, seconds: float) -> dict[str, Any]:
    """What a log says of a run."""
    records = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    first, last = records[0], records[-1]
    keys = ("l1", "psnr", "perceptual", "kl", "logvar", "discriminator_hinge", "adversarial_weight", "validation_psnr")
    return {
        "steps": last["step"],
        "skipped_steps": last["skipped_steps"],
        "non_finite_records": sum(None in record.values() for record in records),
        "largest_gradient_norm": max(record["gradient_norm"] for record in records),
        "largest_kl": max(record["kl"] for record in records),
        "start": {key: first[key] for key in keys if key in first},
        "end": {key: last[key] for key in keys if key in last},
        "minutes": round(seconds / 60, 1),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("videos")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, default=Path("runs/stability"))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    runs: dict[str, Any] = {}
    for precision in options.precision:
        scratch = recipe_for(options.videos, options.out / precision, options.steps, precision)
        dims3 = replace(scratch.discriminator, dims=3) if scratch.discriminator else None
        tuned = replace(
            scratch, init_from=str(options.out / precision / "scratch" / MODEL), discriminator=dims3, learning_rate=5e-4, seed=1
        )
        for name, recipe in (("scratch", scratch), ("fine-tune", tuned)):
            begin = time.perf_counter()
            train(recipe, options.out / precision / name, device=options.device)
            runs[f"{name}, {precision}"] = facts(options.out / precision / name, time.perf_counter() - begin)
            print(f"{name}, {precision}: {runs[f'{name}, {precision}']}")
    write_results("stability", {"config": CONFIG.to_dict(), "runs": runs} | setting(options.device, arguments))
    return int(any(run["skipped_steps"] or run["non_finite_records"] for run in runs.values()))


if __name__ == "__main__":
    sys.exit(main())
