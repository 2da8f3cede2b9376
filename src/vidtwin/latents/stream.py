"""The latents of a video as a stream: a header, and windows one after another.

Letters: T tiles of a frame (1 but for policy "tile"); f frames of a window, n of them in the video.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor

from vidtwin.checked import build
from vidtwin.files import in_line
from vidtwin.frames.orientation import Orientation
from vidtwin.frames.tiles import Fit, Tiling, fit_from_dict
from vidtwin.model.checkpoint import weights_hash
from vidtwin.model.config import VidTwinConfig
from vidtwin.model.latents import NAMES, Latents
from vidtwin.model.vidtwin import VidTwin

VERSION = 2  # of the header


@dataclass(frozen=True)
class Identity:
    """Which weights latents belong to: a name for people, and `model.checkpoint.weights_hash`, which decides."""

    name: str
    hash: str

    @classmethod
    def of(cls, model: VidTwin, name: str = "unnamed") -> "Identity":
        """Of a model in float32: take it before the model is cast to a lower precision."""
        return cls(name, weights_hash(model))

    def __str__(self) -> str:
        return f"{self.name!r} ({self.hash[:12]})"


def with_hash(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts of a file, with the hash of weights as "weights_hash", which was once written as "weights_sha256"."""
    return {"weights_hash" if key == "weights_sha256" else key: value for key, value in facts.items()}


@dataclass(frozen=True)
class Header:
    """What all windows of a video share.

    Attributes:
        fps: frames per second, on average; it says how long the last frame is shown.
        clock: seconds of a tick; `ticks` are the source's own timestamps.
        geometry: how source frames became the model's.
        overlap: frames that a window shares with the one before.
        pixel_aspect, orientation: of the pictures that decode; square and upright but for policy "tile", which keeps the source's.
        config, weights: of the model. precision: that they were encoded in.
        logvar: whether there are log-variances beside the means.
        source: file name of the video, without its folder. source_bytes: its size. first_frame: number of the first frame encoded.
    """

    fps: Fraction
    clock: Fraction
    geometry: Fit
    overlap: int
    pixel_aspect: Fraction
    orientation: Orientation
    config: VidTwinConfig
    weights: Identity
    precision: str
    logvar: bool
    source: str
    source_bytes: int
    first_frame: int

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= self.config.frames // 2:
            raise ValueError(f"overlap={self.overlap}: give 0 to {self.config.frames // 2}, half of a window of the model")
        if self.fps <= 0 or self.clock <= 0 or self.pixel_aspect <= 0:
            raise ValueError(f"fps {self.fps}, clock {self.clock} and pixel aspect {self.pixel_aspect} must be above 0")
        if self.geometry.model != (self.config.height, self.config.width):
            raise ValueError(f"geometry for a model of {self.geometry.model}, weights of {self.config.height, self.config.width}")

    @property
    def stride(self) -> int:
        """Frames from the start of a window to the start of the next."""
        return self.config.frames - self.overlap

    @property
    def tiles(self) -> int:
        """T: clips that a window is encoded as."""
        return self.geometry.count if isinstance(self.geometry, Tiling) else 1

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the latents of a window: (T, ...) each."""
        return tuple((self.tiles, *shape) for shape in self.config.latent_shapes)

    def windows(self, frames: int) -> int:
        """How many windows cover so many frames: 33 frames in windows of 16 are 3."""
        return 1 + max(0, -(-(frames - self.config.frames) // self.stride))

    def check_weights(self, weights: Identity) -> None:
        """Raise a ValueError if these latents were not encoded with the weights of this identity."""
        if weights.hash != self.weights.hash:
            raise ValueError(
                f"latents of {self.source} were encoded with weights {self.weights}, not with {weights}; "
                "use a model with the former weights"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, safe for JSON; `from_dict` reads them back."""
        o = self.orientation
        return {
            "version": VERSION,
            "fps": str(self.fps),
            "clock": str(self.clock),
            "geometry": self.geometry.to_dict(),
            "overlap": self.overlap,
            "pixel_aspect": str(self.pixel_aspect),
            "orientation": [o.transposed, o.reverse_rows, o.reverse_columns],
            "config": self.config.to_dict(),
            "weights": self.weights.name,
            "weights_hash": self.weights.hash,
            "precision": self.precision,
            "logvar": self.logvar,
            "source": self.source,
            "source_bytes": self.source_bytes,
            "first_frame": self.first_frame,
        }

    @staticmethod
    def from_dict(facts: Any) -> "Header":
        """The header that `to_dict` wrote. Raises ValueError when it is not one."""
        try:
            found = build(_Facts, facts, more=True)
            if found.version != VERSION:
                raise ValueError(f"format version {found.version}; this vidtwin reads version {VERSION}")
            return Header(
                fps=_fraction(found.fps),
                clock=_fraction(found.clock),
                geometry=fit_from_dict(found.geometry),
                overlap=found.overlap,
                pixel_aspect=_fraction(found.pixel_aspect),
                orientation=Orientation(*found.orientation),
                config=VidTwinConfig.from_dict(found.config),
                weights=Identity(in_line(found.weights), in_line(found.weights_hash)),
                precision=in_line(found.precision),
                logvar=found.logvar,
                source=in_line(Path(found.source).name),
                source_bytes=found.source_bytes,
                first_frame=found.first_frame,
            )
        except (KeyError, TypeError, ArithmeticError) as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True)
