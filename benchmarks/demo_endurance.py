"""Whether the page bears its visitors: alive, its memory and its folder after many hostile files and many jobs in a row.

    python -m benchmarks.demo_endurance [--weights tiny] [--hostile 100] [--jobs 100] [--keep-minutes 2]

A server of its own, asked without a browser. First one job, as every visitor's; then `--hostile` files that are no video, are
broken, or ask for too much (of `KINDS` in turn), then `--jobs` jobs, each of a visitor of its own, every fifth with a second video.
Memory is that of the server and of its worker, resident, together. Then it waits for `--keep-minutes` and a minute, and counts the
files that are left. Writes benchmarks/results/demo-endurance-WEIGHTS.json.
"""

import argparse
import contextlib
import io
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from gradio_client import Client, handle_file
from PIL import Image, ImageCms

from benchmarks.setting import setting, write_results
from vidtwin.cli.options import SAMPLE
from vidtwin.video.write.writer import VideoWriter

MAX_SECONDS = 5


def picture(kind: str, size: tuple[int, int] = (64, 64), **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (20, 90, 160)).save(file, kind, **options)
    return file.getvalue()


def video(frames: int, fps: int, size: tuple[int, int] = (64, 64)) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        with VideoWriter(Path(folder, "a.mp4"), Fraction(fps), size) as writer:
            for _ in range(frames):
                writer.write(np.zeros((1, *size, 3), np.uint8))
        return Path(folder, "a.mp4").read_bytes()


def flipped(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 10, 1000))):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


KINDS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "noise.mkv": lambda sample, draw: draw.randbytes(draw.randrange(1, 10**6)),
    "empty.mp4": lambda sample, draw: b"",
    "cut.mp4": lambda sample, draw: sample[: draw.randrange(len(sample))],
    "flipped.mp4": flipped,
    "icc.png": lambda sample, draw: picture("PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
    "wide.png": lambda sample, draw: picture("PNG", (60_000, 2)),
    "flipped.png": lambda sample, draw: flipped(picture("PNG"), draw),
    "playlist.m3u8": lambda sample, draw: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "frames.mp4": lambda sample, draw: video(draw.randrange(301, 1000), 250),
    "long.mp4": lambda sample, draw: video(40, 2),
    "<img src=x onerror=alert(1)>\x1b]0;x\x07.mp4": lambda sample, draw: draw.randbytes(1000),
}


def memory(server: "subprocess.Popen[str]") -> float:
    """Resident MB of the server and of its worker, on Linux."""
    children = Path(f"/proc/{server.pid}/task").glob("*/children")
    total = 0
    for number in [str(server.pid), *" ".join(path.read_text() for path in children).split()]:
        with contextlib.suppress(OSError):  # it has ended
            total += int(Path(f"/proc/{number}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total / 1e6


def visit(url: str, first: Path, second: Path | None = None) -> list[str]:
    """What a visitor is told of a video, and of a second one."""
    client = Client(url, verbose=False, download_files=False)
    try:
        told = [client.predict(handle_file(str(first)), api_name="/show_first")[0]]
        return told + ([client.predict(handle_file(str(second)), api_name="/show_second")[0]] if second else [])
    finally:
        client.close()


def endure(server: "subprocess.Popen[str]", url: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    draw, results = random.Random(0), dict[str, Any]()
    begin = memory(server)
    visit(url, SAMPLE, SAMPLE)
    results |= {"memory_begin_mb": begin, "memory_first_job_mb": memory(server)}
    answered, most = 0, begin
    for index in range(options.hostile):
        name = list(KINDS)[index % len(KINDS)]
        path = folder / name
        path.write_bytes(KINDS[name](SAMPLE.read_bytes(), draw))
        (told,) = visit(url, path)
        if "by a fault of this program" in told:
            raise RuntimeError(f"{name}: {told}")
        answered, most = answered + 1, max(most, memory(server))
    results |= {"hostile_answered": answered, "memory_hostile_mb": memory(server)}
    done = 0
    for index in range(options.jobs):
        answers = visit(url, SAMPLE, SAMPLE if index % 5 == 0 else None)
        done, most = done + all("did not work" not in told for told in answers), max(most, memory(server))
    return results | {"jobs_done": done, "memory_jobs_mb": memory(server), "memory_most_mb": most, "alive": server.poll() is None}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--hostile", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--keep-minutes", type=float, default=2.0)
    options = parser.parse_args(arguments)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        place, own = Path(folder, "server"), Path(folder, "own")
        place.mkdir()
        own.mkdir()
        command = [sys.executable, "-m", "vidtwin", "demo", "--port", str(port), "--weights", options.weights]
        command += ["--max-seconds", str(MAX_SECONDS), "--keep-minutes", str(options.keep_minutes)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(place)})
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            results = endure(server, url, own, options)
            results["files_after_jobs"] = sum(path.is_file() for path in place.rglob("*"))
            time.sleep(60 * options.keep_minutes + 60)
            results["files_later"] = sum(
                path.is_file() and path.name != "lock" and path.parent.name != "kept" for path in place.rglob("*")
            )
            results["memory_later_mb"] = memory(server)
        finally:
            server.terminate()
            server.wait()
        results["files_after_the_end"] = sum(path.is_file() for path in place.rglob("*"))
    write_results(f"demo-endurance-{Path(options.weights).name}", {"setting": setting("cpu", arguments), **results})
    print(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
