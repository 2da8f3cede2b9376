"""Training clips as coefficients, decoded and projected once: a cache on disk, and a data set that draws clips from it.

The cache folder holds `cache.json` (what it was made from, and where each video lies), `basis.safetensors`, and two flat files,
`coefficients.bfloat16` (rows of K) and `outside.float16` (a number per row): the blocks of all frames of all videos, row-major, one
video after the other. A video can be in it several times, as `views` of different sizes and colours.

Letters: B clips, F frames, K coefficients of a block, (h, w) blocks of a frame, k coefficients of a patch, s patches of a frame.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as nnf
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from vidtwin.checked import build, read_json
from vidtwin.data.clips import Failures
from vidtwin.data.failures import FailureList
from vidtwin.data.sources import Recording
from vidtwin.files import atomic_output, in_line, locked
from vidtwin.model.checkpoint import read_tensors, refuse_differences
from vidtwin.training.patches import BasisFit, PatchBasis, block_side, to_patches
from vidtwin.training.recipe import Recipe
from vidtwin.video.read.reader import iter_frames

INDEX, BASIS, COEFFICIENTS, OUTSIDE = "cache.json", "basis.safetensors", "coefficients.bfloat16", "outside.float16"
AT_ONCE = 64  # frames
FIT_EVERY = 9  # of how many frames one is looked at for the basis


class CoefficientSample(NamedTuple):
    """A clip as coefficients (F, s, k), bfloat16; the squared error outside the subspace (F,); its number."""

    clip: Tensor
    outside: Tensor
    index: int  # type: ignore[assignment]  # in place of tuple.index
    failures: Failures = ()


class CoefficientBatch(NamedTuple):
    """Coefficients (B, F, s, k), squared errors outside (B, F), and the clips' numbers, int64 (B,)."""

    clips: Tensor
    outside: Tensor
    indices: Tensor
    failures: Failures = ()


def collate_coefficients(samples: Sequence[CoefficientSample]) -> CoefficientBatch:
    """Samples -> a batch, in their order."""
    return CoefficientBatch(
        torch.stack([sample.clip for sample in samples]),
        torch.stack([sample.outside for sample in samples]),
        torch.tensor([sample.index for sample in samples]),
    )


def cache_coefficients(
    recipe: Recipe, sources: Sequence[Recording], folder: Path, failures: FailureList, quiet: bool = True
) -> None:
    """Decode and project every view of every recording into a cache folder, unless it holds just that.

    Raises:
        ValueError: the folder holds a cache of something else, or too many recordings cannot be used.
        OSError: it cannot be written, or another run is writing it.
    """
    origin = {
        "recordings": [[recording.name, recording.start, recording.stop] for recording in sources],
        "size": [recipe.config.height, recipe.config.width],
        "block": block_side(recipe.config.patch),
        "components": recipe.coefficients,
        "views": recipe.views,
        "short_side": None if recipe.short_side is None else list(recipe.short_side),
        "colour": recipe.colour,
        "seed": recipe.seed,
    }
    if _holds(folder, origin):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if not _holds(folder, origin):
            _write_cache(recipe, sources, folder, failures, origin, quiet)


def _holds(folder: Path, origin: dict[str, Any]) -> bool:
    """Whether a folder holds the coefficients of an origin. Raises ValueError if it holds others."""
    if not (folder / INDEX).exists():
        return False
    before = read_index(folder).origin
    if differing := [key for key in origin if before.get(key) != origin[key]]:
        raise ValueError(f"{folder}: holds coefficients of other {', '.join(differing)}; choose another cache, or delete this one")
    return True


@dataclass(frozen=True)
class CachedVideo:
    """A view of a recording: its frames, the blocks of each (height, width), and the number of the first block in the cache."""

    name: str
    frames: int
    grid: tuple[int, int]
    row: int


@dataclass(frozen=True)
class CacheIndex:
    """What a cache was made of, its views, and the number of its blocks. Raises ValueError for views outside of it."""

    origin: dict[str, Any]
    videos: list[CachedVideo]
    rows: int

    def __post_init__(self) -> None:
        for video in self.videos:
            end = video.row + video.frames * video.grid[0] * video.grid[1]
            if min(video.row, video.frames, *video.grid) < 0 or end > self.rows:
                raise ValueError(f"{video.name} lies outside of {self.rows} rows")


def read_index(folder: Path) -> CacheIndex:
    """Raises ValueError for an index that `cache_coefficients` did not write."""
    try:
        return build(CacheIndex, read_json(folder / INDEX))
    except ValueError as error:
        raise ValueError(f"{folder / INDEX}: not an index of coefficients ({in_line(error, 200)}); delete the folder") from None


def _read_basis(folder: Path, side: int, count: int) -> PatchBasis:
    """Of so many components of blocks of a side. Raises ValueError for another."""
    tensors, values = read_tensors(folder / BASIS), 3 * side**2
    expected = {"mean": (values,), "vectors": (count, values), "signs": (count,)}
    refuse_differences(expected, {name: tuple(t.shape) for name, t in tensors.items()}, str(folder / BASIS), "delete the folder")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise ValueError(f"{folder / BASIS}: has NaN or infinite values; delete the folder")
    return PatchBasis(side, **tensors)


