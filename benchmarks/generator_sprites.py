"""Judge generators of moving sprites by reading their videos: class, position, velocity, colour.

    python -m benchmarks.generator_sprites --latents LATENTS --videos OTHERS/sprites.csv ddim=RUN flow=RUN

RUNs are folders of `vidtwin train-generator` on `vidtwin draw-sprites`; OTHERS is another drawing, not trained on, LATENTS its
latents. Measured for each, `--per-class` videos of each class: the share read as their class at several weights of guidance; the
same with another class asked for at guidance 1, as a control; how far the distributions of speed, size and way are from those of
real videos (means, and Kolmogorov-Smirnov distance, beside that of two halves of the real ones), and those of reconstructions of
them, which a perfect generator would reach; whether Structure comes back where Dynamics was sampled for it; and whether a second
window goes on where the first ended. Writes
benchmarks/results/generator-sprites.json and .md.
"""

import argparse
import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from scipy.stats import ks_2samp
from torch import Tensor

from benchmarks.setting import RESULTS, setting, write_results
from vidtwin import LatentDataset, Latents, VidTwin
from vidtwin.data.moving_sprites import CLASSES, WINDOW, Reading, read_sprite
from vidtwin.files import atomic_output
from vidtwin.frames.panels import LABEL_HEIGHT, side_by_side
from vidtwin.generation.pipeline import VidTwinPipeline
from vidtwin.model.latents import NAMES
from vidtwin.video import read_video

BATCH = 64
MOST_GIVEN = 128  # clips whose Structure is given
TRAITS = ("speed", "size", "along", "across", "straying")  # of a reading; along and across: its place, with and across its way


def to_clips(videos: Tensor) -> Tensor:
    """uint8 (B, F, H, W, 3) -> (B, 3, F, H, W) in [-1, 1]."""
    return videos.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def traits(reading: Reading) -> dict[str, float]:
    way, place = np.array(reading.velocity) / max(reading.speed, 1e-9), np.array(reading.position) - 0.5
    along, across = float(place @ way), float(place @ np.array([-way[1], way[0]]))
    return {"speed": reading.speed, "size": reading.size, "along": along, "across": across, "straying": reading.straying}


def accuracy(readings: list[Reading], wanted: list[str]) -> dict[str, float]:
    """Shares: of the class, of its direction, of its colour; nothing that has a class counts as wrong in all."""
    found = [(reading.label or "-").split("-", 1) for reading in readings]
    pairs = [(label, name.split("-", 1)) for label, name in zip(found, wanted, strict=True)]
    shares = {"class": lambda a, b: a == b, "colour": lambda a, b: a[0] == b[0], "direction": lambda a, b: a[1] == b[1]}
    return {name: float(np.mean([right(a, b) for a, b in pairs])) for name, right in shares.items()}


def compared(readings: list[Reading], real: list[Reading]) -> dict[str, dict[str, float]]:
    """Means and distances of each trait, of readings that have a class.

    `within`: 1 if the mean is within half a deviation of the real ones, and the deviation between half and twice theirs.
    """
    ours, theirs = ([traits(reading) for reading in some if reading.label is not None] for some in (readings, real))
    found = {}
    for name in TRAITS:
        a, b = (np.array([row[name] for row in rows]) for rows in (ours, theirs))
        found[name] = {"mean": a.mean(), "std": a.std(), "real_mean": b.mean(), "real_std": b.std(), "ks": ks_2samp(a, b).statistic}
    for values in found.values():
        near = abs(values["mean"] - values["real_mean"]) <= values["real_std"] / 2
        values["within"] = near and values["real_std"] / 2 <= values["std"] <= 2 * values["real_std"]
    return {name: {key: float(value) for key, value in values.items()} for name, values in found.items()}


def beginnings(videos: int, dropped: float) -> list[int]:
    """Which of 2 x `videos` windows, first ones and then second ones, a generator has learnt to make without one before.

    The first ones, and of the second ones the share whose window before was not shown in training, evenly spread.
    """
    return [*range(videos), *(videos + int(i / dropped) for i in range(int(videos * dropped)))]


def sample(pipeline: VidTwinPipeline, labels: list[str], seed: int, **options: Any) -> tuple[Tensor, list[Latents]]:
    """Videos of the labels, each of its own generator, and their latents by window."""
    videos, latents = [], []
    for start in range(0, len(labels), BATCH):
        now = range(start, min(start + BATCH, len(labels)))
        draws = [torch.Generator().manual_seed(seed * 1_000_003 + i) for i in now]
        given: dict[str, Any] = {k: v[start : now.stop] if isinstance(v, Latents) else v for k, v in options.items()}
        made = pipeline([labels[i] for i in now], generator=draws, **given)
        videos.append(made.videos)
        latents.append(made.latents)
    return torch.cat(videos), [Latents.cat([windows[w] for windows in latents]) for w in range(len(latents[0]))]


def r2(found: Tensor, target: Tensor) -> float:
    """Of Structure, over all clips and values."""
    return float(1 - (found - target).square().sum() / (target - target.mean(0)).square().sum())


