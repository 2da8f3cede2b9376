"""Can one see where tiles meet? The seam energy of a tiled reconstruction at 1920x1080.

    python -m benchmarks.tiles [--video VIDEO] [--weights tiny] [--frames 16]

Seam energy: the mean absolute difference between pixels across the edges of tiles, over that between all other neighbouring pixels,
in the reconstruction; divided by the same ratio in the source, whose edges of objects may lie there by chance. 1 is no seam.
Printed for tiles that share a quarter of their size and for tiles that share nothing, which shows that the measure sees seams; and
for the first frames of the sample clip if no video is given. Writes benchmarks/results/tiles-WEIGHTS.json.
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
from vidtwin.cli import SAMPLE
from vidtwin.inference.encode import padded
from vidtwin.inference.engine import Engine
from vidtwin.loading import load_weights
from vidtwin.video.read import iter_frames
from vidtwin.video.tiles import Tiling

SIZE = (1080, 1920)


def frames_of(path: Path, count: int) -> np.ndarray:
    """The first frames, uint8 (F, 1080, 1920, 3), scaled to that size if they have another."""
    height, width = SIZE
    pictures = (Image.fromarray(frame.image).resize((width, height), Image.Resampling.BICUBIC) for frame in iter_frames(path))
    return np.stack([np.asarray(picture) for picture in islice(pictures, count)])


def reconstruction(engine: Engine, frames: np.ndarray, tiling: Tiling) -> np.ndarray:
    """uint8 (F, H, W, 3), through one window of tiles."""
    latents = engine.encode(tiling.count, lambda index: padded(tiling.cut(frames, index), engine.config.frames)).mean
    bands = [band.pixels[:, : len(frames)] for band in tiling.merge(engine.decode(latents))]
    clip = torch.cat(bands, dim=2).clamp(-1, 1)
    return ((clip + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()


def across_edges(frames: np.ndarray, tiling: Tiling) -> float:
    """Mean difference across tile edges over the mean difference elsewhere, rows and columns together."""
    at, elsewhere = [], []
    for axis, starts, size in ((1, tiling.tops, tiling.model[0]), (2, tiling.lefts, tiling.model[1])):
        step = np.abs(np.diff(frames.astype(np.float32), axis=axis))
        step = step.mean(axis=tuple(other for other in range(4) if other != axis))  # of each line between two rows or columns
        edges = sorted({start - 1 for start in starts[1:]} | {start + size - 1 for start in starts[:-1]})
        at.append(step[edges])
        elsewhere.append(np.delete(step, edges))
    return float(np.concatenate(at).mean() / np.concatenate(elsewhere).mean())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, default=SAMPLE)
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--frames", type=int, default=16)
    options = parser.parse_args(arguments)
    engine = Engine(load_weights(options.weights).eval())
    frames = frames_of(options.video, min(options.frames, engine.config.frames))
    results: dict[str, Any] = {"setting": setting("cpu", arguments), "video": options.video.name, "frames": len(frames)}
    model = (engine.config.height, engine.config.width)
    for name, overlap in (("a quarter shared", None), ("nothing shared", 0)):
        tiling = Tiling.plan(SIZE, model, overlap)
        source, decoded = (across_edges(video, tiling) for video in (frames, reconstruction(engine, frames, tiling)))
        results[name] = {"tiles": tiling.count, "source": source, "reconstruction": decoded, "seam_energy": decoded / source}
        print(
            f"{name:18}{tiling.count:4} tiles, seam energy {decoded / source:.4f} ({decoded:.4f}, source {source:.4f})", flush=True
        )
    write_results(f"tiles-{options.weights}-{options.video.stem}", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
