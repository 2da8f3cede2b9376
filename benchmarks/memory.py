"""Does memory depend on length? Peak memory of `vidtwin reconstruct` of a short and a long 1920x1080 video.

    python -m benchmarks.memory [--seconds 10 600] [--weights tiny] [--policy crop]

The videos are the sample clip, scaled and repeated, with a tone as sound. Writes benchmarks/results/memory-POLICY.json.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from benchmarks.setting import setting, write_results
from vidtwin.cli.options import SAMPLE

WIDTH, HEIGHT, FPS, RATE = 1920, 1080, 25, 48_000


def write_video(path: Path, seconds: int) -> None:
    """H.264 with a key frame every 2 s, and AAC."""
    with av.open(str(SAMPLE)) as sample:
        pictures = [frame.reformat(WIDTH, HEIGHT, "yuv420p") for frame in sample.decode(video=0)][: 2 * FPS]
    tone = (0.1 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "28", "g": "50", "bf": "0"})
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for second in range(seconds):
            for number in range(second * FPS, (second + 1) * FPS):
                picture = pictures[number % len(pictures)]
                picture.pts, picture.time_base = number, Fraction(1, FPS)
                container.mux(video.encode(picture))
            sound = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = RATE, second * RATE, Fraction(1, RATE)
            container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def peak_memory(command: list[str]) -> tuple[float, float]:
    """Largest resident set of a process in MiB, and its seconds. Raises CalledProcessError if it fails."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    return usage.ru_maxrss / 1024, time.perf_counter() - begun


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, nargs="+", default=[10, 600])
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--policy", default="crop")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seconds in options.seconds:
            source = Path(folder) / f"{seconds}.mp4"
            write_video(source, seconds)
            command = [sys.executable, "-m", "vidtwin", "reconstruct", str(source), "-o", str(Path(folder) / "out.mp4")]
            peak, wall = peak_memory([*command, "--weights", options.weights, "--policy", options.policy])
            rows.append({"video_seconds": seconds, "peak_mib": round(peak, 1), "seconds": round(wall, 1)})
            print(f"{seconds:6} s of {WIDTH}x{HEIGHT}: peak {peak:.0f} MiB, {wall:.0f} s", flush=True)
    ratio = rows[-1]["peak_mib"] / rows[0]["peak_mib"]
    print(f"the longest takes {ratio:.3f} times the memory of the shortest")
    results = {"setting": setting("cpu", arguments), "policy": options.policy, "rows": rows, "ratio": round(ratio, 4)}
    write_results(f"memory-{options.policy}", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
