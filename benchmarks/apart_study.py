"""Which of the terms that part the latents is worth its price? The recipe `apart` with each term, alike in minutes of training.

    python -m benchmarks.apart_study TRAIN TEST --minutes 20 --out runs/apart-study

Each variant starts from the recipe's weights and trains in OUT/VARIANT for as many steps as fit the minutes: of processor time on
a CPU, which others on the machine do not take, else by the clock. Two trials of a few steps say how long a step takes. Rows: the
start; `plain`, without terms; a term and a weight each; terms together, and with targets that get gradients (`free`). The same
command goes on where it was stopped: trained variants and measured rows are kept. Every row is measured by the package's own
analyses on clips of TEST. Writes OUT/NAME/row.json, and benchmarks/results/apart-study.json and .md (`--results` names another
folder).
"""

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.edit_motion import measure as motions
from benchmarks.setting import RESULTS, setting
from vidtwin import VidTwin
from vidtwin.analysis.codes import encode_clips
from vidtwin.analysis.dependence import dependence
from vidtwin.analysis.rates import rates
from vidtwin.analysis.spectra import branch_spectra
from vidtwin.analysis.swaps import swap_consistency
from vidtwin.data.sources import find_videos
from vidtwin.evaluation.scoring import first_clips
from vidtwin.files import atomic_output, write_json
from vidtwin.losses.apart import TERMS
from vidtwin.training.loop import MODEL
from vidtwin.training.recipe import Recipe, read_recipe

WEIGHTS = {
    "swap": (0.003, 0.01, 0.03),
    "consistency": (0.003, 0.03, 0.3),
    "decorrelation": (0.1, 1.0, 10.0),
    "frozen": (0.001, 0.004, 0.016),
}
ALL = {"swap": 0.03, "consistency": 0.03, "decorrelation": 0.1, "frozen": 0.004}
TRIALS = (4, 16)  # steps
COLUMNS = {
    "psnr": "PSNR (dB)",
    "swap_structure": "R² of S after a swap",
    "swap_dynamics": "R² of D",
    "ceiling_dynamics": "R² of D without a swap",
    "found_structure": "S found",
    "found_dynamics": "D found",
    "leak_structure": "leak into S",
    "leak_dynamics": "leak into D",
    "r2_dynamics": "D from S",
    "r2_structure": "S from D",
    "hsic": "HSIC",
    "cka": "CKA",
    "moving_structure": "motion in S alone",
    "moving_dynamics": "motion in D alone",
    "bits_moving": "bits of D, moving",
    "bits_frozen": "bits of D, frozen",
    "still_moves": "speed left, D frozen",
    "steps": "steps",
}


def variants() -> dict[str, dict[str, Any]]:
    """Fields of `loss`, by name."""
    found: dict[str, dict[str, Any]] = {"plain": {}, "all": ALL}
    for term, weights in WEIGHTS.items():
        found |= {f"{term}-{weight:g}": {term: weight} for weight in weights}
    found["swap-0.03-free"] = {"swap": 0.03, "swap_targets": "free"}
    found["swap-0.03-frozen-0.004"] = {"swap": 0.03, "frozen": 0.004}
    return found


def trained(recipe: Recipe, out: Path, options: argparse.Namespace) -> tuple[VidTwin, int]:
    """The model of a variant, and its steps: as many as fit the minutes, decided once and kept in OUT/plan.json."""
    plan = out / "plan.json"
    if not plan.is_file():
        trial = dataclasses.replace(recipe, validation_clips=1)
        few, more = (run(dataclasses.replace(trial, steps=steps), out / f"trial-{steps}", options) for steps in TRIALS)
        write_json(plan, {"steps": max(2, int(60 * options.minutes * (TRIALS[1] - TRIALS[0]) / (more - few)))})
    steps = json.loads(plan.read_text())["steps"]
    run(dataclasses.replace(recipe, steps=steps), out / "run", options)
    return VidTwin.from_pretrained(out / "run" / MODEL), steps