class _Facts:
    """What `Header.to_dict` gives. Raises ValueError for counts below 0."""

    version: int
    fps: str
    clock: str
    geometry: dict[str, Any]
    overlap: int
    pixel_aspect: str
    orientation: tuple[bool, bool, bool]
    config: dict[str, Any]
    weights: str
    weights_hash: str
    precision: str
    logvar: bool
    source: str
    source_bytes: int
    first_frame: int

    def __post_init__(self) -> None:
        if min(self.source_bytes, self.first_frame) < 0:
            raise ValueError(f"source_bytes={self.source_bytes}, first_frame={self.first_frame}: must be at least 0")


def _fraction(text: str) -> Fraction:
    """What str of a Fraction gave; not Fraction(text), which also takes 1e999999999, and all memory for it."""
    if not re.fullmatch(r"-?[0-9]{1,40}(/[0-9]{1,40})?", text):
        raise ValueError(f"{text!r} is not a fraction")
    return Fraction(text)


@dataclass(frozen=True)
class Window:
    """Frames index * stride ... of a video, encoded.

    Attributes:
        latents: posterior means, float32 on the CPU, (T, ...) each. logvar: log-variances, or None.
        ticks: timestamps of its frames; fewer than f if the video ends in it (what is beyond is padding).
        cuts: of each frame, whether it begins a new shot.
        last: whether the video ends with it.
        times: (f, f), for a video that is edited (`inference.edit`): frame g of the feature u_S becomes sum_f times[g, f] u_S(f) as
            it is decoded. Files do not hold it.
        pixels: what was encoded, where the latents were made just now: clip (3, n, h, w), or frames uint8 (n, H, W, 3) for tiles.
    """

    index: int
    latents: Latents
    logvar: Latents | None
    ticks: tuple[int, ...]
    cuts: tuple[bool, ...]
    last: bool
    times: Tensor | None = None
    pixels: Tensor | np.ndarray | None = None

    def shortened(self, frames: int) -> "Window":
        """Its first frames only, as the end of a video."""
        return replace(self, ticks=self.ticks[:frames], cuts=self.cuts[:frames], last=True)


@dataclass(frozen=True)
class LatentStream:
    """A header and windows in order, each there once.

    frames: how many there will be, if that is known. cut: what was left out at its end, complete after the windows.
    """

    header: Header
    windows: Iterator[Window]
    frames: int | None = None
    cut: list[str] = field(default_factory=list)


class Numbered(Protocol):
    """What `grouped` must know of a window."""

    @property
    def index(self) -> int: ...

    @property
    def last(self) -> bool: ...


W = TypeVar("W", bound=Numbered)


def grouped(windows: Iterable[W], size: int) -> Iterator[list[W]]:
    """Windows 0..size-1, size..2 size-1, ... as lists; where they begin or end in the middle of a list, what there is of it."""
    group: list[W] = []
    for window in windows:
        group.append(window)
        if window.last or window.index % size == size - 1:
            yield group
            group = []
    if group:
        yield group


def latent_names(header: Header) -> dict[str, tuple[int, ...]]:
    """Names of the tensors of a window and their shapes (T, ...)."""
    names = dict(zip(NAMES, header.shapes, strict=True))
    return names | ({f"{name}_logvar": shape for name, shape in names.items()} if header.logvar else {})


def first_window(frame: int, header: Header) -> int:
    """The first window that frame number `frame` is in: with windows of 16 that share 4, frame 12 is in 0, and frame 16 in 1."""
    return max(0, -(-(frame - header.config.frames + 1) // header.stride))
