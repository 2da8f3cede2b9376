"""The clips that a visitor may choose instead of giving a video: files of the package, and one that it draws."""

import base64
import io
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from vidtwin.data.sprites import SHAPES, Factors, SpriteClips
from vidtwin.frames.clips import Geometry, from_clip, levels, to_clip
from vidtwin.video import read_video
from vidtwin.video.write.encoding import Encoding
from vidtwin.video.write.writer import VideoWriter

ASSETS = Path(__file__).parents[1] / "assets"
FILES = {"Robot arm": "robot.mp4", "Butterfly": "butterfly.mp4", "Walking": "sample.mp4"}  # attributed in ASSETS
DRAWN = "Drawn bar"
NAMES = (*FILES, DRAWN)
EXAMPLE = NAMES[0]
FRAMES, SIDE, RATE = 64, 224, 25  # of the drawn one
SMALL = (72, 128)  # height and width of a small picture


def place_clips(folder: Path) -> dict[str, Path]:
    """Write all clips to a folder; their files by name."""
    folder.mkdir(parents=True)
    paths = {name: Path(shutil.copyfile(ASSETS / file, folder / file)) for name, file in FILES.items()}
    return paths | {DRAWN: draw(folder / "drawn.mp4")}


def draw(path: Path) -> Path:
    """Write a bar that turns as it crosses a chequered ground."""
    one = Factors(
        shape=np.array([SHAPES.index("bar")]),
        colour=np.array([0.08]),
        size=np.array([0.24]),
        background=np.array([3]),
        position=np.array([[0.5, 0.5]]),
        velocity=np.array([[0.5, 0.2]]),
        spin=np.array([1.0]),
        flicker=np.array([0.0]),
    )
    with VideoWriter(path, Fraction(RATE), (SIDE, SIDE), Encoding(crf=12)) as writer:
        writer.write(np.ascontiguousarray(levels(SpriteClips(one, FRAMES, SIDE, SIDE)[0]).permute(1, 2, 3, 0).numpy()))
    return path


def small_picture(path: Path) -> str:
    """The twentieth frame, cut to 16:9, as a data URL."""
    frames = read_video(path, 19, 20).frames
    geometry = Geometry.plan("crop", frames.shape[1:3], SMALL)
    file = io.BytesIO()
    Image.fromarray(from_clip(to_clip(frames, geometry), geometry)[0]).save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
