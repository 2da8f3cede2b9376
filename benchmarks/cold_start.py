"""What a short run costs from the shell, and what importing the package costs.

    python -m benchmarks.cold_start [--weights tiny] [--repeats 5]

`command` is the wall-clock time of `vidtwin reconstruct` on the first second of the sample video, in a process of its own; the
parts are measured in another such process, one after the other, so that the command, in which reading, model and writing go side
by side, may be shorter than their sum. Medians over repeats. Writes benchmarks/results/cold-start-WEIGHTS.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.setting import setting, write_results

FRAMES = 25

PARTS = f"""
import json, sys, time
clock = [time.perf_counter()]
def lap():
    clock.append(time.perf_counter())
    return clock[-1] - clock[-2]
parts = {{}}
import torch
parts["import torch"] = lap()
import vidtwin
parts["import vidtwin"] = lap()
import vidtwin.cli
parts["import of the command line"] = lap()
from vidtwin.benchmark import split
from vidtwin.inference.engine import Engine
from vidtwin.latents.stream import Identity
from vidtwin.model.loading import load_weights
lap()
model = load_weights(sys.argv[1])
Identity.of(model)
parts["weights"] = lap()
stages = split(Engine(model), vidtwin.cli.options.SAMPLE, {FRAMES}).stages
parts["video"] = stages["read"].wall + stages["write"].wall
parts["model"] = stages["encode"].wall + stages["decode"].wall
parts["score"] = stages["score"].wall
print(json.dumps(parts))
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    walls, parts = [], []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vidtwin", "reconstruct", "--frames", f"0:{FRAMES}", "--weights", options.weights]
        for repeat in range(options.repeats + 1):
            begun = time.perf_counter()
            subprocess.run([*command, "-o", str(Path(folder, "out.mp4"))], check=True, stdout=subprocess.DEVNULL)
            walls.append(time.perf_counter() - begun)
            done = subprocess.run([sys.executable, "-c", PARTS, options.weights], check=True, capture_output=True, text=True)
            parts.append(json.loads(done.stdout))
            if repeat == 0:  # files were not in memory yet
                walls, parts = [], []
    result = {
        "setting": setting("cpu", arguments),
        "processors": len(os.sched_getaffinity(0)),
        "frames": FRAMES,
        "command_seconds": round(statistics.median(walls), 3),
        "parts_seconds": {name: round(statistics.median(part[name] for part in parts), 3) for name in parts[0]},
    }
    write_results(f"cold-start-{options.weights}", result)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
