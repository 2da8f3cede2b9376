"""Figures of what goes wrong at windows' borders and at shot cuts (docs/limits.md), on the carried test clips.

    python -m benchmarks.failures [--weights tiny]

Mean absolute change from a frame to the next, in levels of 255, within windows and between them, of the original and of the
reconstruction, with and without frames shared; and PSNR around a shot cut inside a window. Writes results/failures-WEIGHTS.json.
"""

import argparse
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np

from benchmarks.setting import setting, write_results
from vidtwin import VidTwin
from vidtwin.inference.decode import Output
from vidtwin.inference.reconstruct import reconstruct
from vidtwin.model.loading import load_weights
from vidtwin.video import Geometry, from_clip, read_video, to_clip
from vidtwin.video.write.encoding import Encoding
from vidtwin.video.write.writer import VideoWriter

ASSETS = Path(__file__).parents[1] / "tests" / "assets"
BEE, FLOWER = ASSETS / "h264_aac.mp4", ASSETS / "h264_fullrange.mp4"
FRAMES, CUT = 48, 9


def fitted(path: Path, model: VidTwin, count: int) -> np.ndarray:
    """The first frames of a video at the model's size, uint8 (count, h, w, 3)."""
    frames = read_video(path, 0, count).frames
    geometry = Geometry.plan("crop", frames.shape[1:3], (model.config.height, model.config.width))
    return from_clip(to_clip(frames, geometry), geometry)


def rebuilt(path: Path, model: VidTwin, count: int, overlap: int = 0) -> np.ndarray:
    """The same of its reconstruction."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.mkv")
        reconstruct(model, path, out, stop=count, overlap=overlap, output=Output(Encoding("ffv1", lossless=True)))
        return read_video(out).frames


def changes(frames: np.ndarray, window: int) -> dict[str, float]:
    """Mean absolute change from frame to frame, of all, within windows and between them, in levels; and the largest."""
    steps = np.abs(np.diff(frames.astype(float), axis=0)).mean((1, 2, 3))
    between = np.arange(1, len(frames)) % window == 0
    parts = {"all": steps.mean(), "within": steps[~between].mean(), "between": steps[between].mean(), "largest": steps.max()}
    return {name: float(value) for name, value in parts.items()}


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over frames, in dB."""
    errors = np.square(a.astype(float) - b).mean((1, 2, 3))
    return float((10 * np.log10(255**2 / errors)).mean())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="tiny")
    options = parser.parse_args(arguments)
    model = load_weights(options.weights)
    f = model.config.frames
    bee = fitted(BEE, model, FRAMES)
    results = {"setting": setting("cpu", arguments), "original": changes(bee, f)}
    for overlap in (0, 4):
        frames = rebuilt(BEE, model, FRAMES, overlap)
        results[f"overlap_{overlap}"] = changes(frames, f) | {"psnr": psnr(frames, bee)}
    mixed = np.concatenate([bee[:CUT], fitted(FLOWER, model, 2 * f - CUT)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cut.mkv")
        with VideoWriter(path, Fraction(25), mixed.shape[1:3], Encoding("ffv1", lossless=True)) as writer:
            writer.write(mixed)
        frames = rebuilt(path, model, 2 * f)
    parts = {"before": slice(0, CUT), "after": slice(CUT, f), "next_window": slice(f, 2 * f)}
    results["cut"] = {name: psnr(frames[part], mixed[part]) for name, part in parts.items()}
    write_results(f"failures-{Path(options.weights).name}", results)
    print({name: value for name, value in results.items() if name != "setting"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
