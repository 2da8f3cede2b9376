"""How near to the machine's limit models run: `vidtwin benchmark`, with the setting, as a results file.

    python -m benchmarks.limits tiny released [--batches 1 2] [--repeats 3] [--video in.mp4] [any option of vidtwin benchmark]

Writes benchmarks/results/limits-cpu.json, or limits-cuda.json.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.setting import setting, write_results
from vidtwin.cli import main as vidtwin


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "rows.json")
        if failed := vidtwin(["benchmark", *given, "--json-out", str(out)]):
            return failed
        record = json.loads(out.read_text())
    device = "cuda" if torch.cuda.is_available() and "cpu" not in given else "cpu"
    write_results(f"limits-{device}", {"setting": setting(device, given)} | record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
