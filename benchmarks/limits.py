"""How near to the machine's limit models run: `vidtwin benchmark`, with the setting, as a results file.

    python -m benchmarks.limits tiny released [--batches 1 2] [--repeats 3] [--video in.mp4]

Writes benchmarks/results/limits-DEVICE.json.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.setting import setting, write_results
from vidtwin import VidTwin
from vidtwin.benchmark import Row, measure, split, table
from vidtwin.inference.engine import Engine
from vidtwin.model.config import preset


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="presets; the weights are random")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--video", help="where the time of reconstructing it with the first model goes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    record: dict[str, Any] = {}
    for number, name in enumerate(options.models):
        model = VidTwin(preset(name)).to(options.device).eval()
        if options.video and number == 0:
            parts = split(Engine(model), options.video)
            print(parts.table(), flush=True)
            record["reconstruct"] = parts.to_dict() | {"video": Path(options.video).name}
        for dtype in options.dtypes:
            for batch in options.batches:
                rows += measure(model, name, getattr(torch, dtype), batch, options.repeats)
    print(table(rows))
    record["rows"] = [row.to_dict() for row in rows]
    write_results(f"limits-{options.device}", {"setting": setting(options.device, arguments)} | record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
