"""Figures of what goes wrong at windows' borders and at shot cuts (docs/limits.md), on the carried test clips.

    python -m benchmarks.failures [--weights tiny] [--pictures docs]

Mean absolute change from a frame to the next, in levels of 255, within windows and between them, of the original and of the
reconstruction, with and without frames shared; and PSNR around a shot cut inside a window. Writes results/failures-WEIGHTS.json,
and the pictures of that page, limits-panels.png, limits-motion.png and limits-cut.png, into a folder.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.setting import setting, write_results
from vidtwin import VidTwin
from vidtwin.inference.decode import Output
from vidtwin.inference.reconstruct import reconstruct
from vidtwin.model.loading import load_weights
from vidtwin.video import Geometry, from_clip, read_video, to_clip
from vidtwin.video.write.encoding import Encoding
from vidtwin.video.write.writer import VideoWriter

ASSETS = Path(__file__).parents[1] / "tests" / "assets"
BEE, FLOWER, ROBOT = (ASSETS / name for name in ("h264_aac.mp4", "h264_fullrange.mp4", "robot_droid.mp4"))
FRAMES, CUT = 48, 9
COLOURS = 224  # of a picture


def fitted(path: Path, model: VidTwin, count: int) -> np.ndarray:
    """The first frames of a video at the model's size, uint8 (count, h, w, 3)."""
    frames = read_video(path, 0, count).frames
    geometry = Geometry.plan("crop", frames.shape[1:3], (model.config.height, model.config.width))
    return from_clip(to_clip(frames, geometry), geometry)


def rebuilt(path: Path, model: VidTwin, count: int, overlap: int = 0, panels: bool = False) -> np.ndarray:
    """The same of its reconstruction; with `panels` original, reconstruction, Structure alone and Dynamics alone side by side."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.mkv")
        lossless = Output(Encoding("ffv1", lossless=True))
        reconstruct(model, path, out, stop=count, overlap=overlap, panels=panels, score=False, output=lossless)
        return read_video(out).frames


def draw(path: Path, rows: Iterable[Iterable[np.ndarray]]) -> None:
    """Pictures (h, w, 3) in rows."""
    picture = Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))
    picture.quantize(COLOURS).save(path, optimize=True)


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
    parser.add_argument("--pictures", type=Path, help="a folder for the pictures")
    options = parser.parse_args(arguments)
    model = load_weights(options.weights)
    f = model.config.frames
    bee = fitted(BEE, model, FRAMES)
    results = {"setting": setting("cpu", arguments), "original": changes(bee, f)}
    for overlap in (4, 0):
        frames = rebuilt(BEE, model, FRAMES, overlap)
        results[f"overlap_{overlap}"] = changes(frames, f) | {"psnr": psnr(frames, bee)}
    if options.pictures:
        wide = rebuilt(BEE, model, 21, panels=True)[20], rebuilt(ROBOT, model, 11, panels=True)[10]
        draw(options.pictures / "limits-panels.png", [[one] for one in wide])
        shown = [0, 5, 10, 15, 16, 21]
        draw(options.pictures / "limits-motion.png", [bee[shown, ::2, ::2], frames[shown, ::2, ::2]])
    mixed = np.concatenate([bee[:CUT], fitted(FLOWER, model, 2 * f - CUT)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cut.mkv")
        with VideoWriter(path, Fraction(25), mixed.shape[1:3], Encoding("ffv1", lossless=True)) as writer:
            writer.write(mixed)
        frames = rebuilt(path, model, 2 * f)
    if options.pictures:
        shown = [4, 8, 9, 12, 16, 20]
        draw(options.pictures / "limits-cut.png", [mixed[shown, ::2, ::2], frames[shown, ::2, ::2]])
    parts = {"before": slice(0, CUT), "after": slice(CUT, f), "next_window": slice(f, 2 * f)}
    results["cut"] = {name: psnr(frames[part], mixed[part]) for name, part in parts.items()}
    write_results(f"failures-{Path(options.weights).name}", results)
    print({name: value for name, value in results.items() if name != "setting"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