def _write_cache(
    recipe: Recipe, sources: Sequence[Recording], folder: Path, failures: FailureList, origin: dict[str, Any], quiet: bool
) -> None:
    side, rows, videos = block_side(recipe.config.patch), 0, []
    fit = BasisFit(side)
    for _, found, _ in _in_order(_Views(recipe, sources, 1, partial(_moments, side=side)), "videos for the basis", quiet):
        if found is not None:
            fit.merge(*found)
    assert recipe.coefficients is not None
    basis = fit.basis(recipe.coefficients)
    views = _Views(recipe, sources, recipe.views, partial(_projected, basis=basis))
    with open(folder / COEFFICIENTS, "wb") as coefficients, open(folder / OUTSIDE, "wb") as outside:
        for recording, found, reason in _in_order(views, "videos to coefficients", quiet):
            if found is None:
                failures.add(((recording.name, reason),))
                continue
            stored, errors = found
            stored.numpy().tofile(coefficients)
            errors.numpy().tofile(outside)
            videos.append({"name": recording.name, "frames": len(stored), "grid": list(errors.shape[1:]), "row": rows})
            rows += errors.numel()
    save_file({"mean": basis.mean, "vectors": basis.vectors, "signs": basis.signs}, folder / BASIS)
    with atomic_output(folder / INDEX) as unfinished:  # last: a folder without it is not whole
        unfinished.write_text(json.dumps({"origin": origin, "videos": videos, "rows": rows}))


class _Views(Dataset[tuple[Recording, Any, str]]):
    """Item i: recording, what `made` makes of the frames of one of its views, or None and why not."""

    def __init__(self, recipe: Recipe, sources: Sequence[Recording], views: int, made: Callable[[Iterator[Tensor]], Any]):
        self.recipe, self.sources, self.views, self.made = recipe, sources, views, made

    def __len__(self) -> int:
        return len(self.sources) * self.views

    def __getitem__(self, index: int) -> tuple[Recording, Any, str]:
        number, view = divmod(index, self.views)
        recording = self.sources[number]
        try:
            return recording, self.made(view_frames(self.recipe, recording, number, view)), ""
        except (ValueError, OSError) as error:
            return recording, None, recording.reason(error)


def _moments(parts: Iterator[Tensor], side: int) -> tuple[int, Tensor, Tensor]:
    """Of some of the first frames, what a basis is fitted to."""
    first = next(parts, None)
    if first is None:
        raise ValueError("holds no frames")
    fit = BasisFit(side)
    fit.add(first[::FIT_EVERY])
    return fit.count, fit.total, fit.products


def _projected(parts: Iterator[Tensor], basis: PatchBasis) -> tuple[Tensor, Tensor]:
    """Coefficients (n, h, w, K), as the bits of bfloat16, and squared errors outside (n, h, w), float16."""
    found = [basis.project(frames) for frames in parts]
    if not found:
        raise ValueError("holds no frames")
    return torch.cat([c.bfloat16().view(torch.int16) for c, _ in found]), torch.cat([r.half() for _, r in found])


def _in_order(views: _Views, text: str, quiet: bool) -> Iterator[tuple[Recording, Any, str]]:
    """All items, made by the recipe's worker processes."""
    loader = DataLoader(views, batch_size=None, num_workers=views.recipe.workers)
    yield from tqdm(loader, desc=text, unit="video", disable=quiet)


def view_frames(recipe: Recipe, recording: Recording, number: int, view: int) -> Iterator[Tensor]:
    """Frames of a view of a recording, some at a time: float32 (n, 3, H, W) in [-1, 1], whole blocks.

    View 0 is the recording at the model's short side. Others have a short side and a first pixel of their own, drawn from the seed,
    and the gain of each colour.
    """
    config, b = recipe.config, block_side(recipe.config.patch)
    draws = np.random.default_rng((recipe.seed, 4, number, view)).random(6)
    least = max(config.height, config.width)
    short = least
    if view and recipe.short_side is not None:
        low, high = recipe.short_side
        short = round(low * (high / low) ** draws[0])
    gains = 1 + recipe.colour * (2 * torch.from_numpy(draws[3:]).float() - 1) if view else torch.ones(3)
    batch: list[Tensor] = []
    recording.check()
    for index, frame in enumerate(iter_frames(recording.file)):
        if recording.stop is not None and index >= recording.stop:
            break
        if index < recording.start:
            continue
        batch.append(torch.from_numpy(np.ascontiguousarray(frame.image)))
        if len(batch) == AT_ONCE:
            yield _prepared(batch, short, b, draws, gains, view)
            batch = []
    if batch:
        yield _prepared(batch, short, b, draws, gains, view)


