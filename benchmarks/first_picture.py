"""The moving picture at the top of the README: the sample clip, what the shipped weights make of it, each latent alone, an edit.

    python -m benchmarks.first_picture

Writes docs/first.webp.
"""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import vidtwin
from vidtwin.files import atomic_output
from vidtwin.frames.clips import Geometry, from_clip, to_clip
from vidtwin.video import Video

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "src" / "vidtwin" / "assets" / "sample.mp4"
OUT = ROOT / "docs" / "first.webp"
SIDE, CAPTION, COLUMNS = 224, 22, 3
EVERY = 2  # frames: half the rate, half the size


def panels(folder: Path) -> dict[str, Path]:
    """Captions and the videos below them, made in `folder`."""
    names = ("source", "mini", "tiny", "structure", "dynamics", "edit")
    videos = {name: folder / f"{name}.mp4" for name in names}
    rate = {}
    for weights in ("mini", "tiny"):
        report = vidtwin.reconstruct(SAMPLE, videos[weights], weights=weights)
        rate[weights] = f"{weights}: {report.psnr:.1f} dB"
    vidtwin.encode_video(SAMPLE, folder / "mini.vidtwin", weights="mini")
    for part in ("structure", "dynamics"):
        vidtwin.decode_video(folder / "mini.vidtwin", videos[part], only=part)
    vidtwin.edit(SAMPLE, videos["edit"], motion=0.5, weights="mini")
    return {
        "original": SAMPLE,
        rate["mini"]: videos["mini"],
        rate["tiny"]: videos["tiny"],
        "mini, Structure alone": videos["structure"],
        "mini, Dynamics alone": videos["dynamics"],
        "mini, edit --motion 0.5": videos["edit"],
    }


def as_seen(video: Video) -> np.ndarray:
    """Frames as the models are given them, (F, SIDE, SIDE, 3)."""
    geometry = Geometry.plan("crop", video.frames.shape[1:3], (SIDE, SIDE))
    return from_clip(to_clip(video.frames, geometry), geometry)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        videos = {caption: vidtwin.read_video(path) for caption, path in panels(Path(folder)).items()}
    shown = {caption: as_seen(video) for caption, video in videos.items()}
    rows = -(-len(videos) // COLUMNS)
    font = ImageFont.load_default(14)
    pictures = []
    for index in range(0, min(map(len, shown.values())), EVERY):
        picture = Image.new("RGB", (COLUMNS * SIDE, rows * (SIDE + CAPTION)), "white")
        for place, (caption, frames) in enumerate(shown.items()):
            x, y = place % COLUMNS * SIDE, place // COLUMNS * (SIDE + CAPTION)
            ImageDraw.Draw(picture).text((x + 6, y + 3), caption, "black", font)
            picture.paste(Image.fromarray(frames[index]), (x, y + CAPTION))
        pictures.append(picture)
    fps = float(next(iter(videos.values())).fps)
    with atomic_output(OUT) as partial:
        motion = {"save_all": True, "append_images": pictures[1:], "duration": round(1000 * EVERY / fps), "loop": 0}
        pictures[0].save(partial, "WEBP", quality=70, method=4, **motion)
    print(f"{OUT.name}: {len(pictures)} frames, {OUT.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
