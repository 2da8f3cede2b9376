"""Data sets of latents, measured: engines, broken videos, rate, memory, and reading back.

    python -m benchmarks.dataset VIDEOS --work FOLDER [--weights tiny] [--videos 1000] [--steps engines broken rate memory loader]

Cuts short videos (24 frames, the height of the model and more) out of VIDEOS into FOLDER, every 20th of them then broken in one of
five ways, and runs `vidtwin encode-dataset` on them, in processes of its own.

    engines   one process, two, and Ray: are the files the same?
    broken    are all failures in the table, with their reasons, and all others encoded?
    rate      videos a second end to end, against reading alone and the model alone, one process each
    memory    peak memory of the largest process for 100 videos, and for all of them
    loader    rows a second of a loader over 100,000 rows, memory at the first and the last tenth of them

Writes benchmarks/results/dataset-WEIGHTS.json, in which steps that are not run stay as they were.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from torch.utils.data import DataLoader

from benchmarks.setting import RESULTS, setting, write_results
from vidtwin import IterableLatents, LatentDataset, VidTwin
from vidtwin.benchmark import resident_kib
from vidtwin.data.sources import find_videos
from vidtwin.inference.engine import Engine
from vidtwin.latent_sets.encode import ReadWindow, encode_items, read_windows
from vidtwin.latent_sets.items import list_items
from vidtwin.latent_sets.plan import Plan
from vidtwin.latent_sets.store import Store
from vidtwin.latents.stream import Identity
from vidtwin.video.read.reader import frame_count, read_clip
from vidtwin.video.write.encoding import Encoding
from vidtwin.video.write.writer import VideoWriter

FRAMES = 24
STEPS = ("engines", "broken", "rate", "memory", "loader")
BROKEN = ("empty", "text", "cut in half", "no index", "sound only")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="VIDEOS")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--steps", nargs="*", default=STEPS, choices=STEPS)
    options = parser.parse_args(arguments)
    path = RESULTS / f"dataset-{options.weights}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    whole, some = options.work / "whole", options.work / "some"
    make(options.source, whole, options.videos)
    for step in options.steps:
        print(step, flush=True)
        if step == "engines":
            found: dict[str, Any] = engines(whole, options.work, options.weights)
        elif step == "broken":
            damage(whole, some)
            found = broken(some, options.work, options.weights)
        elif step == "rate":
            found = rate(whole, options.work, options.weights)
        elif step == "memory":
            found = memory(whole, options.work, options.weights)
        else:
            found = loader(options.work, options.weights)
        facts = setting("cpu", [])
        facts["command"] = f"python -m benchmarks.dataset VIDEOS --work FOLDER --videos {options.videos} --steps {step}"
        result[step] = found | {"setting": facts}
        print(json.dumps(found, indent=2), flush=True)
        write_results(f"dataset-{options.weights}", result)
    return 0


def make(source: Path, folder: Path, count: int) -> None:
    """Short videos, cut out of others at seeded places; what is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    videos, draw = find_videos(source), random.Random(0)
    for number in range(count):
        video = videos[number % len(videos)]
        start = draw.randrange(max(1, frame_count(video) - FRAMES))
        target = folder / f"{number // 100:02d}" / f"{number:05d}.mp4"
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            frames = read_clip(video, start, min(FRAMES, frame_count(video) - start))
            with VideoWriter(target, Fraction(25), frames.shape[1:3], Encoding(crf=20)) as writer:
                writer.write(frames)


