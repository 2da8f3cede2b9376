"""The latent file, `X.vidtwin`, that decodes without its source.

A finished file is a safetensors file (`structure`, `dynamics_x`, `dynamics_y`, their `_logvar` if asked for, in float16 or float32,
`ticks`, `cuts`, and a JSON header in its metadata). While it is being written it is a growing file of equal records,
`X.partial.vidtwin`, a record a window, which `LatentVideo.load` reads as well, and from which writing goes on after it was stopped.
`compress` makes of either the compressed form (`compressed.py`), far smaller, whose values are rounded.

Letters: N windows, T tiles of a frame; f frames of a window.
"""

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import chain
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vidtwin.checked import parse_json
from vidtwin.files import beside, check_writable, html_table, in_line, plural
from vidtwin.latents import bins, compressed, entropy, records
from vidtwin.latents.compressed import Compressed, CompressedSize
from vidtwin.latents.entropy import Prior
from vidtwin.latents.stream import Header, LatentStream, Window, first_window, latent_names
from vidtwin.model.latents import NAMES, Latents

SUFFIX, KEY = ".vidtwin", "vidtwin"
ANOTHER = "encode the video again"


class LatentVideo:
    """A latent file, finished or still growing. Windows are read from the disk when they are asked for.

    Attributes:
        header: what all windows share. frames: how many decode from it.
        ticks: timestamp of each frame in units of header.clock, int64 (frames,). cuts: frames that begin a new shot.
        complete: False for a file that is still being written, or whose writing was stopped.
        size, coder: what a file of the compressed form takes, and what rounds its latents; None for the other forms.
    """

    def __init__(self, path: str | Path):
        """As `load`."""
        self.path = Path(path)
        facts, self._parts = _open(self.path)
        try:
            self.header = Header.from_dict(facts)
            self.complete = not isinstance(self._parts, records.Records)
            if isinstance(self._parts, records.Records):
                self._parts.bind(record_dtype(self.header))
                self.ticks, self.cuts = self._parts.timing(self.header.stride)
            elif isinstance(self._parts, Compressed):
                self._parts.bind(self.header)
                self.ticks, self.cuts = self._parts.timing(self.header.stride)
            else:
                self.ticks = self._tensor("ticks").numpy()
                self.cuts = self._tensor("cuts").tolist()
            self.frames = len(self.ticks)
            self._check()
            self.size, self.coder = None, None
            if isinstance(self._parts, Compressed):
                self.size, self.coder = self._parts.size(self.frames), self._parts.coder
        except (KeyError, TypeError, ValueError, ArithmeticError, SafetensorError) as error:
            raise ValueError(f"{self.path}: not a latent file that can be decoded ({in_line(error)}); {ANOTHER}") from error

    @classmethod
    def load(cls, path: str | Path) -> "LatentVideo":
        """Open a file that `encode_video` or `compress` wrote or is writing.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not such a file, cut short, its parts do not fit together, or it holds no window yet.
        """
        return cls(path)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}={shape}" for name, shape in zip(NAMES, self.header.shapes, strict=True))
        windows = f"{self.frames} frames in {self.window_count} windows of {shapes}"
        return f"LatentVideo({str(self.path)!r}, {windows}, {self.amount()}, weights {self.header.weights})"

    def _repr_html_(self) -> str:
        return html_table(self.facts())

    @property
    def stored(self) -> str:
        """How values are stored: "float16", "float32" or "compressed"."""
        if isinstance(self._parts, Compressed):
            return "compressed"
        return "float16" if isinstance(self._parts, dict) and self._parts[NAMES[0]][0] == "F16" else "float32"

    def amount(self) -> str:
        """Values of all windows, their share of the pixel values that decode from them, and the file's bytes, as text."""
        values, pixels = (
            self.window_count * sum(map(prod, self.header.shapes)),
            3 * self.frames * prod(self.header.geometry.output_size),
        )
        return f"{values:,} values, {values / pixels:.2%} of the pixel values; {self.path.stat().st_size:,} bytes ({self.stored})"

    def facts(self) -> dict[str, str]:
        """What the file is, as text for people."""
        header, tiles = self.header, self.header.tiles
        shapes = ", ".join(str((self.window_count * tiles, *shape[1:])) for shape in header.shapes)
        cuts, source = len(self.cuts), f" ({header.source_bytes:,} bytes)" if header.source_bytes else ""
        return {
            "file": str(self.path),
            "layout": f"{'latents' if self.size is None else 'compressed latents'} of {header.source}{source}"
            + (" with log-variances" if header.logvar else "")
            + ("" if self.complete else ", not finished"),
            "frames": f"{self.frames} at {float(header.fps):g} per second on average, {plural(cuts, 'shot cut')}",
            "windows": f"{self.window_count} of {header.config.frames} frames, {header.overlap} shared; "
            f"{plural(tiles, 'clip')} each",
            "shapes": f"structure, dynamics_x, dynamics_y: {shapes}",
            "geometry": header.geometry.describe(),
            "weights": f"{header.weights}, encoded in {header.precision}",
            "rate": self.amount(),
            **({} if self.size is None else {"step": f"{self.size.step:g} sigma", "size": str(self.size)}),
        }

    @property
    def window_count(self) -> int:
        """N."""
        return self.header.windows(self.frames)

    @property
    def latents(self) -> Latents:
        """The means of all windows, (N T, ...) each: tiles of a window next to each other. All of them in memory."""
        return Latents.cat([self.window(index).latents for index in range(self.window_count)])

    @property
    def logvar(self) -> Latents | None:
        """As `latents`, the log-variances; None if the file has none."""
        parts = [self.window(index).logvar for index in range(self.window_count)]
        return None if parts[0] is None else Latents.cat([part for part in parts if part is not None])

    def window(self, index: int) -> Window:
        """Window 0..N-1 of the file.

        Raises:
            ValueError: latents that are not finite, or a damaged record; with the file's name.
        """
        assert 0 <= index < self.window_count
        f, start = self.header.config.frames, index * self.header.stride
        ticks = tuple(self.ticks[start : start + f].tolist())
        cuts = set(self.cuts)
        if isinstance(self._parts, Compressed):
            means = self._parts.latents(index)
        else:
            means = Latents(*(self._latent(name, index) for name in NAMES))
        logvar = Latents(*(self._latent(f"{name}_logvar", index) for name in NAMES)) if self.header.logvar else None
        for latents in (means, logvar):
            if latents is not None and not all(bool(torch.isfinite(tensor).all()) for tensor in latents.tensors):
                raise ValueError(f"{self.path}: window {index} has NaN or infinite values; {ANOTHER}")
        flags = tuple(frame in cuts for frame in range(start, start + len(ticks)))
        return Window(index, means, logvar, ticks, flags, last=index == self.window_count - 1)

    def stream(self, start: int = 0, stop: int | None = None) -> LatentStream:
        """The windows that frames start..stop-1 decode from; the first begins at or before `start`, the last ends at `stop`."""
        stop = self.frames if stop is None else min(stop, self.frames)
        if not 0 <= start < stop:
            seconds = f"{self.frames / float(self.header.fps):.2f} seconds"
            raise ValueError(f"{self.path}: has {self.frames} frames ({seconds}); give 0 <= start < end, start within them")
        stride = self.header.stride
        last = min((stop - 1) // stride, self.window_count - 1)  # the last one that frame stop - 1 is in
        windows = (self.window(index) for index in range(first_window(start, self.header), last))
        return LatentStream(self.header, chain(windows, [self.window(last).shortened(stop - last * stride)]), stop - start)

    def frame_at(self, seconds: Fraction) -> int:
        """The first frame shown at or after so many seconds from the first; the number of frames if there is none."""
        tick = self.ticks[0] + seconds / self.header.clock
        return int(np.searchsorted(self.ticks, -(-tick.numerator // tick.denominator)))

    def time_of(self, frame: int | None) -> Fraction | None:
        """When a frame is shown, in seconds on the source's clock; None for a number beyond the last one, and for None."""
        return None if frame is None or frame >= self.frames else int(self.ticks[frame]) * self.header.clock

    def _latent(self, name: str, index: int) -> Tensor:
        if isinstance(self._parts, records.Records):
            return torch.from_numpy(self._parts.read(index)[name].copy())
        tiles = self.header.tiles
        with safe_open(self.path, framework="pt") as file:
            return file.get_slice(name)[index * tiles : (index + 1) * tiles].float()

    def _tensor(self, name: str) -> Tensor:
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(name)

    def _check(self) -> None:
        if self.frames == 0:
            raise ValueError("it holds no window yet")
        if self.ticks.dtype != np.int64 or self.ticks.ndim != 1 or bool((np.diff(self.ticks) <= 0).any()):
            raise ValueError("times do not increase")
        if not all(type(cut) is int and 0 < cut < self.frames for cut in self.cuts):
            raise ValueError("shot cuts outside the video")
        if not isinstance(self._parts, dict):
            return
        for name, (_, *shape) in latent_names(self.header).items():
            found = self._parts.get(name)
            if found not in [(kind, (self.window_count * self.header.tiles, *shape)) for kind in ("F16", "F32")]:
                raise ValueError(f"{name} of {found} does not fit {self.frames} frames of {tuple(shape)}")


def record_dtype(header: Header) -> np.dtype[Any]:
    """Of a record of the growing file."""
    return records.record_dtype(header.config.frames, latent_names(header))


def partial_path(path: Path) -> Path:
    """Where a latent file grows: x.vidtwin at x.partial.vidtwin."""
    return beside(path, path.stem, f".partial{path.suffix}")


class LatentWriter:
    """Writes a latent file window by window; it has its name when it is finished, and `partial_path` until then.

        with LatentWriter("x.vidtwin", header) as writer:
            for window in windows:
                writer.write(window)

    If the block ends by an error, what was written stays for `resume` if it is at least a window.

    Args:
        job: what else a run that goes on must have been begun with, JSON-able; it is not in the finished file.
        step: finish it in the compressed form, with a quantiser of this step in sigma; the windows must have log-variances.
        stored: what values are rounded to when it is finished; a tensor with values beyond float16 stays in float32.

    Attributes:
        count: windows that are there.

    Raises:
        ValueError: with `resume`, what is there was begun with other options; a step that cannot be.
        OSError: `path` cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        header: Header,
        resume: bool = False,
        job: Mapping[str, Any] | None = None,
        step: float | None = None,
        stored: records.Stored = "float16",
    ):
        self.path, self.header, self.step, self.stored = Path(path), header, step, stored
        if stored not in get_args(records.Stored):
            raise ValueError(f"stored={stored!r}: give 'float16' or 'float32'")
        if step is not None:
            entropy.check_step(step)
            entropy.check_channels(header.config)
            bins.needs_constriction()
        check_writable(self.path)
        facts = header.to_dict() | dict(job or {})
        self._records = records.RecordWriter(partial_path(self.path), facts, record_dtype(header), resume)

    def __enter__(self) -> "LatentWriter":
        return self

    @property
    def count(self) -> int:
        return self._records.count

    @property
    def finished(self) -> bool:
        """Whether the last window is there."""
        return self._records.read().finished

    @property
    def ticks(self) -> np.ndarray:
        """Timestamps of the frames that are there."""
        return self._records.read().timing(self.header.stride)[0]

    def write(self, window: Window) -> None:
        """Append the next window. Raises OSError, in one line."""
        assert window.index == self.count
        both = [window.latents] if window.logvar is None else [window.latents, window.logvar]
        tensors = [tensor.numpy() for latents in both for tensor in latents.tensors]
        try:
            arrays = dict(zip(latent_names(self.header), tensors, strict=True))
            self._records.append(len(window.ticks), window.last, window.ticks, window.cuts, arrays)
        except OSError as error:
            raise OSError(
                f"{self.path}: writing failed ({error.strerror}); free some space and continue with resume=True"
            ) from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None and self.step is not None:
                compress(LatentVideo.load(partial_path(self.path)), self.path, self.step)
            elif error is None:
                found = self._records.read()
                ticks, cuts = found.timing(self.header.stride)
                extra = {"ticks": ticks, "cuts": np.array(cuts, np.int64)}
                facts = json.dumps(self.header.to_dict())
                records.write_safetensors(self.path, found, latent_names(self.header), extra, facts, KEY, self.stored)
        except BaseException:
            self._records.close(keep=True)
            raise
        self._records.close(keep=error is not None)


def compress(
    video: LatentVideo, out: str | Path, step: float = 1.0, sigma: Sequence[np.ndarray] | None = None, prior: Prior = "fitted"
) -> CompressedSize:
    """Latents, finished or growing, to a file of the compressed form.

    Args:
        step: of the quantiser, in units of sigma.
        sigma: the posterior's standard deviation of each channel, (C,) for each latent; default its mean over this video, which
            needs the log-variances.
        prior: what values are coded by: Gaussians fitted to the means of each channel, or "normal": N(0, 1), far longer.

    Raises:
        ValueError: no sigma, values too large for the step, or constriction is missing. OSError: `out` cannot be written.
    """
    try:
        compressed.write(Path(out), video.header, lambda: map(video.window, range(video.window_count)), step, sigma, prior)
    except ValueError as error:
        raise error if str(video.path) in str(error) else ValueError(f"{video.path}: {error}") from error
    size = LatentVideo.load(out).size
    assert size is not None
    return size


def _open(path: Path) -> tuple[Any, "records.Records | Compressed | dict[str, tuple[str, tuple[int, ...]]]"]:
    """The header as it is in the file, and its records, or dtype and shape of each of its tensors."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a {SUFFIX} file that `vidtwin encode` wrote")
    if records.is_records(path):
        found = records.Records(path)
        return found.facts, found
    if compressed.is_compressed(path):
        packed = Compressed(path)
        return packed.facts, packed
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return parse_json((file.metadata() or {})[KEY]), {n: (s.get_dtype(), tuple(s.get_shape())) for n, s in slices.items()}
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a latent file, or cut short; give a {SUFFIX} file that `vidtwin encode` wrote") from error


def is_latent_file(path: str | Path) -> bool:
    """Whether a file is meant as a latent file: by its suffix."""
    return Path(path).suffix == SUFFIX
