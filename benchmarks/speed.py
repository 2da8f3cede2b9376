"""How fast a model encodes and decodes here, and what importing the package costs.

    python benchmarks/speed.py [--weights tiny] [--repeats 7] --out speed.json

Frames per second of one clip at a time, median over repeats; the rate of a large matrix product in the same run says how fast
the machine was. Import time is that of `import torch, vidtwin` less that of `import torch` alone, in fresh processes, in turn.
"""

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from vidtwin import VidTwin, __version__
from vidtwin.files import atomic_output


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Median wall-clock seconds of a call, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


def import_seconds(repeats: int) -> tuple[float, float]:
    """Median seconds of importing torch alone, and of what vidtwin adds."""

    def one(code: str) -> float:
        timed = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
        return float(subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True).stdout)

    pairs = [(one("import torch"), one("import torch; import vidtwin")) for _ in range(repeats + 1)][1:]
    alone, both = (statistics.median(column) for column in zip(*pairs, strict=True))
    return alone, both - alone


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)

    model = VidTwin.from_pretrained(options.weights).to(options.device)
    config = model.config
    x = torch.rand(1, *config.clip_shape, device=options.device) * 2 - 1
    latents = model.encode(x)
    a = torch.rand(2048, 2048, device=options.device)
    encode, decode, product = (
        seconds(call, options.repeats) for call in (lambda: model.encode(x), lambda: model.decode(latents), lambda: a @ a)
    )
    torch_alone, added = import_seconds(options.repeats)
    result = {
        "weights": options.weights,
        "clip": f"{config.frames} frames of {config.width}x{config.height}, batch 1, float32",
        "encode_seconds": encode,
        "decode_seconds": decode,
        "frames_per_second": config.frames / (encode + decode),
        "times_real_time_at_25": config.frames / (encode + decode) / 25,
        "matrix_product_gflops": 2 * 2048**3 / product / 1e9,
        "import_torch_seconds": torch_alone,
        "import_vidtwin_adds_seconds": added,
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "vidtwin": __version__},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": "python benchmarks/speed.py " + " ".join(sys.argv[1:] if arguments is None else arguments),
    }
    with atomic_output(options.out) as partial:
        partial.write_text(json.dumps(result, indent=2) + "\n")
    for name, value in result.items():
        print(f"{name:28}{value:.4g}" if isinstance(value, float) else f"{name:28}{value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