def damage(whole: Path, some: Path) -> None:
    """The same videos, every 20th broken, in each way in turn."""
    shutil.rmtree(some, ignore_errors=True)
    shutil.copytree(whole, some)
    for number, path in enumerate(sorted(some.rglob("*.mp4"))[::20]):
        data, kind = path.read_bytes(), BROKEN[number % len(BROKEN)]
        if kind == "sound only":
            shutil.copy(Path(__file__).parents[1] / "tests" / "assets" / "audio_only.mp4", path)
        else:
            without = {"empty": b"", "text": b"<html>404</html>" * 100, "cut in half": data[: len(data) // 2]}
            path.write_bytes(without.get(kind, data.replace(b"moov", b"xxxx")))


def run(source: Path, out: Path, weights: str, *more: str) -> tuple[int, float, int, str]:
    """The command in an empty folder: exit code, seconds, MiB of the largest process, what it said."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "vidtwin", "encode-dataset", str(source), "-o", str(out), "--weights", weights, *more]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, time.perf_counter() - begun, usage.ru_maxrss // 1024, said


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "data").iterdir()}


def engines(whole: Path, work: Path, weights: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    first: dict[str, bytes] = {}
    for name, processes, more in (("one", "1", ()), ("two", "2", ()), ("ray", "2", ("--ray", "local"))):
        code, seconds, _, said = run(whole, work / name, weights, "--processes", processes, *more)
        assert code == 0, said
        first = first or contents(work / name)
        found[name] = {"seconds": round(seconds, 1), "same_files": contents(work / name) == first}
    rows = LatentDataset(work / "one", normalize=False)
    return {"videos": len(list(whole.rglob("*.mp4"))), "rows": len(rows), "files": len(first), "engines": found}


def broken(some: Path, work: Path, weights: str) -> dict[str, Any]:
    code, _, _, said = run(some, work / "broken", weights)
    failures = [json.loads(line) for line in (work / "broken" / "failures.jsonl").read_text().splitlines()]
    expected = {path.relative_to(some).as_posix() for path in sorted(some.rglob("*.mp4"))[::20]}
    videos = pyarrow.parquet.read_table(work / "broken" / "data", columns=["video"]).column("video").unique()
    return {
        "videos": len(list(some.rglob("*.mp4"))),
        "broken": len(expected),
        "encoded": len(videos),
        "failures_are_those_broken": {failure["video"] for failure in failures} == expected,
        "exit_code": code,
        "last_line": said.strip().splitlines()[-1].replace(str(work), "FOLDER"),
        "reasons": dict(Counter(failure["reason"] for failure in failures)),
    }


def rate(whole: Path, work: Path, weights: str) -> dict[str, Any]:
    """In this process, one thread for the model, one that reads; each of the three twice, the better counts."""
    model = VidTwin.from_pretrained(weights)
    plan = Plan(model.config, Identity.of(model, weights))
    items = list_items(str(whole))[:200]
    torch.set_num_threads(1)
    engine = Engine(model)
    clips = [event.clip for event in read_windows(plan, items[:1], None) if isinstance(event, ReadWindow)]
    windows = sum(isinstance(event, ReadWindow) for event in read_windows(plan, items, None))

    def reading() -> None:
        for _ in read_windows(plan, items, None):
            pass

    def encoding() -> None:
        for _ in range(windows):
            engine.encode(1, lambda index: clips[0])

    def both() -> None:
        for _ in encode_items(engine, plan, items):
            pass

    best: dict[str, float] = {}
    for _ in range(2):
        for name, function in (("reading alone", reading), ("model alone", encoding), ("end to end", both)):
            begun = time.perf_counter()
            function()
            best[name] = min(best.get(name, 1e9), time.perf_counter() - begun)
    rates = {name: round(len(items) / seconds, 2) for name, seconds in best.items()}
    slower = min(rates["reading alone"], rates["model alone"])
    return {"videos": len(items), "windows": windows, "videos_per_second": rates, "share": round(rates["end to end"] / slower, 3)}


def memory(whole: Path, work: Path, weights: str) -> dict[str, Any]:
    few = work / "few"
    shutil.rmtree(few, ignore_errors=True)
    for path in sorted(whole.rglob("*.mp4"))[:100]:
        target = few / path.relative_to(whole)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    twice = work / "twice"  # of the whole
    shutil.rmtree(twice, ignore_errors=True)
    for part in ("a", "b"):
        shutil.copytree(whole, twice / part)
    peaks = {}
    for folder in (few, twice):
        code, _, mib, said = run(folder, work / "peak", weights, "--processes", "2")
        assert code == 0, said
        peaks[str(len(list(folder.rglob("*.mp4"))))] = mib
    low, high = peaks.values()
    return {"mib_by_videos": peaks, "ratio": round(high / low, 3)}


def loader(work: Path, weights: str) -> dict[str, Any]:
    """100,000 rows: those of "one" again and again, as parts of a data set of their own."""
    rows = LatentDataset(work / "one", normalize=False)
    out = work / "many"
    if not out.exists():
        many(rows, work / "one", out, 100_000)
    dataset = LatentDataset(out, columns=["video"])
    found: dict[str, Any] = {"rows": len(dataset), "values_a_row": dataset.plan.config.latent_values}
    for name, workers in (("in this process", 0), ("two workers", 2)):
        stream = DataLoader(IterableLatents(dataset, shuffle=True), batch_size=64, num_workers=workers)
        begun, count, early, late = time.perf_counter(), 0, 0, 0
        for batch in stream:
            count += len(batch["video"])
            resident = resident_kib("VmRSS") // 1024
            if count < len(dataset) // 10:
                early = max(early, resident)
            elif count > 9 * len(dataset) // 10:
                late = max(late, resident)
        seconds = time.perf_counter() - begun
        found[name] = {"rows": count, "rows_per_second": round(count / seconds), "mib_first_tenth": early, "mib_last_tenth": late}
    return found


def many(rows: LatentDataset, one: Path, out: Path, count: int) -> None:
    model_plan = replace(rows.plan)
    parts = sorted((one / "data").glob("*.parquet"))
    with Store(out, model_plan) as store:
        written: list[Path] = []
        while sum(pyarrow.parquet.read_metadata(path).num_rows for path in written) < count:
            path = store.data / f"part-{len(written):05d}.parquet"
            shutil.copy(parts[len(written) % len(parts)], path)
            written.append(path)
        store.finish(written, [], {})


if __name__ == "__main__":
    sys.exit(main())
