"""Does `vidtwin edit --motion K` change the speed of what moves by K? On drawn sprites, whose speed `read_sprite` measures.

python -m benchmarks.edit_motion [sprites tiny ...] [--clips 32]

Clips of sprites are encoded, edited and decoded; speeds are relative to those of the clips decoded as they are. Rows: both latents
edited; Dynamics alone, Structure as it is; and "scaled", which was tried first: Dynamics' difference from its mean over time, times
K. `within` says whether the mean is within 15 % of K (0: within 0.15). "sprites" is the autoencoder of the shipped generator, other
names are weights. Writes benchmarks/results/edit-motion.json and .md.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import vidtwin
from benchmarks.setting import RESULTS, setting, write_results
from vidtwin import Latents, VidTwin
from vidtwin.data.moving_sprites import CLASSES, class_factors, read_sprite
from vidtwin.data.sprites import SpriteClips
from vidtwin.files import atomic_output
from vidtwin.inference.edit import time_matrix

MOTIONS = (0.0, 0.5, 1.0, 1.5)
TOLERANCE = 0.15
ROWS = ("both", "dynamics", "scaled")
SPRITES = Path(vidtwin.__file__).parent / "weights" / "sprites" / "autoencoder"


def edited(model: VidTwin, z: Latents, motion: float, row: str) -> Tensor:
    """Clips (B, 3, F, H, W) at a speed, edited as a row says."""
    frames = z.dynamics_x.shape[2]
    middle = (frames - 1) / 2
    matrix = time_matrix(middle + motion * (torch.arange(frames) - middle), frames)
    if row == "scaled":
        matrix = motion * torch.eye(frames) + (1 - motion) / frames
    x, y = (torch.einsum("gf,bdfr->bdgr", matrix, latent) for latent in (z.dynamics_x, z.dynamics_y))
    times = matrix.expand(len(z), -1, -1) if row == "both" else None
    return model.decode(Latents(z.structure, x, y), times=times)


def drawn(model: VidTwin, count: int) -> list[Tensor]:
    """`count` sprites, of all classes in turn, as clips of the model's size."""
    frames, height, width = model.config.clip_shape[1:]
    labels = [index * 5 % len(CLASSES) for index in range(count)]
    return [SpriteClips(class_factors(label, 1, frames, 9 + i), frames, height, width)[0] for i, label in enumerate(labels)]


@torch.inference_mode()
def measure(model: VidTwin, count: int) -> dict[str, Any]:
    """Speeds of all rows and motions, relative to the clips decoded as they are."""
    clips = drawn(model, count)
    speeds: dict[tuple[str, float], list[float]] = {(row, motion): [] for row in ROWS for motion in MOTIONS}
    kept: list[float] = []
    for clip in clips:
        z = model.encode(clip[None])
        plain = read_sprite(model.decode(z)[0]).speed
        kept.append(plain / read_sprite(clip).speed)
        for row, motion in speeds:
            found = plain if motion == 1 else read_sprite(edited(model, z, motion, row)[0]).speed
            speeds[row, motion].append(found / plain)
    means: dict[str, Any] = {}
    for (row, motion), values in speeds.items():
        mean = float(np.mean(values))
        within = abs(mean - motion) <= TOLERANCE * (motion or 1)
        means.setdefault(row, {})[f"{motion:g}"] = {"mean": mean, "std": float(np.std(values)), "within": within}
    return {"clips": count, "reconstructed": float(np.mean(kept)), "speeds": means}


def table(results: dict[str, Any]) -> str:
    """As Markdown."""
    lines = [
        "| weights | edited | " + " | ".join(f"K = {motion:g}" for motion in MOTIONS) + " |",
        "|---" * (2 + len(MOTIONS)) + "|",
    ]
    for name, values in results["weights"].items():
        for row, speeds in values["speeds"].items():
            shown = [f"{v['mean']:.2f} ± {v['std']:.2f}{'' if v['within'] else ' (outside)'}" for v in speeds.values()]
            lines.append(f"| `{name}` | {row} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="*", default=["sprites", "tiny"])
    parser.add_argument("--clips", type=int, default=32)
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {"setting": setting("cpu", arguments), "tolerance": TOLERANCE, "weights": {}}
    for name in options.weights:
        model = VidTwin.from_pretrained(SPRITES if name == "sprites" else name)
        results["weights"][name] = measure(model, options.clips)
        print(table(results), flush=True)
    write_results("edit-motion", results)
    with atomic_output(RESULTS / "edit-motion.md") as partial:
        partial.write_text(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