def _prepared(images: list[Tensor], short: int, b: int, draws: np.ndarray, gains: Tensor, view: int) -> Tensor:
    x = torch.stack(images).permute(0, 3, 1, 2)
    H, W = x.shape[2:]
    size = (short, max(short, round(W * short / H))) if H <= W else (max(short, round(H * short / W)), short)
    x = nnf.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
    spare = [min(b, side % b + 1 + b * (side >= short + b)) for side in size]
    top, left = (int(draw * most) if view else 0 for draw, most in zip(draws[1:3], spare, strict=True))
    height, width = (size[0] - top) // b * b, (size[1] - left) // b * b
    x = x[:, :, top : top + height, left : left + width].float() / 127.5 - 1
    return (x * gains[:, None, None]).clamp(-1, 1)


class CoefficientClips(Dataset[CoefficientSample]):
    """Random clips of a cache: item i is the `CoefficientSample` number i, for any i from 0 on, a function of the seed and i alone.

    Each round of all videos draws every one once, in an order of its own, one of its views, a start, a stride, a place on the grid
    of blocks, and whether it is mirrored, played backwards, brighter or of more contrast, as the recipe says.

    Raises:
        FileNotFoundError: the folder holds no whole cache. ValueError: it is damaged, or no video of it holds a clip.
    """

    def __init__(self, folder: Path, recipe: Recipe):
        if not (folder / INDEX).exists():
            raise FileNotFoundError(f"{folder}: no coefficients are stored there")
        stored = read_index(folder)
        self.recipe, self.config = recipe, recipe.config
        self.basis = _read_basis(folder, block_side(self.config.patch), recipe.coefficients or 0)
        self.grid = self.config.height // self.basis.side, self.config.width // self.basis.side
        self.folder, self.rows = folder, stored.rows
        for name, values in ((COEFFICIENTS, len(self.basis)), (OUTSIDE, 1)):
            if not (folder / name).is_file() or (folder / name).stat().st_size != 2 * self.rows * values:
                raise ValueError(f"{folder / name}: not as large as {INDEX} says; delete the folder")
        by_name: dict[str, list[CachedVideo]] = {}
        for video in stored.videos:
            if video.frames >= self.config.frames and all(a >= b for a, b in zip(video.grid, self.grid, strict=True)):
                by_name.setdefault(video.name, []).append(video)
        self.videos = list(by_name.values())
        if not self.videos:
            raise ValueError(f"{folder}: no video of it holds a clip of {self.config.frames} frames")
        white = torch.ones(len(self.basis.mean))
        self._white, self._mean = self.basis.vectors @ white, self.basis.vectors @ self.basis.mean
        self._open: tuple[Tensor, Tensor] | None = None
        self._order: tuple[int, np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}  # files are opened where they are read

    def __getitem__(self, index: int) -> CoefficientSample:
        round_, place = divmod(index, len(self.videos))
        if self._order is None or self._order[0] != round_:
            self._order = round_, np.random.default_rng((self.recipe.seed, 0, round_)).permutation(len(self.videos))
        draws = np.random.default_rng((self.recipe.seed, 1, index)).random(9)
        views = self.videos[self._order[1][place]]
        clip, outside = self._draw(views[int(draws[0] * len(views))], draws[1:])
        return CoefficientSample(clip, outside, index)

    def _draw(self, video: CachedVideo, draws: np.ndarray) -> tuple[Tensor, Tensor]:
        recipe, (h, w), F = self.recipe, self.grid, self.config.frames
        H, W = video.grid
        most = min(recipe.max_stride, (video.frames - 1) // max(1, F - 1))
        stride = 1 + int(draws[0] * most)
        start = int(draws[1] * (video.frames - (F - 1) * stride))
        top, left = int(draws[2] * (H - h + 1)), int(draws[3] * (W - w + 1))
        stored, errors = self._files()
        rows = slice(video.row + start * H * W, video.row + (start + (F - 1) * stride + 1) * H * W)
        box = (slice(None, None, stride), slice(top, top + h), slice(left, left + w))
        x, outside = stored[rows].view(-1, H, W, stored.shape[1])[box].float(), errors[rows].view(-1, H, W)[box].float()
        if recipe.flip and draws[4] < 0.5:
            x = x.flip(2) * self.basis.signs
        if recipe.reverse and draws[5] < 0.5:
            x, outside = x.flip(0), outside.flip(0)
        gain, offset = 1 + recipe.contrast * (2 * draws[6] - 1), recipe.brightness * (2 * draws[7] - 1)
        if gain != 1 or offset:  # of pixels: y = gain x + offset
            x, outside = gain * x + offset * self._white + (gain - 1) * self._mean, gain**2 * outside
        return to_patches(x, self.config.patch // self.basis.side).bfloat16(), outside.sum((1, 2))

    def _files(self) -> tuple[Tensor, Tensor]:
        if self._open is None:
            K = len(self.basis)
            stored = torch.from_file(str(self.folder / COEFFICIENTS), shared=False, size=self.rows * K, dtype=torch.bfloat16)
            errors = torch.from_file(str(self.folder / OUTSIDE), shared=False, size=self.rows, dtype=torch.float16)
            self._open = stored.view(-1, K), errors
        return self._open
