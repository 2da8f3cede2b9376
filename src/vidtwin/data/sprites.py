"""Clips whose factors are known exactly: a sprite that moves, turns and flickers over a background.

Positions are in sides of the frame (x to the right, y down), sizes in its shorter side, velocity and spin per clip, so that the
same factors make clips of any size and length. At the clip's middle every sprite is at its position and not turned.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SHAPES = ("square", "triangle", "bar", "half disc")
BACKGROUNDS = ("plain", "gradient", "stripes", "checks")
STATIC = ("shape", "colour", "size", "background")
DYNAMIC = ("position", "velocity", "spin", "flicker")
CATEGORICAL = ("shape", "background")
FLICKER_PERIOD = 4  # frames


@dataclass(frozen=True, eq=False)
class Factors:
    """What N sprites are, drawn independently of each other.

    Attributes:
        shape, background: int (N,), numbers in SHAPES and BACKGROUNDS.
        colour: float (N,), hue in [0, 1) of full saturation.
        size: float (N,), half of the side, or the radius, in shorter sides of the frame.
        position, velocity: float (N, 2), x and y; sides, and sides per clip. The sprite stays inside the frame.
        spin: float (N,), turns per clip, clockwise if positive.
        flicker: float (N,), opacity lost when it is dimmest; every fourth frame from the first has it whole.
    """

    shape: np.ndarray
    colour: np.ndarray
    size: np.ndarray
    background: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    spin: np.ndarray
    flicker: np.ndarray

    def __len__(self) -> int:
        return len(self.size)

    def targets(self) -> dict[str, np.ndarray]:
        """What a probe predicts, float64 (N, q): categories as ones and zeros, the hue as cosine and sine, others as they are."""
        values = {name: getattr(self, name).reshape(len(self), -1).astype(float) for name in STATIC + DYNAMIC}
        values["shape"], values["background"] = np.eye(len(SHAPES))[self.shape], np.eye(len(BACKGROUNDS))[self.background]
        angle = 2 * np.pi * self.colour
        values["colour"] = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return values


def draw_factors(count: int, seed: int = 0) -> Factors:
    """Factors of `count` sprites, independent and uniform; a function of count and seed."""
    rng = np.random.default_rng(seed)
    return Factors(
        shape=rng.integers(len(SHAPES), size=count),
        colour=rng.uniform(0, 1, count),
        size=rng.uniform(0.08, 0.16, count),
        background=rng.integers(len(BACKGROUNDS), size=count),
        position=rng.uniform(0.38, 0.62, (count, 2)),
        velocity=rng.uniform(-0.4, 0.4, (count, 2)),
        spin=rng.uniform(-1, 1, count),
        flicker=rng.uniform(0, 0.9, count),
    )


class SpriteClips:
    """Clips (3, F, H, W) in [-1, 1], float32, of `factors`; each is drawn when it is asked for.

    Raises:
        ValueError: frames without pixels, or no frames.
    """

    def __init__(self, factors: Factors, frames: int, height: int, width: int):
        if min(frames, height, width) < 1:
            raise ValueError(f"sprites of {frames} frames of {height}x{width}: each must be at least 1")
        self.factors, self.shape = factors, (frames, height, width)

    def __len__(self) -> int:
        return len(self.factors)

    def __getitem__(self, index: int, /) -> Tensor:
        one = self.factors
        frames, height, width = self.shape
        opacity = self.coverage(index)
        dim = (1 - np.cos(2 * np.pi * np.arange(frames) / FLICKER_PERIOD)) / 2  # 0, 1/2, 1, 1/2, ...
        opacity *= (1 - one.flicker[index] * dim)[:, None, None]
        ground = background(BACKGROUNDS[one.background[index]], height, width)
        clip = ground + opacity * (hue(one.colour[index])[:, None, None, None] - ground)
        return torch.from_numpy(clip.astype(np.float32))

    def coverage(self, index: int) -> np.ndarray:
        """The share of each pixel that the sprite covers, to within its edge's curvature: float64 (F, H, W)."""
        one = self.factors
        frames, height, width = self.shape
        tau = (np.arange(frames) - (frames - 1) / 2) / frames
        centres = (one.position[index] + tau[:, None] * one.velocity[index]) * (width, height)  # (F, 2) pixels
        angles = 2 * np.pi * one.spin[index] * tau
        radius = one.size[index] * min(height, width)
        x = (np.arange(width) + 0.5 - centres[:, :1])[:, None, :] / radius
        y = (np.arange(height) + 0.5 - centres[:, 1:])[:, :, None] / radius
        cos, sin = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
        outside = distance(SHAPES[one.shape[index]], cos * x + sin * y, cos * y - sin * x)
        covered: np.ndarray = (0.5 - outside * radius).clip(0, 1)
        return covered


def distance(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How far points (u, v) are outside a shape of radius 1, along the nearest side's normal; negative inside."""
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.8
    if shape == "bar":
        return np.maximum(np.abs(u) - 1, np.abs(v) - 0.35)
    if shape == "half disc":
        return np.maximum(np.hypot(u, v) - 1, v)
    slant = np.sqrt(0.75)
    return np.maximum(np.maximum(slant * u - v / 2, -slant * u - v / 2), v) - 0.5  # triangle


def hue(turns: float) -> np.ndarray:
    """A saturated colour, RGB in [-1, 1]: red at 0, green at 1/3, blue at 2/3; float64 (3,)."""
    away = np.abs((turns - np.array([0, 1, 2]) / 3 + 0.5) % 1 - 0.5)  # turns from each primary, at most 1/2
    return (2 - 6 * away).clip(0, 1) * 2 - 1


def background(kind: str, height: int, width: int) -> np.ndarray:
    """Dark grey, alike in colours and frames: float64 (1, 1, H, W) in [-0.8, -0.2]."""
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    waves = np.sin(12 * np.pi * y)[:, None], np.sin(12 * np.pi * x)[None]
    patterns = {"plain": np.zeros((1, 1)), "gradient": 2 * x[None] - 1, "stripes": waves[0], "checks": waves[0] * waves[1]}
    return np.broadcast_to(-0.5 + 0.3 * patterns[kind], (1, 1, height, width))
