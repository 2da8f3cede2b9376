"""What of the recipe `tiny` matters: each choice changed alone, trained for as many steps on the same clips.

    python -m benchmarks.recipe_comparison TRAINING_VIDEOS VALIDATION_VIDEOS [--steps 300] [--only NAME ...]

Every run draws the same clips in the same order, from one cache of coefficients. PSNR (dB) on the first clip of validation videos
before the first step, in the middle and at the end of the schedule. A row that is in the results with as many steps and clips, and
a run or a start that is there, are not made again. Writes, after each run, results/recipe-comparison.json and .md.
"""

import argparse
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.setting import RESULTS, setting, write_results
from vidtwin.files import write_json
from vidtwin.losses.objective import LossWeights
from vidtwin.training.autoencoder import train
from vidtwin.training.log import LOG
from vidtwin.training.recipe import Recipe, read_recipe

RECIPE = "tiny"


def changes(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """What each run changes."""
    assert isinstance(recipe.model, dict)
    model = recipe.model
    adamw: dict[str, Any] = {"optimizer": "adamw"}
    principal: dict[str, Any] = {"initialization": "principal", "rate_factors": {}, "learning_rate": 1e-3}
    return {
        "the recipe": {},
        "AdamW 6e-5": adamw | {"learning_rate": 6e-5},
        "principal start, Muon 2e-3": principal | {"muon_learning_rate": 2e-3},
        "causal": {"model": model | {"temporal_attention": "causal"}},
        "hidden 320": {"model": model | {"hidden": 320}},
        "depth 3": {"model": model | {"depth": 3}},
        "hidden 192": {"model": model | {"hidden": 192}},
        "squared error": {"loss": LossWeights(l1=0.0, l2=2.0, kl=recipe.loss.kl)},
        "never one latent alone": {"structure_alone": 0.0, "dynamics_alone": 0.0},
        "Muon 9e-4": {"muon_learning_rate": 9e-4},
        "AdamW 2e-4": adamw | {"learning_rate": 2e-4},
        "depth 4": {"model": model | {"depth": 4}},
        "Muon 3e-4": {"muon_learning_rate": 3e-4},
        "AdamW 2e-5": adamw | {"learning_rate": 2e-5},
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("training_videos")
    parser.add_argument("validation_videos")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--init-clips", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/recipe-comparison"))
    parser.add_argument("--cache", type=Path, help="of coefficients; default OUT/cache")
    parser.add_argument("--only", nargs="+", help="names of runs")
    options = parser.parse_args(arguments)
    recipe: Recipe = read_recipe(RECIPE, train_videos=options.training_videos, validation_videos=options.validation_videos)
    plain: dict[str, Any] = {
        "views": 1,
        "brightness": 0.0,
        "contrast": 0.0,
        "max_stride": 1,
        "cache": str(options.cache or options.out / "cache"),
        "init_clips": options.init_clips,
        "fitted_logvar": False,  # means alone, without noise
        "initial_logvar": -9.0,
        "sample_posterior": False,
        "loss": LossWeights(l1=0.0, log=0.05, kl=0.0),
    }
    sizes = {"steps": options.steps, "batch_size": options.batch, "accumulate": 1, "warmup_steps": max(1, options.steps // 10)}
    often = {"log_every": options.steps // 2, "validate_every": options.steps // 2, "checkpoint_every": options.steps}
    recipe = replace(recipe, **plain, **sizes, **often)
    file = RESULTS / "recipe-comparison.json"
    counts = {"steps": options.steps, "clips_per_step": options.batch}
    before = json.loads(file.read_text()) if file.exists() else {}
    found = before["runs"] if {key: before.get(key) for key in counts} == counts else {}
    for name, changed in changes(recipe).items():
        if name not in found if options.only is None else name in options.only:
            found[name] = trained(replace(recipe, **changed), options.out / name.replace(" ", "-"), options.out / "starts")
            write_results("recipe-comparison", {"setting": setting("cpu", arguments), **counts, "runs": found})
            (RESULTS / "recipe-comparison.md").write_text(table(found, options.steps))
            print(name, found[name], flush=True)
    print(table(found, options.steps))
    return 0


def trained(recipe: Recipe, out: Path, starts: Path) -> dict[str, float]:
    """PSNR (dB) on validation clips at step 0, in the middle and at the end."""
    file = out / "comparison.json"
    if not file.exists():
        shape = json.dumps([recipe.config.to_dict(), recipe.initialization], sort_keys=True)
        start = starts / hashlib.sha256(shape.encode()).hexdigest()[:8]
        if not (start / "model").exists():
            validated(replace(recipe, steps=1, learning_rate=1e-12, muon_learning_rate=1e-12, ema_decay=None), start)
        before = validation_records(start)[-1]
        middle, end = validated(replace(recipe, init_from=str(start / "model")), out / "run")
        scores = {name: record["validation_psnr"] for name, record in (("before", before), ("middle", middle), ("end", end))}
        write_json(file, scores)
    values: dict[str, float] = json.loads(file.read_text())
    return values


def validated(recipe: Recipe, out: Path) -> list[dict[str, float]]:
    """Train, and the records of the run with a validation."""
    train(recipe, out)
    return validation_records(out)


def validation_records(out: Path) -> list[dict[str, float]]:
    records = map(json.loads, (out / LOG).read_text().splitlines())
    return [record for record in records if "validation_psnr" in record]


def table(found: dict[str, dict[str, float]], steps: int) -> str:
    """The results as Markdown, best last score first."""
    lines = [f"| changed alone | step 0 | step {steps // 2} | step {steps} |", "|---|---|---|---|"]
    for name, row in sorted(found.items(), key=lambda item: -item[1]["end"]):
        scores = " | ".join(f"{row[key]:.2f} dB" for key in ("before", "middle", "end"))
        lines.append(f"| {name} | {scores} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
