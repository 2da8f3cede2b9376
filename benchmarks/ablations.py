"""The paper's ablations (Table 3) at a size of your own: train each for the same steps, evaluate, and tabulate.

    python -m benchmarks.ablations TRAIN TEST --size tiny --steps 300

Every variant starts from scratch with the same recipe, and differs in `vidtwin.model.ablations` only. A variant's run is in
OUT/VARIANT; the same command goes on where it was stopped, and evaluates anew what is trained. Scores are means over frames, then
clips, from mean latents (`vidtwin.evaluation.reconstruct`). Exit code 0: done; 1: the work failed; 2: bad usage.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.setting import setting
from vidtwin import VidTwin, preset
from vidtwin.data.sources import find_videos
from vidtwin.evaluation.reconstruct import evaluate
from vidtwin.files import atomic_output, check_writable
from vidtwin.model.ablations import ablations
from vidtwin.model.config import PRESETS
from vidtwin.training.autoencoder import train
from vidtwin.training.log import LOG
from vidtwin.training.recipe import Recipe, read_recipe

ROOT = Path(__file__).parents[1]
WHAT = {
    "full": "the model",
    "a": "one latent of the same rate",
    "b": "Dynamics by a Q-Former over space",
    "c": "Structure by a convolution and an MLP over time",
    "d": "Structure with space in the hidden dimension",
}
PAPER = {"full": (26.116, 0.731), "a": (23.512, 0.654), "b": (24.835, 0.693), "c": (25.386, 0.702), "d": (23.169, 0.630)}
COLUMNS = ("", "variant", "latent values", "parameters", "PSNR (dB)", "SSIM", "paper PSNR", "paper SSIM", "steps", "minutes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark with command-line arguments (those of the process if None) and return the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(arguments)
    try:
        run(options, arguments)
    except (OSError, ValueError, FloatingPointError) as error:
        print(f"ablations: {error}", file=sys.stderr)
        return 1
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ablations", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("train", help="training videos, as in a recipe; a few of them validate too")
    parser.add_argument("test", type=Path, help="folder with the test videos")
    parser.add_argument("--size", choices=tuple(PRESETS), default="tiny", help="preset of the full model (default: tiny)")
    parser.add_argument("--steps", type=int, required=True, help="training steps of each variant")
    parser.add_argument("--recipe", default="tiny-ablations", help="its model and init_from are not used")
    parser.add_argument("--batch-size", type=int, help="clips a step (default: the recipe's)")
    parser.add_argument("--variants", nargs="+", choices=tuple(WHAT), default=list(WHAT), help="default: all")
    parser.add_argument("--out", type=Path, help="folder of the training runs (default: runs/ablations-SIZE)")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results", help="folder of the two tables")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    try:
        find_videos(options.test)
    except FileNotFoundError as error:
        parser.error(str(error))
    options.variants = [variant for variant in WHAT if variant in options.variants]
    options.out = options.out or Path(f"runs/ablations-{options.size}")
    return options


def run(options: argparse.Namespace, arguments: list[str]) -> None:
    table = options.results / f"ablations-{options.size}"
    check_writable(table.with_suffix(".json"))
    recipe = read_recipe(
        options.recipe,
        Recipe,
        train_videos=options.train,
        validation_videos=options.train,
        steps=options.steps,
        batch_size=options.batch_size,
    )
    videos = find_videos(options.test)
    rows, protocol = [], {}
    for variant, config in ablations(preset(options.size)).items():
        if variant not in options.variants:
            continue
        out = options.out / variant
        print(f"{variant}: {WHAT[variant]}, {config.latent_values} latent values", file=sys.stderr)
        own = dataclasses.replace(recipe, model=config.to_dict(), init_from=None)
        model = train(own, out, device=options.device)
        result = evaluate(model, videos, latents="mean", device=options.device, weights=f"{variant} of {options.size}")
        for name, reason in result.failures.items():
            print(f"not measured: {name}: {reason}", file=sys.stderr)
        protocol = result.protocol
        rows.append(
            row(variant, model, own, out)
            | {"psnr": result.overall.psnr, "ssim": result.overall.ssim, "weights_hash": protocol["weights_hash"]}
        )
    of_one = ("weights", "weights_hash", "model", "versions", "date")
    record = {
        "size": options.size,
        "rows": rows,
        "order": order(rows),
        "recipe": {key: value for key, value in recipe.to_dict().items() if key not in ("model", "init_from")},
        "protocol": {key: value for key, value in protocol.items() if key not in of_one},
    } | setting(options.device, arguments)
    text = markdown(record)
    for suffix, content in ((".json", json.dumps(record, indent=2, allow_nan=False) + "\n"), (".md", text)):
        with atomic_output(table.with_suffix(suffix)) as partial:
            partial.write_text(content)
    print(text, end="")


def row(variant: str, model: VidTwin, recipe: Recipe, out: Path) -> dict[str, Any]:
    """What a variant is and what it cost, beside the paper's scores of it."""
    paper_psnr, paper_ssim = PAPER[variant]
    return {
        "variant": variant,
        "what": WHAT[variant],
        "latent_values": model.config.latent_values,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": recipe.steps,
        "minutes": minutes(out / LOG, recipe.batch_size),
        "paper_psnr": paper_psnr,
        "paper_ssim": paper_ssim,
    }


def minutes(log: Path, batch_size: int) -> float:
    """Minutes of training by the log's lines, however often the run was stopped."""
    total, done = 0.0, 0
    for line in log.read_text().splitlines():
        record = json.loads(line)
        total += (record["step"] - done) * batch_size / record["clips_per_second"]
        done = record["step"]
    return total / 60


def order(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The variants from the best PSNR to the worst, here and in the paper, and whether that is the same."""
    here, paper = ([row["variant"] for row in sorted(rows, key=lambda row: -row[name])] for name in ("psnr", "paper_psnr"))
    return {"here": here, "paper": paper, "holds": here == paper}


def markdown(record: dict[str, Any]) -> str:
    """The table and how it was made."""
    lines = [f"# Ablations at the size {record['size']}, beside the paper's Table 3", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for r in record["rows"]:
        name = r["variant"] if r["variant"] == "full" else f"({r['variant']})"
        scores = f"{r['psnr']:.3f}", f"{r['ssim']:.3f}", f"{r['paper_psnr']:.3f}", f"{r['paper_ssim']:.3f}"
        cells = name, r["what"], str(r["latent_values"]), f"{r['parameters']:,}", *scores, str(r["steps"]), f"{r['minutes']:.1f}"
        lines.append("| " + " | ".join(cells) + " |")
    here, paper = (" > ".join(record["order"][key]) for key in ("here", "paper"))
    holds = "holds" if record["order"]["holds"] else f"does not hold; here {here}"
    recipe, protocol, versions = record["recipe"], record["protocol"], record["versions"]
    lines += ["", f"The paper's order by PSNR, {paper}, {holds}.", ""]
    lines += [
        f"- Trained from scratch, batches of {recipe['batch_size']}, seed {recipe['seed']}, the same recipe for all (in the JSON)."
    ]
    lines += [
        f"- Scores: {protocol['clips']} clips of {protocol['videos']} videos, {protocol['resize']}, {protocol['latents']} latents."
    ]
    lines += ["- The paper's scores are of its base size, data and number of steps; the order may be compared, not the values."]
    lines += [
        f"- {record['device']}; " + ", ".join(f"{name} {version}" for name, version in versions.items()) + f"; {record['date']}."
    ]
    lines += [f"- `{record['command']}`"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