@torch.inference_mode()
def structures(model: VidTwin, videos: Tensor) -> Tensor:
    """z_S of videos, encoded."""
    return torch.cat([model.encode(clips).structure for clips in to_clips(videos).split(BATCH)])


def given_structure(
    pipeline: VidTwinPipeline, rows: LatentDataset, labels: list[str], seed: int, guidance: float
) -> dict[str, float]:
    """Swap consistency: R^2 of z_S, encoded from the decode of a real Structure with a Dynamics that was sampled for it."""
    stride = max(1, len(rows) // MOST_GIVEN)
    batch = [rows[i * stride] for i in range(len(labels))]
    real = Latents(*(torch.stack([row[name] for row in batch]) for name in NAMES))
    model = pipeline.autoencoder
    ceiling = r2(structures(model, pipeline.decode(real)), real.structure)
    made, _ = sample(pipeline, labels, seed, structure=real, guidance_scale=guidance)
    turned = Latents(real.structure, real.dynamics_x.roll(7, 0), real.dynamics_y.roll(7, 0))
    found = {"ceiling": ceiling, "sampled": r2(structures(model, made), real.structure)}
    found["another_clip_s"] = r2(structures(model, pipeline.decode(turned)), real.structure)
    found["share_of_ceiling"] = found["sampled"] / ceiling
    return found | {f"sampled_{k}": v for k, v in accuracy([read_sprite(x) for x in to_clips(made)], labels).items()}


def going_on(videos: Tensor) -> dict[str, float]:
    """Of videos of two windows: how far apart the windows say that the sprite is between them, and how much their ways differ."""
    gaps, turns = [], []
    for clip in to_clips(videos):
        first, second = read_sprite(clip[:, :WINDOW]), read_sprite(clip[:, WINDOW:])
        if first.label is not None and second.label is not None:
            p, q, v, w = (np.array(x) for x in (first.position, second.position, first.velocity, second.velocity))
            gaps.append(np.hypot(*(p + v / 2 - (q - w / 2))))
            turns.append(np.hypot(*(v - w)))
    return {"read": len(gaps) / len(videos), "gap": float(np.mean(gaps)), "turn": float(np.mean(turns))}


def picture(pipeline: VidTwinPipeline, path: Path, guidance: float) -> None:
    """Frames 0, 5, 10 and 15, below each other, of a sample for each of 8 directions, in turns of the 4 colours; twice the size."""
    labels = [CLASSES[8 * (i % 4) + i] for i in range(8)]
    videos, _ = sample(pipeline, labels, 4, guidance_scale=guidance)
    panels = {
        name.replace("-", " "): np.repeat(np.repeat(v[[0, 5, 10, 15]].numpy(), 2, 1), 2, 2)
        for name, v in zip(labels, videos, strict=True)
    }
    strip = side_by_side(panels)
    rows = [strip[0], *(frame[LABEL_HEIGHT:] for frame in strip[1:])]
    with atomic_output(path) as partial:
        Image.fromarray(np.concatenate(rows)).save(partial, optimize=True)


def judge(run: Path, options: argparse.Namespace, real: list[Reading], rows: LatentDataset, truth: list[str]) -> dict[str, Any]:
    """Everything of a generator."""
    pipeline = VidTwinPipeline.from_pretrained(run / "model").to(options.device)
    labels = [name for name in CLASSES for _ in range(options.per_class)]
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in pipeline.denoiser.parameters()), "steps": log[-1]["step"]}
    batch = yaml.safe_load((run / "recipe.yaml").read_text())["batch_size"]
    parts = zip([{"step": 0}, *log], log, strict=False)
    found["minutes"] = sum((b["step"] - a["step"]) * batch / b["clips_per_second"] for a, b in parts) / 60
    found["guidance"] = {}
    for guidance in options.guidance:
        begun = time.perf_counter()
        videos, _ = sample(pipeline, labels, 1, guidance_scale=guidance, num_inference_steps=options.steps)
        seconds = (time.perf_counter() - begun) / len(videos)
        readings = [read_sprite(clip) for clip in to_clips(videos)]
        found["guidance"][f"{guidance:g}"] = accuracy(readings, labels) | {"traits": compared(readings, real), "seconds": seconds}
        print(f"{run.name} w={guidance:g}", {k: round(v, 3) for k, v in accuracy(readings, labels).items()}, flush=True)
    turned = [CLASSES[(CLASSES.index(name) + 13) % len(CLASSES)] for name in labels]  # another colour and direction
    wrong, _ = sample(pipeline, turned, 1, guidance_scale=1.0, num_inference_steps=options.steps)
    found["wrong_class"] = accuracy([read_sprite(clip) for clip in to_clips(wrong)], labels)
    best = max(found["guidance"], key=lambda key: found["guidance"][key]["class"])
    found["given_structure"] = given_structure(pipeline, rows, truth, 2, float(best))
    long, _ = sample(pipeline, labels[:: options.per_class] * 2, 3, num_frames=2 * WINDOW, guidance_scale=float(best))
    found["going_on"] = going_on(long)
    found["few_steps"] = {}
    for steps in (5, 10, 25):
        few, _ = sample(pipeline, labels[::2], 1, guidance_scale=float(best), num_inference_steps=steps)
        found["few_steps"][str(steps)] = accuracy([read_sprite(clip) for clip in to_clips(few)], labels[::2])
    return found


