"""What onnxruntime does for speed, and what int8 costs: torch, ONNX in float32 and ONNX in int8, in one run.

    python -m benchmarks.onnx [--weights tiny] [--repeats 20]

Seconds are the median of a call on one clip; PSNR is of whole clips of the sample video against torch in float32. Writes
benchmarks/results/onnx-WEIGHTS.json.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.setting import setting, write_results
from vidtwin import VidTwin
from vidtwin.cli.options import SAMPLE
from vidtwin.frames.clips import Geometry, to_clip
from vidtwin.inference.engine import Engine
from vidtwin.metrics import clip_psnr
from vidtwin.onnx.export import export_onnx
from vidtwin.onnx.model import OnnxModel
from vidtwin.video import read_video


def sample_clip(model: VidTwin) -> Tensor:
    """The first clip of the sample video, (1, 3, F, H, W)."""
    video = read_video(SAMPLE, stop=model.config.frames)
    frames = np.asarray(video.frames)
    return to_clip(frames, Geometry.plan("crop", frames.shape[1:3], (model.config.height, model.config.width)))[None]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args(arguments)
    model = VidTwin.from_pretrained(options.weights).eval()
    clip = sample_clip(model)
    with tempfile.TemporaryDirectory() as folder:
        engines = {"torch float32": Engine(model)}
        kinds: dict[str, Literal["int8"] | None] = {"onnx float32": None, "onnx int8": "int8"}
        for name, quantize in kinds.items():
            export_onnx(model, Path(folder, name), quantize=quantize)
            engines[name] = Engine(OnnxModel(Path(folder, name)), check_db=0)
        times: dict[str, dict[str, list[float]]] = {name: {"encode": [], "decode": []} for name in engines}
        clips: dict[str, Tensor] = {}
        for name, engine in engines.items():  # one after the other: threads of one wait busily for a while after their work
            for _ in range(options.repeats + 1):
                begun = time.perf_counter()
                latents = engine.encode(1, lambda index: clip[index]).mean
                encoded = time.perf_counter()
                (clips[name],) = engine.decode(latents)
                times[name]["encode"].append(encoded - begun)
                times[name]["decode"].append(time.perf_counter() - encoded)
        rows: dict[str, Any] = {}
        for name, steps in times.items():
            rows[name] = {f"{step}_seconds": round(statistics.median(taken[1:]), 5) for step, taken in steps.items()}
            rows[name]["psnr_to_torch"] = (
                None if name == "torch float32" else round(clip_psnr(clips[name], clips["torch float32"]), 2)
            )
            rows[name]["psnr_to_source"] = round(clip_psnr(clips[name], clip[0]), 2)
            print(f"{name:14}", "  ".join(f"{key} {value}" for key, value in rows[name].items()))
    threads = torch.get_num_threads()
    write_results(f"onnx-{options.weights}", {"setting": setting("cpu", arguments), "threads": threads, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