def run(recipe: Recipe, out: Path, options: argparse.Namespace) -> float:
    """Seconds that a training took, in a process of its own: one that has measured is not safe to fork readers from.

    It goes on where it was stopped.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe.to_dict()))
    begun = seconds(options.device)
    subprocess.run([sys.executable, "-m", "vidtwin", "train", str(path), "--out", str(out), "--device", options.device], check=True)
    return seconds(options.device) - begun


def seconds(device: str) -> float:
    """Of processor time of the child processes so far; by the clock on a GPU."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime if device == "cpu" else time.perf_counter()


def measured(model: VidTwin, options: argparse.Namespace) -> dict[str, float | None]:
    """A row, by the package's analyses."""
    clips, names = first_clips(find_videos(options.test)[: options.videos], model.config, options.clips, spread=True)
    codes = encode_clips(model, clips, names)
    swaps, depends = swap_consistency(model, codes, most_pairs=options.pairs), dependence(codes)
    bits, spectra = rates(model, clips, codes), branch_spectra(model, clips, codes)
    return {
        "psnr": spectra.psnr["both"],
        "swap_structure": swaps.structure.own,
        "swap_dynamics": swaps.dynamics.own,
        "ceiling_dynamics": swaps.dynamics.ceiling,
        "found_structure": swaps.structure.retrieved,
        "found_dynamics": swaps.dynamics.retrieved,
        "leak_structure": swaps.structure.leak,
        "leak_dynamics": swaps.dynamics.leak,
        "r2_dynamics": depends.r2_dynamics,
        "r2_structure": depends.r2_structure,
        "hsic": depends.hsic,
        "cka": depends.cka,
        "moving_structure": spectra.moving["structure"],
        "moving_dynamics": spectra.moving["dynamics"],
        "bits_moving": bits.dynamics,
        "bits_frozen": bits.dynamics_frozen,
        "still_moves": motions(model, options.sprites)["speeds"]["dynamics"]["0"]["mean"],
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """As Markdown."""

    def shown(value: float | None) -> str:
        if value is None:
            return "-"
        if abs(value) >= 100 or isinstance(value, int):
            return f"{value:.0f}"
        return f"{value:.2f}" if abs(value) > 0.1 else f"{value:.3f}"

    lines = [f"| variant | {' | '.join(COLUMNS.values())} |", "|---" * (1 + len(COLUMNS)) + "|"]
    lines += [f"| {name} | {' | '.join(shown(row[key]) for key in COLUMNS)} |" for name, row in rows.items()]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="training videos, as in a recipe")
    parser.add_argument("test", type=Path, help="a folder with videos to measure on, 10 at least")
    parser.add_argument("--minutes", type=float, required=True, help="of training, of each variant")
    parser.add_argument("--out", type=Path, default=Path("runs/apart-study"))
    parser.add_argument("--variants", nargs="+", choices=tuple(variants()), default=list(variants()))
    parser.add_argument("--recipe", default="apart", help="its loss terms are replaced by those of the variant")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further keys of the recipe")
    parser.add_argument("--videos", type=int, default=24, help="of the test videos, at most")
    parser.add_argument("--clips", type=int, default=4, help="of each test video")
    parser.add_argument("--pairs", type=int, default=300, help="swaps, at most")
    parser.add_argument("--sprites", type=int, default=8)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    cache = options.out / "coefficients"  # one for all
    recipe = read_recipe(options.recipe, Recipe, options.set, train_videos=options.train, validation_videos=str(options.test))
    if recipe.coefficients is not None:
        recipe = dataclasses.replace(recipe, cache=str(cache))
    rows: dict[str, dict[str, Any]] = {}
    for name, terms in {"start": None, **{name: variants()[name] for name in options.variants}}.items():
        path = options.out / name / "row.json"
        if not path.is_file():
            steps = 0
            if terms is None:
                model = VidTwin.from_pretrained(recipe.init_from or "tiny")
            else:
                weights: dict[str, Any] = dict.fromkeys(TERMS, 0.0) | terms
                loss = dataclasses.replace(recipe.loss, **weights)
                model, steps = trained(dataclasses.replace(recipe, loss=loss), options.out / name, options)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, measured(model.to(options.device), options) | {"steps": steps, "terms": terms or {}})
        rows[name] = json.loads(path.read_text())
        print(table({name: rows[name]}), flush=True)
    write_json(options.results / "apart-study.json", {"setting": setting(options.device, arguments), "rows": rows})
    with atomic_output(options.results / "apart-study.md") as partial:
        partial.write_text(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
