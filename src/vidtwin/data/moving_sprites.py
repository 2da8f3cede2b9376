"""A data set of classes whose truth can be read off a clip: a sprite of one of 4 colours, going one of 8 ways.

It is for judging generators: `read_sprite` says where the sprite of any clip is, how it goes and what colour it has, without a
network. Units are those of `sprites.Factors`: sides of the frame, x to the right, y down.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from torch import Tensor

from vidtwin.data.sprites import BACKGROUNDS, SHAPES, Factors, SpriteClips
from vidtwin.files import atomic_output
from vidtwin.frames.clips import levels
from vidtwin.video.write.encoding import Encoding
from vidtwin.video.write.writer import VideoWriter

DIRECTIONS = ("east", "southeast", "south", "southwest", "west", "northwest", "north", "northeast")
COLOURS = ("red", "lime", "cyan", "violet")  # hues 0, 1/4, 1/2, 3/4
CLASSES = tuple(f"{colour}-{direction}" for colour in COLOURS for direction in DIRECTIONS)
WINDOW = 16  # frames, which velocities are counted over
SPEED = (0.24, 0.32)  # sides in a window
SIZE = (0.12, 0.16)
SATURATED = 0.35  # of a pixel, in [0, 1], above which it belongs to the sprite
SMALLEST = 0.004  # share of the frame that a sprite covers
STRAYING = 0.03  # sides (root mean square) off its straight way


def class_factors(label: int, count: int, frames: int = 2 * WINDOW, seed: int = 0) -> Factors:
    """`count` sprites of class number `label`, for clips of `frames` frames; a function of all four.

    Drawn uniformly and independently: size in SIZE, speed in SPEED a window, the middle of the way in [0.46, 0.54] both ways, and
    the background; squares that neither turn nor flicker.
    """
    rng = np.random.default_rng([seed, label])
    angle = 2 * np.pi * (label % len(DIRECTIONS)) / len(DIRECTIONS)
    speed = rng.uniform(*SPEED, count) * frames / WINDOW
    return Factors(
        shape=np.full(count, SHAPES.index("square")),
        colour=np.full(count, label // len(DIRECTIONS) / len(COLOURS)),
        size=rng.uniform(*SIZE, count),
        background=rng.integers(len(BACKGROUNDS), size=count),
        position=rng.uniform(0.46, 0.54, (count, 2)),
        velocity=speed[:, None] * np.array([np.cos(angle), np.sin(angle)]),
        spin=np.zeros(count),
        flicker=np.zeros(count),
    )


def write_moving_sprites(
    out: str | Path,
    per_class: int,
    frames: int = 2 * WINDOW,
    size: int = 64,
    seed: int = 0,
    progress: Callable[[int], object] = lambda done: None,
) -> Path:
    """Write `per_class` videos of each class, `size` pixels square at 8 frames a second: out/CLASS/CLASS-0000.mp4, ...

    Returns out/sprites.csv, a source for `vidtwin encode-dataset` and `vidtwin train`: columns videos, label, and the factors.
    `progress` is called with the number of videos written by each call.

    Raises:
        OSError: `out` cannot be written. ValueError: no videos, or frames without pixels.
    """
    if per_class < 1:
        raise ValueError(f"{per_class} videos of each class: give at least 1")
    out = Path(out)
    rows = []
    for label, name in enumerate(CLASSES):
        (out / name).mkdir(parents=True, exist_ok=True)
        factors = class_factors(label, per_class, frames, seed)
        clips = SpriteClips(factors, frames, size, size)
        for number in range(per_class):
            path = out / name / f"{name}-{number:04}.mp4"
            pixels = levels(clips[number]).permute(1, 2, 3, 0).numpy()
            with VideoWriter(path, Fraction(8), (size, size), Encoding(crf=8)) as writer:
                writer.write(np.ascontiguousarray(pixels))
            (x, y), (vx, vy) = factors.position[number], factors.velocity[number] * WINDOW / frames
            values = (x, y, vx, vy, factors.colour[number], factors.size[number])
            background = BACKGROUNDS[factors.background[number]]
            rows.append([path.relative_to(out), name, *(f"{value:.6f}" for value in values), background])
            progress(1)
    with atomic_output(out / "sprites.csv") as partial, partial.open("w", newline="") as file:
        writing = csv.writer(file)
        writing.writerow(["videos", "label", "x", "y", "vx", "vy", "hue", "sprite_size", "background"])
        writing.writerows(rows)
    return out / "sprites.csv"


@dataclass(frozen=True)
class Reading:
    """What is seen in a clip.

    Attributes:
        position: of the sprite at the clip's middle; velocity: sides per 16 frames; of a straight line through its centres.
        hue: turns, in [0, 1). size: half of its side. straying: root mean square of its centres off that line, in sides.
        visible: smallest share of the frame that it covers in a frame, over its mean share.
    """

    position: tuple[float, float]
    velocity: tuple[float, float]
    hue: float
    size: float
    straying: float
    visible: float

    @property
    def speed(self) -> float:
        return float(np.hypot(*self.velocity))

    @property
    def label(self) -> str | None:
        """The class, by the nearest direction and colour; None if there is no sprite that goes straight on through all frames."""
        if not (4 * self.size**2 >= SMALLEST and self.straying <= STRAYING and self.visible >= 0.4 and self.speed > SPEED[0] / 2):
            return None
        turns = np.arctan2(self.velocity[1], self.velocity[0]) / (2 * np.pi)
        direction = DIRECTIONS[round(turns * len(DIRECTIONS)) % len(DIRECTIONS)]
        return f"{COLOURS[round(self.hue * len(COLOURS)) % len(COLOURS)]}-{direction}"


def read_sprite(clip: Tensor) -> Reading:
    """Measure the sprite of a clip (3, F, H, W) in [-1, 1], by its saturated pixels.

    Its centre is their mean place, weighted by saturation; its hue that of their mean colour. Without any, everything is 0.
    """
    x = (clip.detach().cpu().double().clamp(-1, 1).numpy() + 1) / 2
    _, frames, height, width = x.shape
    weight = (x.max(0) - x.min(0) - SATURATED).clip(0)
    mass = weight.sum((1, 2))
    if not mass.all():
        return Reading((0.0, 0.0), (0.0, 0.0), 0.0, 0.0, 0.0, 0.0)
    centres = np.stack(
        [
            (weight.sum(1) * (np.arange(width) + 0.5) / width).sum(1) / mass,
            (weight.sum(2) * (np.arange(height) + 0.5) / height).sum(1) / mass,
        ],
        axis=1,
    )
    tau = (np.arange(frames) - (frames - 1) / 2) / WINDOW
    line = np.stack([np.ones(frames), tau], axis=1)
    (position, velocity), *_ = np.linalg.lstsq(line, centres, rcond=None)
    straying = np.sqrt(np.square(centres - line @ np.stack([position, velocity])).sum(1).mean())
    red, green, blue = (x * weight).sum((1, 2, 3)) / mass.sum()
    hue = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue) / (2 * np.pi) % 1
    share = (weight > 0).mean((1, 2))
    half = np.sqrt(share.mean()) / 2
    (x_0, y_0), (x_1, y_1) = position.tolist(), velocity.tolist()
    return Reading((x_0, y_0), (x_1, y_1), float(hue), float(half), float(straying), float(share.min() / share.mean()))