def table(results: dict[str, Any]) -> str:
    """As Markdown."""
    names = list(results["generators"])
    runs = results["generators"].values()
    lines = [f"| | real | reconstructed | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]

    def row(name: str, real: str, values: list[str], rebuilt: str = "-") -> None:
        lines.append(f"| {name} | {real} | {rebuilt} | {' | '.join(values)} |")

    def spread(one: dict[str, float]) -> str:
        return f"{one['mean']:.3f} ± {one['std']:.3f}, {one['ks']:.2f}{'' if one['within'] else ' (outside)'}"

    rebuilt = results["reconstructed"]

    row("training, minutes", "-", [f"{run['minutes']:.0f}" for run in runs])
    for w in results["setting"]["guidance"]:
        shown = [run["guidance"][f"{w:g}"] for run in runs]
        values = [f"{one['class']:.1%}" for one in shown]
        row(f"class read, guidance {w:g}", f"{results['real']['class']:.1%}", values, f"{rebuilt['class']:.1%}")
    row("another class asked for", "-", [f"{run['wrong_class']['class']:.1%}" for run in runs])
    for steps in ("5", "10", "25"):
        row(f"class read, {steps} steps", "-", [f"{run['few_steps'][steps]['class']:.1%}" for run in runs])
    for w in results["setting"]["guidance"][:2]:
        for trait in TRAITS:
            shown = [run["guidance"][f"{w:g}"]["traits"][trait] for run in runs]
            real = f"{shown[0]['real_mean']:.3f} ± {shown[0]['real_std']:.3f}, {results['halves'][trait]['ks']:.2f}"
            values = [spread(one) for one in shown]
            row(f"{trait}, guidance {w:g}: mean ± deviation, KS", real, values, spread(rebuilt["traits"][trait]))
    kept = [run["given_structure"] for run in runs]
    row("R² of Structure, Dynamics sampled", f"{kept[0]['ceiling']:.3f}", [f"{one['sampled']:.3f}" for one in kept])
    row("second window: gap, sides", f"{results['real_going_on']['gap']:.3f}", [f"{run['going_on']['gap']:.3f}" for run in runs])
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="NAME=FOLDER")
    parser.add_argument("--latents", type=Path, required=True)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--per-class", type=int, default=8)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 5.0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--dropped", type=float, default=0.2, help="previous_dropout of the recipes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--add", action="store_true", help="keep what the results file says of other runs")
    parser.add_argument("--picture", type=Path, help="of samples of the last run")
    options = parser.parse_args(arguments)
    with options.videos.open() as file:
        listed = list(csv.DictReader(file))
    videos = torch.stack([torch.from_numpy(read_video(options.videos.parent / row["videos"]).frames) for row in listed])
    clips = torch.cat([to_clips(videos[:, :WINDOW]), to_clips(videos[:, WINDOW:])])
    wanted = [row["label"] for row in listed] * 2
    real = [read_sprite(clip) for clip in clips]
    rows = LatentDataset(options.latents, columns=["label"], normalize=False)
    truth = rows.column("label")[:: max(1, len(rows) // MOST_GIVEN)][:MOST_GIVEN]
    begins = beginnings(len(videos), options.dropped)
    reference = [real[i] for i in begins]
    results: dict[str, Any] = {
        "setting": setting(options.device, arguments) | {"per_class": options.per_class, "guidance": options.guidance},
        "real": accuracy(real, wanted),
        "halves": compared(reference[::2], reference[1::2]),
        "real_going_on": going_on(videos),
        "generators": json.loads((RESULTS / "generator-sprites.json").read_text())["generators"] if options.add else {},
    }
    model = VidTwinPipeline.from_pretrained(Path(options.runs[0].partition("=")[2]) / "model").autoencoder
    with torch.inference_mode():
        rebuilt = torch.cat([model(part).x_hat for part in clips.split(BATCH)])
    readings = [read_sprite(clip) for clip in rebuilt]
    results["reconstructed"] = accuracy(readings, wanted) | {"traits": compared([readings[i] for i in begins], reference)}
    print("real", results["real"], "reconstructed", results["reconstructed"], flush=True)
    for name, _, folder in (run.partition("=") for run in options.runs):
        found = judge(Path(folder), options, reference, rows, truth)
        results["generators"][name] = {"setting": setting(options.device, arguments)} | found
        if options.picture is not None:
            picture(VidTwinPipeline.from_pretrained(Path(folder) / "model").to(options.device), options.picture, 2.0)
    write_results("generator-sprites", results)
    with atomic_output(RESULTS / "generator-sprites.md") as partial:
        partial.write_text(table(results))
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
