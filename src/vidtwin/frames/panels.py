"""Clips side by side under their names, as frames to write or as one picture."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LABEL_HEIGHT = 20  # pixels, even


def side_by_side(panels: dict[str, np.ndarray]) -> np.ndarray:
    """Label -> frames uint8 (F, H, W, 3), all of one shape, to frames (F, H + 20, n W, 3) with the labels above."""
    row = np.concatenate(list(panels.values()), axis=2)
    width = next(iter(panels.values())).shape[2]
    strip = np.concatenate([label_strip(label, width) for label in panels], axis=1)
    return np.concatenate([np.repeat(strip[None], len(row), axis=0), row], axis=1)


@lru_cache
def label_strip(label: str, width: int) -> np.ndarray:
    """White text on black, uint8 (20, width, 3)."""
    image = Image.new("RGB", (width, LABEL_HEIGHT))
    draw = ImageDraw.Draw(image)
    draw.text((width / 2, LABEL_HEIGHT / 2), label, fill="white", anchor="mm", font=ImageFont.load_default(12))
    return np.asarray(image)
