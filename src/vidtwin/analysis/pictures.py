"""Pictures of what each latent holds: swaps and interpolations as frames, latents as maps. uint8 (height, width, 3) throughout.

Maps are blue where a value is negative, orange where it is positive, white at 0: a pair that all kinds of colour vision tell apart.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import Tensor

from vidtwin.analysis.codes import Clips, Codes, decode, working
from vidtwin.frames.clips import levels
from vidtwin.model.latents import Latents
from vidtwin.model.vidtwin import VidTwin

GAP = 4  # white pixels between tiles
MAPS_IN_ROW = 16
BLUE, WHITE, ORANGE = (np.array(colour, dtype=float) for colour in ((0, 90, 181), (255, 255, 255), (220, 100, 0)))


def swap_matrix(model: VidTwin, clips: Clips, codes: Codes, frame: int | None = None) -> np.ndarray:
    """Row i, column j: decode(S of clip i, D of clip j). Above and to the left the clips themselves; the corner is white.

    Args:
        model, clips, codes: N clips, and their latents by the model; a picture of N + 1 by N + 1 tiles.
        frame: which of the clip's frames is shown; None the middle one.
    """
    pictures = _shower(frame)
    count, z = len(codes), codes.latents
    originals = [pictures(clips[i][None])[0] for i in range(count)]
    rows = [[np.full_like(originals[0], 255), *originals]]
    with working(model):
        for i, original in enumerate(originals):
            S = z.structure[i : i + 1]
            rows.append([original, *(pictures(decode(model, replace(z[j : j + 1], structure=S)))[0] for j in range(count))])
    return tiles(rows)


def interpolation_strips(model: VidTwin, codes: Codes, a: int, b: int, steps: int = 7, frame: int | None = None) -> np.ndarray:
    """From clip a to clip b in `steps` columns: first row both latents, second Structure alone, third Dynamics alone.

    The latent that stands still is a's. Arguments: as `swap_matrix`; a, b are places in `codes`.

    Raises:
        ValueError: fewer than 2 steps.
    """
    if steps < 2:
        raise ValueError(f"{steps} steps: give at least 2, the two clips themselves")
    pictures = _shower(frame)
    start, stop = codes.latents[a : a + 1], codes.latents[b : b + 1]
    rows: list[list[np.ndarray]] = [[], [], []]
    with working(model):
        for step in range(steps):
            between = start.lerp(stop, step / (steps - 1))
            choices = between, replace(start, structure=between.structure), replace(between, structure=start.structure)
            for row, z in zip(rows, choices, strict=True):
                row.append(pictures(decode(model, z))[0])
    return tiles(rows)


def structure_maps(latents: Latents, index: int = 0, scale: int = 8) -> np.ndarray:
    """z_S of a clip: rows of 16 channels, one query after the other, each map (h_S, w_S) with pixels of `scale`."""
    z = latents.structure[index].float().cpu().numpy()  # (d_S, n_q, h_S, w_S)
    most, columns = _range(z), min(MAPS_IN_ROW, len(z))
    rows = []
    for query in z.swapaxes(0, 1):
        maps = [_enlarged(signed(image, most), scale) for image in query]
        maps += [np.full_like(maps[0], 255)] * (-len(maps) % columns)
        rows += [maps[start : start + columns] for start in range(0, len(maps), columns)]
    return tiles(rows)


def dynamics_maps(latents: Latents, index: int = 0, scale: int = 8) -> np.ndarray:
    """z_D of a clip: a column for each channel, over it the x-t plane (f, w_D), under it the y-t plane (f, h_D); time runs down.

    Raises:
        ValueError: a model without Dynamics.
    """
    if latents.dynamics_x.shape[1] == 0:
        raise ValueError("these latents have no Dynamics to show; use a model with it")
    planes = [half[index].float().cpu().numpy() for half in (latents.dynamics_x, latents.dynamics_y)]  # (d_D, f, w_D), ...
    most = _range(np.concatenate([plane.ravel() for plane in planes]))
    return tiles([[_enlarged(signed(image, most), scale) for image in row] for row in planes])


def signed(values: np.ndarray, most: float) -> np.ndarray:
    """(h, w) -> blue at -most and below, white at 0, orange at most and above."""
    share = (values / most).clip(-1, 1)[..., None] if most > 0 else np.zeros((*values.shape, 1))
    colour = WHITE + np.abs(share) * (np.where(share < 0, BLUE, ORANGE) - WHITE)
    return colour.round().astype(np.uint8)


def tiles(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Pictures in rows and columns with white gaps; in a row all of one height, in a column all of one width."""
    lines = []
    for row in rows:
        gap = np.full((len(row[0]), GAP, 3), 255, dtype=np.uint8)
        line = np.concatenate([part for picture in row for part in (gap, picture)][1:], axis=1)
        lines += [np.full((GAP, line.shape[1], 3), 255, dtype=np.uint8), line]
    return np.concatenate(lines[1:])


def _shower(frame: int | None) -> Callable[[Tensor], list[np.ndarray]]:
    """Clips (B, 3, F, H, W) in [-1, 1] -> one frame of each, uint8 (H, W, 3)."""

    def pictures(clips: Tensor) -> list[np.ndarray]:
        shown = clips[:, :, clips.shape[2] // 2 if frame is None else frame]
        return list(levels(shown).permute(0, 2, 3, 1).numpy())

    return pictures


def _range(values: np.ndarray) -> float:
    """The 99th percentile of the absolute values, or, if that is 0, the largest."""
    return float(np.quantile(np.abs(values), 0.99)) or float(np.abs(values).max())


def _enlarged(picture: np.ndarray, scale: int) -> np.ndarray:
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)
