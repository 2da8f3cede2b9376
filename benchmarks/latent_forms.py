"""Which form of a latent file is worth being the default: bytes, and what decoding from it loses.

    python -m benchmarks.latent_forms VIDEO VIDEO [--weights mini]

Each video (centre crop) is encoded once and stored as float32, float16, and compressed at three steps. "psnr" is the mean over
frames against what was encoded; "lost" is that of float32 less this one, in dB. Writes benchmarks/results/latent-forms.json.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.compression import decoded, psnr
from benchmarks.setting import setting, write_results
from vidtwin.inference.encode import encode_video, source_windows
from vidtwin.inference.engine import Engine
from vidtwin.latents.file import LatentVideo, compress
from vidtwin.latents.records import Stored
from vidtwin.latents.stream import Identity
from vidtwin.model.loading import load_weights

FORMS: tuple[Stored, ...] = ("float32", "float16")
STEPS = (0.125, 0.25, 1.0)


def forms(engine: Engine, path: Path, weights: Identity, folder: Path) -> dict[str, dict[str, Any]]:
    """Bytes and PSNR of each form."""
    exact = encode_video(engine, path, folder / "exact.vidtwin", logvar=True, stored="float32", weights=weights)
    source = [window.pixels for window in source_windows(path, exact.header)]
    files: dict[str, LatentVideo] = {}
    for stored in FORMS:
        files[stored] = encode_video(engine, path, folder / f"{stored}.vidtwin", stored=stored, weights=weights)
    for step in STEPS:
        compress(exact, out := folder / f"{step}.vidtwin", step)
        files[f"compressed, step {step:g}"] = LatentVideo.load(out)
    rows: dict[str, dict[str, Any]] = {}
    for name, video in files.items():
        score = psnr(decoded(engine, video), source)
        best = rows.get("float32", {"psnr": score})["psnr"]
        rows[name] = {"bytes": video.path.stat().st_size, "psnr": round(score, 4), "lost": round(best - score, 4)}
        print(f"{path.name}: {name}: {rows[name]}", flush=True)
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="mini")
    parser.add_argument("videos", nargs="+", type=Path)
    options = parser.parse_args(arguments)
    model = load_weights(options.weights)
    engine, weights, found = Engine(model), Identity.of(model, options.weights), {}
    for path in options.videos:
        with tempfile.TemporaryDirectory() as folder:
            found[path.name] = {"source_bytes": path.stat().st_size, "forms": forms(engine, path, weights, Path(folder))}
    write_results("latent-forms", {"setting": setting("cpu", arguments), "weights": options.weights, "videos": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
