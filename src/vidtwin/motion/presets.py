"""How known users of VidTwin's Dynamics choose frames, resize and lay out, as options of `MotionExtractor`.

`crop-round` and `squash-plain` are the resizes that only they have.
"""

import torch.nn.functional as functional
from torch import Tensor

from vidtwin.frames.clips import POLICIES, Geometry, fit

RESIZES = (*POLICIES, "crop-round", "squash-plain")
PRESETS = {
    "cowvla": {"layout": "cowvla", "frames": "floor", "resize": "crop"},
    "smolw": {"layout": "cowvla", "frames": "floor", "resize": "crop-round"},
    "dialga": {"layout": "xy", "frames": "round", "resize": "squash-plain"},
}


def plan(resize: str, source: tuple[int, int], model: tuple[int, int]) -> Geometry:
    """`Geometry.plan` of one of RESIZES; sizes are (height, width).

    "crop-round": the shorter side to the model's, the longer one to the nearest pixel, halves to even, and never below the model's;
    offsets rounded down: 640x480 -> 299x224, from column 37 on.
    """
    geometry = Geometry.plan(resize.split("-")[0], source, model)
    if resize != "crop-round":
        return geometry
    (H, W), (h, w) = source, model
    resized = (h, max(w, round(W * h / H))) if H <= W else (max(h, round(H * w / W)), w)
    return Geometry("crop", source, model, resized, ((resized[0] - h) // 2, (resized[1] - w) // 2))


def resized(pixels: Tensor, resize: str, geometry: Geometry) -> Tensor:
    """float32 frame (3, H, W) in [0, 1] -> (3, h, w) in [-1, 1]; "squash-plain": bilinear without antialias."""
    if resize != "squash-plain":
        return fit(pixels, geometry)
    return functional.interpolate(pixels[None] * 2 - 1, size=geometry.model, mode="bilinear", align_corners=False)[0]
