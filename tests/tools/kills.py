"""Does a killed job end with the same bytes? Commands that write, killed at random times and run again.

    python -m tests.tools.kills [--kills 20] [--repeats 12] [--seed 0] [--only decode swap ...]

The source is the sample clip, its frames repeated, with two shot cuts a repeat, written at 224x126. Each kill is SIGKILL at a
random moment of a job that goes on where it can (with --resume, or in its folder), or begins anew; a job that ends before it is
compared with one that was never stopped. Whatever stands under the final name of a file after a kill has to be whole. Writes
benchmarks/results/kills.json, if all commands were run; exit code 1 if any output differs, or anything is left over.
"""

import argparse
import os
import random
import re
import shutil
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
from vidtwin import VidTwin, export_released, preset
from vidtwin.cli.options import SAMPLE
from vidtwin.video.read.reader import iter_frames, probe
from vidtwin.video.write.writer import VideoWriter

SIZE = (126, 224)
VIDTWIN = [sys.executable, "-m", "vidtwin"]
TINY = ["--weights", "tiny"]
KEPT = ("*.mp4", "*/*.mp4", "*.csv", "data/*", "model/*", "*.onnx", "*.safetensors")  # of a folder; logs hold times
PARTIAL = re.compile(r"\.partial-|\.work|\.tmp")
TIMES = re.compile(rb'"(seconds|frames_per_second|date|vidtwin)": [^\n]*')
Result = dict[str, Any]
RECIPE = """
model: {{frames: 4, height: 32, width: 32, patch: 16, hidden: 32, depth: 1, heads: 2, num_queries: 4, query_dim: 16,
  query_layers: 1, query_heads: 2, query_mlp: 16, structure_channels: 2, structure_downsamples: 0, structure_width: 8,
  dynamics_channels: 2, dynamics_downsamples: 0}}
train_videos: {videos}
validation_videos: {videos}
perceptual: none
loss: {{perceptual: 0.0}}
batch_size: 2
steps: 40
warmup_steps: 5
workers: 0
log_every: 5
validate_every: 20
checkpoint_every: 2
validation_clips: 2
"""


def write_source(path: Path, repeats: int) -> None:
    height, width = SIZE
    frames = [np.asarray(Image.fromarray(frame.image).resize((width, height))) for frame in iter_frames(SAMPLE)]
    with VideoWriter(path, probe(SAMPLE).fps, SIZE) as writer:
        for _ in range(repeats):
            writer.write(np.stack(frames))
            writer.write(np.stack(frames)[:, ::-1, ::-1])


def whole_bytes(out: Path) -> dict[str, bytes]:
    """What has to be the same: a file, or of a folder the videos, the tables and the model."""
    files = [out] if out.is_file() else [path for name in KEPT for path in sorted(out.glob(name)) if path.is_file()]
    return {str(path.relative_to(out)): _without_times(path) for path in files}


def _without_times(path: Path) -> bytes:
    """The bytes of a file; of the results of an evaluation, what does not depend on when it ran."""
    return TIMES.sub(b"", path.read_bytes()) if path.suffix == ".json" else path.read_bytes()


def remove(out: Path) -> None:
    out.unlink() if out.is_file() else shutil.rmtree(out)


def kill_until(command: list[str], whole: dict[str, bytes], out: Path, seconds: float, kills: int, rng: random.Random) -> Result:
    """Run, kill and run again until so many kills have hit a running job."""
    hit, compared, wrong, ended = 0, 0, 0, False
    while hit < kills or not ended:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait = rng.uniform(0.3, 1.0) * seconds if hit < kills else None
            if process.wait(timeout=wait):
                raise subprocess.CalledProcessError(process.returncode, command)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            hit += 1
            ended = out.is_file()  # the kill came when the job was done
            if not ended:
                continue
        ended = True
        compared += 1
        wrong += whole_bytes(out) != whole
        if out.is_dir():
            wrong += any(PARTIAL.search(path.name) for path in out.rglob("*"))
        remove(out)
    return {"kills": hit, "jobs_ended": compared, "wrong": wrong}


def commands(folder: Path, source: Path) -> dict[str, tuple[list[str], str]]:
    """What is killed: arguments, to which the output is added, and the output's suffix."""
    latents, videos, recipe = folder / "source.vidtwin", folder / "videos", folder / "source.yaml"
    ours, released = folder / "small", folder / "small.ckpt"
    model = VidTwin(preset("small"))
    model.save_pretrained(ours)
    export_released(model, released)
    subprocess.run([*VIDTWIN, "encode", str(source), "-o", str(latents), *TINY], check=True, stdout=subprocess.DEVNULL)
    for number in range(6):
        (videos / str(number)).mkdir(parents=True)
        shutil.copy(SAMPLE, videos / str(number) / "a.mp4")
    recipe.write_text(RECIPE.format(videos=videos))
    return {
        "encode": (["encode", str(source), "--overlap", "4", "--resume"], ".vidtwin"),
        "reconstruct": (["reconstruct", str(source), "--overlap", "4", "--resume"], ".mp4"),
        "decode": (["decode", str(latents), *TINY], ".mp4"),
        "swap": (["swap", "--structure", str(latents), "--dynamics", str(latents), *TINY], ".mp4"),
        "encode-dataset": (["encode-dataset", str(videos)], ""),
        "train": (["train", str(recipe), "--device", "cpu"], ""),
        "evaluate": (["evaluate", str(videos), "--weights", "tiny", "--clips", "6", "--device", "cpu"], ".json"),
        "convert": (["convert", str(ours)], ".ckpt"),
        "convert to a folder": (["convert", str(released), "--config", "small"], ""),
        "export": (["export", "--weights", "tiny"], ""),
        "draw-sprites": (["draw-sprites", "--per-class", "3"], ""),
        "generate": (["generate", "sprites", "--steps", "4", "--batch", "2", "--device", "cpu"], ""),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="commands to kill; default all")
    options = parser.parse_args(arguments)
    rng, results = random.Random(options.seed), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "source.mp4"
        write_source(source, options.repeats)
        for work, (words, suffix) in commands(folder, source).items():
            if options.only and work not in options.only:
                continue
            out, before = folder / f"out{suffix}", set(folder.iterdir())
            command, begun = [*VIDTWIN, *words, "-o" if suffix else "--out", str(out)], time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds, whole = time.perf_counter() - begun, whole_bytes(out)
            remove(out)
            results[work] = kill_until(command, whole, out, seconds, options.kills, rng)
            left = sorted(path.name for path in set(folder.iterdir()) - before)
            results[work] |= {"files": len(whole), "seconds_of_a_whole_job": round(seconds, 1), "left_over": left}
            print(work, results[work], flush=True)
    if not options.only:
        write_results("kills", {"setting": setting("cpu", arguments), **results})
    return int(any(result["wrong"] or result["left_over"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
