"""What a training step costs: on pixels and on coefficients, in float32 and bfloat16, forward and backward, in one run.

    python -m benchmarks.training_step [--models tiny mini] [--batch 8] [--repeats 3]

CPU-seconds and seconds of a clip, best of the repeats, and shares of the first row's CPU-seconds. The first row is the step on
pixels with L1 and L2 in float32. Writes results/training-step.json and .md.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.setting import RESULTS, setting, write_results
from vidtwin import VidTwin, preset
from vidtwin.losses.objective import LossWeights, autoencoder_loss, squared_error_loss
from vidtwin.training.compact import CompactTwin

COMPONENTS = 128


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["tiny", "mini"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    found = {name: measured(name, options.batch, options.repeats) for name in options.models}
    write_results("training-step", {"setting": setting("cpu", arguments), "batch": options.batch, "models": found})
    (RESULTS / "training-step.md").write_text(table(found))
    print(table(found))
    return 0


def measured(name: str, batch: int, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds a clip of each kind of step."""
    config = preset(name)
    model, compact = VidTwin(config).train(), CompactTwin(config, COMPONENTS).train()
    clips = torch.rand(batch, *config.clip_shape) * 2 - 1
    x = torch.randn(batch, config.frames, config.grid[0] * config.grid[1], compact.head.out_features)
    outside = torch.rand(batch, config.frames)

    def pixels() -> Tensor:
        x_hat, posterior = model(clips)
        return autoencoder_loss(clips, x_hat.float(), posterior.to(torch.float32), LossWeights(l1=0.5, l2=2.0))["total"]

    def coefficients() -> Tensor:
        y, posterior = compact(x)
        errors = ((y.float() - x).square().sum((2, 3)) + outside) / (3 * config.height * config.width)
        return squared_error_loss(errors, posterior, LossWeights(l1=0.0, log=0.05))["total"]

    rows = {}
    for dtype, word in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
        rows[f"pixels, {word}"] = timed(pixels, model, batch, repeats, dtype)
        rows[f"coefficients, {word}"] = timed(coefficients, compact, batch, repeats, dtype)
    return rows


def timed(loss: Callable[[], Tensor], module: nn.Module, batch: int, repeats: int, dtype: torch.dtype) -> dict[str, float]:
    """Of forward and backward pass, per clip; after one that warms up."""
    times = []
    for _ in range(1 + repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            total = loss()
        total.backward()
        module.zero_grad()
        times.append(((time.process_time() - cpu) / batch, (time.perf_counter() - wall) / batch))
    return {"cpu_seconds": min(cpu for cpu, _ in times[1:]), "seconds": min(wall for _, wall in times[1:])}


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["| | step | CPU-seconds a clip | share | clips a second |", "|---|---|---|---|---|"]
    for model, rows in found.items():
        first = next(iter(rows.values()))["cpu_seconds"]
        for step, row in rows.items():
            share = f"{row['cpu_seconds'] / first:.0%}"
            lines.append(f"| `{model}` | {step} | {row['cpu_seconds']:.3f} | {share} | {1 / row['seconds']:.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
