"""What each latent holds: the five analyses of weights, beside an untrained model.

    python -m benchmarks.analysis VIDEOS [--weights tiny] [--clips 1] [--sprites 240] [--other NAME=WEIGHTS ...]

The first --clips clips of each video that are whole, at native rate, centre-cropped, and seeded sprites. Prints the table and a
sentence for each analysis, and writes benchmarks/results/analysis-WEIGHTS.json. Exit code 0: done; 1: failed; 2: bad usage.
"""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.setting import RESULTS, setting
from vidtwin.data.sources import find_videos
from vidtwin.evaluation.analysis import SPRITES, Analysis, analyze
from vidtwin.evaluation.results import list_hash
from vidtwin.evaluation.scoring import first_clips
from vidtwin.files import write_json
from vidtwin.loading import load_weights


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark with command-line arguments (those of the process if None) and return the exit code."""
    parser = argparse.ArgumentParser(prog="analysis", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("videos", type=Path, help="folder of videos, 10 at least")
    parser.add_argument("--weights", default="tiny", help="what is analysed (default: tiny)")
    parser.add_argument("--clips", type=int, default=1, help="clips of each video (default: 1)")
    parser.add_argument("--sprites", type=int, default=SPRITES, help=f"how many, at least 40 (default: {SPRITES})")
    parser.add_argument("--other", action="append", default=[], metavar="NAME=WEIGHTS", help="a further control; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="the results file (default: benchmarks/results/analysis-WEIGHTS.json)")
    options = parser.parse_args(arguments)
    if options.clips < 1 or not all("=" in other for other in options.other):
        parser.error("--clips must be at least 1, and --other NAME=WEIGHTS")
    try:
        model = load_weights(options.weights).to(options.device)
        others = {name: load_weights(path).to(options.device) for name, path in (other.split("=", 1) for other in options.other)}
        videos = find_videos(options.videos)
        clips, names = first_clips(videos, model.config, options.clips)
        analysis = analyze(
            model,
            clips,
            names,
            seed=options.seed,
            sprites=options.sprites,
            others=others,
            progress=said if sys.stderr.isatty() else None,
        )
    except (OSError, ValueError) as error:
        print(f"analysis: {error}", file=sys.stderr)
        return 1
    print(table(analysis))
    name = Path(options.weights).stem
    record = {"weights": name, "list_sha256": list_hash(videos), "clips_of_each": options.clips} | analysis.to_dict()
    command = [f"VIDEOS --weights {name} --clips {options.clips} --sprites {options.sprites} --seed {options.seed}"]
    command += [f"--other {other.split('=', 1)[0]}=WEIGHTS" for other in options.other]
    write_json(options.out or RESULTS / f"analysis-{name}.json", record | setting(options.device, command))
    return 0


def table(analysis: Analysis) -> str:
    """Figures as Markdown, then the sentences."""
    models = list(analysis.findings)
    lines = ["| analysis | figure | " + " | ".join(models) + " | margin | told apart |", "|" + "---|" * (4 + len(models))]
    for row in analysis.table():
        values = ["-" if row[name] is None else f"{row[name]:.3f}" for name in models]
        apart = {True: "yes", False: "no", None: "-"}[row["apart"]]
        lines.append(f"| {row['analysis']} | {row['figure']} | {' | '.join(values)} | {row['margin']:g} | {apart} |")
    return "\n".join([*lines, "", *(f"{name}: {text}" for name, text in analysis.sentences().items())])


def said(what: str, done: int, total: int) -> None:
    print(f"\r{what}: {done} of {total}  ", end="", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
