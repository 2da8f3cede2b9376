"""How near to the machine's limit models run: `vidtwin benchmark`, with the setting, as results files.

    python -m benchmarks.limits tiny base released [--dtypes float32 bfloat16] [--batches 1 2] [--train] [--name NAME]
        [any option of vidtwin benchmark]

Writes benchmarks/results/limits-NAME.json and .md, NAME being cpu or cuda unless it is given; the table has the published code's
shares beside, where they are known.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does, before torch is loaded

import torch

from benchmarks.setting import RESULTS, setting, write_results
from vidtwin.cli import main as vidtwin
from vidtwin.files import atomic_output

# The published code with its casts taken out (as it is, it does not run on a CPU): eager float32, batch 1, two AVX-512 cores,
# 307 GFLOP/s, torch 2.13.0, 2026-11-22. Share of a 4096^3 product, by model, dtype and step. With its casts kept and attention in
# float32 it has 63 % and 76 %, with autocast to bfloat16 18 %, to float16 3 to 6 %.
PUBLISHED = {("released", "float32", "encode"): 0.73, ("released", "float32", "decode"): 0.75}


def markdown(record: dict[str, Any]) -> str:
    """The rows of a results file as a table, its setting above."""
    where = record["setting"]
    lines = [
        f"{where['device']}, torch {where['versions']['torch']}, {where['date'][:10]}, `{where['command']}`",
        "",
        "| model | step | dtype | batch | GFLOP | s | GFLOP/s | limit | share | published code | MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        published = PUBLISHED.get((row["model"], row["dtype"], row["step"]))
        cells = [
            row["model"],
            row["step"],
            row["dtype"],
            str(row["batch"]),
            f"{row['flops'] / 1e9:.1f}",
            f"{row['seconds']:.3f}",
            f"{row['rate'] / 1e9:.0f}",
            f"{row['limit'] / 1e9:.0f}",
            f"{row['share']:.0%}",
            "" if published is None or row["batch"] > 1 else f"{published:.0%}",
            "-" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    device = "cuda" if torch.cuda.is_available() and "cpu" not in given else "cpu"
    name, options = device, list(given)
    if "--name" in options:
        at = options.index("--name")
        name = options[at + 1]
        del options[at : at + 2]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "rows.json")
        if failed := vidtwin(["benchmark", *options, "--json-out", str(out)]):
            return failed
        record = {"setting": setting(device, given)} | json.loads(out.read_text())
    write_results(f"limits-{name}", record)
    with atomic_output(RESULTS / f"limits-{name}.md") as partial:
        partial.write_text(markdown(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
