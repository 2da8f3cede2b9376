"""Where and how a benchmark's numbers were taken, and the file that they go to."""

import datetime
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from vidtwin import __version__
from vidtwin.files import write_json

RESULTS = Path(__file__).parent / "results"


def setting(device: str, arguments: list[str] | None) -> dict[str, Any]:
    """Hardware, versions, date and command, as every results file states them; of absolute paths the names alone."""
    given = [re.sub(r"(^|=)/\S*/", r"\1", text) for text in (sys.argv[1:] if arguments is None else arguments)]
    return {
        "device": torch.cuda.get_device_name()
        if device.startswith("cuda")
        else f"{processor()}, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "vidtwin": __version__},
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks.{Path(sys.argv[0]).stem} " + " ".join(given),
    }


def commit() -> str:
    """Of the project: "1a2b3c4", with ", changed" if files differ from it."""
    here = ["git", "-C", str(Path(__file__).parent)]
    try:
        name = subprocess.run([*here, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*here, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + ", changed" * bool(changed.stdout.strip())


def processor() -> str:
    """Its name, and what torch uses of it: "AMD EPYC (AVX2)"."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


def write_results(name: str, values: dict[str, Any]) -> None:
    """benchmarks/results/`name`.json."""
    write_json(RESULTS / f"{name}.json", values)
