"""Edit how a video moves, in its latents.

Within a shot of a clip (frames 0..n-1, c = (n - 1) / 2 its middle), frame t of the result is what the clip is at another time s(t):

    motion k:  s(t) = c + k (t - c)                  slow N:  s(t) = (t + 1/2) / N - 1/2,  t = 0..N n - 1
    z_D'(t) = sum_t' R[t, t'] z_D(t')                u_S'(t) = sum_t' R[t, t'] u_S(t')

Between two frames R interpolates linearly. Before the first and after the last it goes on from the value at that end by p(s) -
p(end), p the mean of the line and the parabola that fit the clip best: the line alone is too slow, the parabola makes ghosts. So
motion 1 changes nothing and motion 0 holds the clip's middle.

Dynamics has an axis of time and is edited as a latent. Structure has none: what it says of each frame is there only in its feature
u_S, which is edited as it is decoded (`Window.times`). With part="dynamics" Structure stays as it is.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, pairwise

import torch
from torch import Tensor

from vidtwin.inference.reconstruct import swap
from vidtwin.latents.stream import LatentStream, Window
from vidtwin.model.latents import Latents

PARTS = ("both", "dynamics")
MOST_MOTION, SLOWEST = 4, 16


def time_matrix(times: Tensor, frames: int) -> Tensor:
    """R (len(times), frames), float32: what a clip is at times in frames, 0 its first, from its frames. Each row sums to 1.

    Example: time 0.5 of 3 frames is [1/2, 1/2, 0]; time 3 is half way from [-1/2, 0, 3/2], on a line, to [1, -3, 3], on a parabola.
    """
    times, end = times.double(), frames - 1
    inside = times.clamp(0, end)
    low = inside.floor().clamp(max=max(0, end - 1)).long()
    high = (low + 1).clamp(max=end)
    rows, weight = torch.arange(len(times)), inside - low
    matrix = torch.zeros(len(times), frames, dtype=torch.float64)
    matrix[rows, low] += 1 - weight
    matrix[rows, high] += weight

    for degree in (1, 2):
        powers = torch.arange(min(degree, end) + 1)
        at_frames, at_times, at_ends = (
            ((t - end / 2) / frames)[:, None] ** powers for t in (torch.arange(frames, dtype=torch.float64), times, inside)
        )
        matrix += (at_times - at_ends) @ torch.linalg.pinv(at_frames) / 2  # frames -> coefficients -> how far beyond the end
    return matrix.float()


def edit(
    stream: LatentStream, motion: float = 1.0, slowed: int = 1, part: str = "both", dynamics: LatentStream | None = None
) -> LatentStream:
    """All that `vidtwin edit` does: `move`, then `slow`. With `dynamics` it is the Dynamics of that video that moves.

    Raises ValueError as `move`, `slow` and, with `dynamics`, `inference.reconstruct.swap`.
    """
    moved = move(stream, motion, part) if dynamics is None else swap(stream, move(dynamics, motion, "dynamics"))
    return slow(moved, slowed, part)


def move(stream: LatentStream, motion: float, part: str = "both") -> LatentStream:
    """A video that moves `motion` times as fast about the middle of each clip; its length and timing stay.

    0 freezes each clip, 1 is the stream as it is. Clips are windows of the model, cut at shot cuts, each for itself: where a scene
    goes on through several, the picture jumps from one to the next unless `motion` is 1; windows that share frames fade.

    Raises:
        ValueError: motion outside 0 to 4, or an unknown part.
    """
    _check_part(part)
    if not 0 <= motion <= MOST_MOTION:
        raise ValueError(f"motion={motion:g}: give 0 (frozen) to {MOST_MOTION}; 1 leaves it as it is")
    if motion == 1:
        return stream

    def times(frames: int) -> Tensor:
        middle = (frames - 1) / 2
        return middle + motion * (torch.arange(frames) - middle)

    return replace(stream, windows=(_edited(window, _matrix(window, times), part) for window in stream.windows))


def slow(stream: LatentStream, factor: int, part: str = "both") -> LatentStream:
    """A video that lasts `factor` times as long, with as many times the frames at the same rate.

    Each window becomes `factor` windows, with its Structure and a stretch of its time.

    Raises:
        ValueError: a factor that is not a whole number from 1 to 16, an unknown part, or windows that share frames.
    """
    _check_part(part)
    if factor != int(factor) or not 1 <= factor <= SLOWEST:
        raise ValueError(f"slow={factor}: give a whole number from 1 to {SLOWEST}")
    if stream.header.overlap:
        raise ValueError(f"overlap={stream.header.overlap}: windows that are slowed cannot share frames; use overlap=0")
    if factor == 1:
        return stream
    return replace(stream, windows=_slowed(stream, factor, part), frames=None if stream.frames is None else factor * stream.frames)


def _slowed(stream: LatentStream, factor: int, part: str) -> Iterator[Window]:
    header, start = stream.header, None
    f = header.config.frames
    frame = max(1, round(1 / (header.fps * header.clock)))  # ticks that the last frame lasts
    for window, following in pairwise(chain(stream.windows, (None,))):
        assert window is not None
        start = window.ticks[0] if start is None else start
        after = window.ticks[-1] + frame if following is None else following.ticks[0]
        ticks = [
            factor * (tick - start) + start + step * (next_tick - tick)
            for tick, next_tick in pairwise([*window.ticks, after])
            for step in range(factor)
        ]
        cuts = [cut and step == 0 for cut in window.cuts for step in range(factor)]
        matrix = _matrix(window, lambda frames: (torch.arange(factor * frames) + 0.5) / factor - 0.5)
        pieces = -(-len(ticks) // f)
        for piece, rows in enumerate(matrix[: pieces * f].split(f)):
            shown = slice(piece * f, (piece + 1) * f)
            yield replace(
                _edited(window, rows, part),
                index=window.index * factor + piece,
                ticks=tuple(ticks[shown]),
                cuts=tuple(cuts[shown]),
                last=window.last and piece == pieces - 1,
            )


def _matrix(window: Window, times: Callable[[int], Tensor]) -> Tensor:
    """R of all shots of a window, (m f, f), where `times` gives m for each frame of a shot; after the video's end as the last."""
    f = window.latents.dynamics_x.shape[2]
    starts = [0, *(index for index, cut in enumerate(window.cuts) if cut and index > 0), len(window.cuts)]
    blocks = []
    for start, stop in pairwise(starts):
        found = time_matrix(times(stop - start), stop - start)
        blocks.append(torch.nn.functional.pad(found, (start, f - stop)))
    matrix = torch.cat(blocks)
    missing = f * (len(matrix) // len(window.cuts)) - len(matrix)
    return torch.cat([matrix, matrix[-1:].expand(missing, -1)])


def _edited(window: Window, matrix: Tensor, part: str) -> Window:
    """A window whose frames are those of R (f, f)."""
    z = window.latents
    x, y = (torch.einsum("gf,bdfr->bdgr", matrix, latent) for latent in (z.dynamics_x, z.dynamics_y))
    before = window.times
    times = before if part == "dynamics" else matrix if before is None else matrix @ before
    return replace(window, latents=Latents(z.structure, x, y), logvar=None, times=times)


def _check_part(part: str) -> None:
    if part not in PARTS:
        raise ValueError(f"part={part!r}: choose {' or '.join(map(repr, PARTS))}")
