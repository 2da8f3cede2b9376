"""The linear start against its closed form: PSNR on test videos of the coder, of Structure alone, and of the model at step 0.

    python -m benchmarks.linear_start TRAINING_VIDEOS TEST_VIDEOS [--out FOLDER] [--recipes tiny mini]

Fits `initialization: linear` of the recipe NAME to clips of the training videos, and scores every clip of the test videos as
`vidtwin evaluate` does, but for clamping. Leaves the models in FOLDER/NAME. Writes results/linear-start.json and .md.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.setting import RESULTS, setting, write_results
from vidtwin.data.clips import TrainingClips
from vidtwin.data.sources import recordings
from vidtwin.evaluation.scoring import evaluation_clips
from vidtwin.training.autoencoder import COMPONENTS
from vidtwin.training.compact import CompactTwin
from vidtwin.training.linear.start import start_linear
from vidtwin.training.patches import block_side, fit_basis, to_patches
from vidtwin.training.recipe import Recipe, read_recipe


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("training_videos")
    parser.add_argument("test_videos")
    parser.add_argument("--out", type=Path, default=Path("runs/linear-start"))
    parser.add_argument("--recipes", nargs="+", default=["tiny", "mini"])
    options = parser.parse_args(arguments)
    found = {}
    for name in options.recipes:
        recipe: Recipe = read_recipe(name, train_videos=options.training_videos, validation_videos=options.test_videos)
        found[name] = measured(recipe, options.test_videos, options.out / name)
        print(name, found[name], flush=True)
    write_results("linear-start", {"setting": setting("cpu", arguments), "models": found})
    (RESULTS / "linear-start.md").write_text(table(found))
    return 0


@torch.no_grad()
def measured(recipe: Recipe, test_videos: str, out: Path) -> dict[str, Any]:
    """PSNR (dB), means over frames, then clips, of all clips and of the first of each video."""
    config = recipe.config
    m, side = config.patch // block_side(config.patch), block_side(config.patch)
    plain = replace(recipe, coefficients=None, views=1, reverse=False, max_stride=1, brightness=0.0, contrast=0.0, colour=0.0)
    clips = TrainingClips(recordings(plain.train_videos), config, None, plain.flip, None, plain.seed)
    drawn = [clips[i].clip for i in tqdm(range(plain.init_clips), desc="clips to fit to", leave=False)]
    basis = fit_basis((clip.float() / 127.5 - 1 for clip in drawn), config.patch, COMPONENTS)

    def coefficients(clip: Tensor) -> tuple[Tensor, Tensor]:
        x, outside = basis.project(clip.movedim(1, 0))
        return to_patches(x, m), outside.sum((1, 2))

    fitted = [coefficients(clip.float() / 127.5 - 1) for clip in drawn]
    torch.manual_seed(plain.seed)
    compact = CompactTwin(config, COMPONENTS).eval()
    compact.basis = basis
    x = torch.stack([clip.bfloat16() for clip, _ in fitted])
    coder = start_linear(compact, x, torch.stack([outside.sum() for _, outside in fitted]), plain.from_scratch_logvar, plain.seed)
    compact.unfold().save_pretrained(out)

    def in_bfloat16(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return compact(x)[0].float()

    coders: dict[str, Callable[[Tensor], Tensor]] = {
        "Structure, closed form": coder.structure,
        "both, closed form": coder.reconstruct,
        "model, float32": lambda x: compact(x)[0],
        "model, bfloat16": in_bfloat16,
    }
    scores: dict[str, list[float]] = {name: [] for name in coders}
    first = []
    for path in tqdm(sorted(Path(test_videos).glob("*.mp4")), desc="test videos", leave=False):
        for number, clip in enumerate(evaluation_clips(path, config.frames, config.height, config.width)):
            x, outside = coefficients(clip)
            first.append(number == 0)
            for name, code in coders.items():
                errors = (code(x[None])[0] - x).square().sum((1, 2)) + outside
                scores[name].append((-10 * torch.log10(errors / (3 * config.height * config.width) / 4)).mean().item())
    counts = [coder.functions.count(k) for k in range(max(coder.functions) + 1)]
    psnr = {
        name: {
            "all": sum(values) / len(values),
            "first": sum(v for v, is_first in zip(values, first, strict=True) if is_first) / sum(first),
        }
        for name, values in scores.items()
    }
    return {"values": config.latent_values, "block": side, "queries_per_function": counts, "clips": len(first), "psnr": psnr}


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    names = list(next(iter(found.values()))["psnr"])
    lines = ["| | values | queries per temporal function | " + " | ".join(names) + " |", "|---" * (3 + len(names)) + "|"]
    for model, row in found.items():
        cells = [f"{row['psnr'][name]['all']:.2f} dB ({row['psnr'][name]['first']:.2f})" for name in names]
        lines.append(f"| `{model}` | {row['values']} | {row['queries_per_function']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\nOf all clips; in brackets of the first clip of each video.\n"


if __name__ == "__main__":
    sys.exit(main())
