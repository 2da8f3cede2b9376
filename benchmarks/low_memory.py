"""Peak memory of `vidtwin encode`, `decode` and `reconstruct` of one clip, plain and with --low-memory, each a process of its own.

    python -m benchmarks.low_memory [--preset released]

The weights are random, in float32, in a checkpoint folder. Writes benchmarks/results/low-memory-PRESET.json.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.memory import peak_memory
from benchmarks.setting import setting, write_results
from vidtwin import VidTwin, preset
from vidtwin.cli.options import SAMPLE


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="released")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    model = VidTwin(preset(options.preset))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        weights, latents, video = (str(Path(folder, name)) for name in ("weights", "x.vidtwin", "x.mp4"))
        model.save_pretrained(weights)
        del model
        clip = [str(SAMPLE), "--frames", f"0:{preset(options.preset).frames}"]
        for command in (["encode", *clip, "-o", latents], ["decode", latents, "-o", video], ["reconstruct", *clip, "-o", video]):
            for more in ([], ["--low-memory"]):
                peak, wall = peak_memory([sys.executable, "-m", "vidtwin", *command, "--weights", weights, *more])
                rows.append({"command": command[0], "low_memory": bool(more), "peak_mib": round(peak), "seconds": round(wall, 1)})
                print(f"{command[0]:12}{' '.join(more):14}{peak:6.0f} MiB {wall:6.1f} s", flush=True)
    write_results(f"low-memory-{options.preset}", {"setting": setting("cpu", arguments), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
