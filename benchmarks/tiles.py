"""Can one see where tiles meet? The seam energy of a tiled reconstruction at 1920x1080.

    python -m benchmarks.tiles [--weights tiny] [--frames 8] [VIDEO ...]

Seam energy: the mean absolute difference between neighbouring pixels across the edges of tiles, over that across the same lines of
pictures where no tile ends there: reconstructions with other tilings of the same frames. So what the pictures have at these
lines cancels. Lines near which a patch of the model ends, in either, are left out: a weak model shows its patches everywhere, tiled
or not. 1 is no seam. For comparison the same for tiles that share nothing. Without VIDEO: the sample clip. Writes
benchmarks/results/tiles-WEIGHTS.json.
"""

import argparse
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.setting import setting, write_results
from vidtwin.cli.options import SAMPLE
from vidtwin.frames.tiles import Tiling
from vidtwin.inference.encode import padded
from vidtwin.inference.engine import Engine
from vidtwin.model.loading import load_weights
from vidtwin.video.read.reader import iter_frames

SIZE = (1080, 1920)
OTHERS = (40, 72)  # overlaps of the tilings that are compared with; their tiles end elsewhere


def frames_of(path: Path, count: int) -> np.ndarray:
    """The first frames, uint8 (F, 1080, 1920, 3), scaled to that size if they have another."""
    height, width = SIZE
    pictures = (Image.fromarray(frame.image).resize((width, height), Image.Resampling.BICUBIC) for frame in iter_frames(path))
    return np.stack([np.asarray(picture) for picture in islice(pictures, count)])


def steps(engine: Engine, frames: np.ndarray, tiling: Tiling) -> tuple[np.ndarray, np.ndarray]:
    """Mean absolute difference across each horizontal line (1079,) and each vertical line (1919,) of the reconstruction."""
    latents = engine.encode(tiling.count, lambda index: padded(tiling.cut(frames, index), engine.config.frames)).mean
    clip = torch.cat([band.pixels[:, : len(frames)] for band in tiling.merge(engine.decode(latents))], dim=2)
    across_rows, across_columns = (clip.diff(dim=axis).abs() for axis in (2, 3))
    return across_rows.mean(dim=(0, 1, 3)).numpy(), across_columns.mean(dim=(0, 1, 2)).numpy()


def lines(tiling: Tiling, axis: int, patch: int) -> tuple[set[int], set[int]]:
    """Lines along which a tile ends, and those along which a patch in a tile does, by the number of the pixel before."""
    starts, size = (tiling.tops, tiling.model[0]) if axis == 0 else (tiling.lefts, tiling.model[1])
    edges = {start - 1 for start in starts[1:]} | {start + size - 1 for start in starts[:-1]}
    return edges, {start + place - 1 for start in starts for place in range(patch, size, patch)}


def sums(tiling: Tiling, mine: Any, others: dict[Tiling, Any], patch: int) -> tuple[float, float]:
    """Differences across the tile edges, and across the same lines in the other tilings, added up."""
    here = there = 0.0
    for axis in (0, 1):
        edges, patches = lines(tiling, axis, patch)
        for other, theirs in others.items():
            ends, places = lines(other, axis, patch)
            common = sorted(edges - patches - ends - places)
            here += float(mine[axis][common].sum())
            there += float(theirs[axis][common].sum())
    return here, there


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="*", default=[SAMPLE], metavar="VIDEO")
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--frames", type=int, default=8)
    options = parser.parse_args(arguments)
    engine = Engine(load_weights(options.weights).eval())
    patch, model = engine.config.patch, (engine.config.height, engine.config.width)
    tilings = {"a quarter shared": Tiling.plan(SIZE, model), "nothing shared": Tiling.plan(SIZE, model, 0)}
    others = [Tiling.plan(SIZE, model, overlap) for overlap in OTHERS]
    totals = {name: [0.0, 0.0] for name in tilings}
    rows: dict[str, dict[str, float]] = {}
    for video in options.videos:
        frames = frames_of(video, min(options.frames, engine.config.frames))
        compared = {other: steps(engine, frames, other) for other in others}
        for name, tiling in tilings.items():
            here, there = sums(tiling, steps(engine, frames, tiling), compared, patch)
            totals[name] = [totals[name][0] + here, totals[name][1] + there]
            rows.setdefault(video.name, {})[name] = here / there
        print(video.name, {name: round(value, 4) for name, value in rows[video.name].items()}, flush=True)
    energy = {name: here / there for name, (here, there) in totals.items()}
    for name, value in energy.items():
        print(f"{name:18}{tilings[name].count:4} tiles, seam energy {value:.4f}")
    results = {"setting": setting("cpu", arguments), "size": SIZE, "frames": options.frames, "seam_energy": energy, "videos": rows}
    write_results(f"tiles-{options.weights}", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
