"""Does a killed job end with the same bytes? `vidtwin encode` and `vidtwin reconstruct`, killed at random times and resumed.

    python -m tests.tools.kills [--kills 20] [--repeats 12] [--seed 0]

The source is the sample clip, its frames repeated, with two shot cuts a repeat, written at 224x126; half of the kills hit `encode`,
half `reconstruct`. Each kill is SIGKILL at a random moment of a job that goes on with --resume; a job that ends before its kill is
compared with one that was never stopped and begun anew. Whatever stands under the final name after a kill has to be whole. Writes
benchmarks/results/kills.json; exit code 1 if any output differs.
"""

import argparse
import filecmp
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.setting import setting, write_results
from vidtwin.cli.options import SAMPLE
from vidtwin.video.read.reader import iter_frames, probe
from vidtwin.video.write.writer import VideoWriter

SIZE = (126, 224)


def write_source(path: Path, repeats: int) -> None:
    height, width = SIZE
    frames = [np.asarray(Image.fromarray(frame.image).resize((width, height))) for frame in iter_frames(SAMPLE)]
    with VideoWriter(path, probe(SAMPLE).fps, SIZE) as writer:
        for _ in range(repeats):
            writer.write(np.stack(frames))
            writer.write(np.stack(frames)[:, ::-1, ::-1])


def kill_until(command: list[str], whole: Path, out: Path, seconds: float, kills: int, rng: random.Random) -> dict[str, Any]:
    """Run, kill and resume until so many kills have hit a running job."""
    hit, compared, wrong, ended = 0, 0, 0, False
    while hit < kills or not ended:
        process = subprocess.Popen([*command, "-o", str(out), "--resume"], stdout=subprocess.DEVNULL)
        try:
            wait = rng.uniform(0.3, 1.0) * seconds if hit < kills else None
            if process.wait(timeout=wait):
                raise subprocess.CalledProcessError(process.returncode, command)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            hit += 1
            ended = out.exists()  # the kill came when the job was done
            if not ended:
                continue
        ended = True
        compared += 1
        wrong += not filecmp.cmp(out, whole, shallow=False)
        out.unlink()
    return {"kills": hit, "jobs_ended": compared, "wrong": wrong}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng, results = random.Random(options.seed), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "source.mp4"
        write_source(source, options.repeats)
        for work, suffix in (("encode", ".vidtwin"), ("reconstruct", ".mp4")):
            command = [sys.executable, "-m", "vidtwin", work, str(source), "--overlap", "4"]
            whole, begun = folder / f"whole{suffix}", time.perf_counter()
            subprocess.run([*command, "-o", str(whole)], check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - begun
            results[work] = kill_until(command, whole, folder / f"out{suffix}", seconds, options.kills // 2, rng)
            left = sorted(path.name for path in folder.iterdir() if path.name not in ("source.mp4", "whole.vidtwin", "whole.mp4"))
            results[work] |= {"seconds_of_a_whole_job": round(seconds, 1), "left_over": left}
            print(work, results[work], flush=True)
    write_results("kills", {"setting": setting("cpu", arguments), **results})
    return int(any(result["wrong"] or result["left_over"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
