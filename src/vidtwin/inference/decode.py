"""Latents to video: windows -> frames -> file, one window in memory.

Where windows share frames, one fades into the next, but never across a shot cut: there the picture changes from the one to the
other. Where tiles share pixels, they are blended (`frames.tiles`). Padding is cut away, so that N frames in are N frames out.
The bands of large frames wait in a temporary file, and a frame at a time is put together.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import islice
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from vidtwin.frames.clips import Geometry, from_clip, levels
from vidtwin.frames.tiles import Fit, Tiling
from vidtwin.inference.encode import Progress
from vidtwin.inference.engine import Engine
from vidtwin.inference.shown import Written
from vidtwin.latents.file import LatentVideo
from vidtwin.latents.stream import Header, Identity, LatentStream, Window, grouped
from vidtwin.model.latents import Latents
from vidtwin.model.vidtwin import Part, VidTwin
from vidtwin.threads import Behind, ahead
from vidtwin.video.read.reader import VideoInfo, info_of
from vidtwin.video.write.encoding import Encoding
from vidtwin.video.write.writer import VideoWriter

IN_MEMORY = 2**29  # bytes of a window's frames; more wait in a temporary file


@dataclass(frozen=True)
class Decoded:
    """Finished frames of a video, from number `first` on.

    Attributes:
        ticks: their timestamps.
        fit: how they were fitted to the model.
        clip: as the model gives them, (3, n, h, w) in [-1, 1]; None for tiles.
        bands: for tiles, from the top, as they are written: uint8 (n, rows, W, 3).
    """

    first: int
    ticks: tuple[int, ...]
    fit: Fit
    clip: Tensor | None = None
    bands: tuple[np.ndarray, ...] = ()

    @cached_property
    def frames(self) -> np.ndarray:
        """uint8 (n, H, W, 3) as they are written; made when first asked for."""
        if self.clip is None:
            return np.concatenate(self.bands, axis=1)
        assert isinstance(self.fit, Geometry)
        return from_clip(self.clip, self.fit)

    def since(self, frame: int) -> "Decoded":
        """Without the frames before number `frame`."""
        skip = max(0, frame - self.first)
        clip, bands = None if self.clip is None else self.clip[:, skip:], tuple(band[skip:] for band in self.bands)
        return Decoded(self.first + skip, self.ticks[skip:], self.fit, clip, bands)


class Decoder:
    """Decodes windows of a video in order; keeps what the next one fades from."""

    def __init__(self, engine: Engine, header: Header, only: Part | None = None):
        self._engine, self._header, self._only = engine, header, only
        self._tails: dict[int, Tensor] = {}  # of each band of rows, by its top: (3, overlap, rows, W)

    def __call__(self, windows: Sequence[Window]) -> Iterator[Decoded]:
        """What each of some windows finishes; they go through the model together.

        Raises ValueError for what is not finite, and MemoryError, as `Engine.decode`.
        """
        latents = Latents.cat([window.latents for window in windows])
        clips = self._engine.decode(latents, self._only, _times(windows, self._header))
        for window in windows:
            yield self._finished(window, islice(clips, self._header.tiles))

    def _finished(self, window: Window, clips: Iterator[Tensor]) -> Decoded:
        header, fit = self._header, self._header.geometry
        count = len(window.ticks) if window.last else header.stride
        first, ticks = window.index * header.stride, window.ticks[:count]
        if isinstance(fit, Tiling):
            bands = []
            with TemporaryFile() if 3 * count * prod(fit.output_size) > IN_MEMORY else nullcontext() as file:
                for top, pixels in fit.merge(clips):
                    rows = self._faded(top, pixels, window, file)[:, :count]
                    bands.append(_kept(levels(rows).permute(1, 2, 3, 0).numpy(), file))
            return Decoded(first, ticks, fit, bands=tuple(bands))
        (clip,) = clips
        return Decoded(first, ticks, fit, self._faded(0, clip, window)[:, :count])

    def _faded(self, top: int, pixels: Tensor, window: Window, file: IO[bytes] | None = None) -> Tensor:
        """(3, f, rows, W), its first frames faded in from the window before; its last ones are kept for the next, in `file`."""
        shared = self._header.overlap
        if not shared:
            return pixels
        if top in self._tails:
            weights = fade(window.cuts[:shared], shared)[:, None, None]
            fading = torch.lerp(self._tails[top], pixels[:, :shared], weights)
            pixels = torch.cat([fading, pixels[:, shared:]], dim=1)
        self._tails[top] = torch.from_numpy(_kept(pixels[:, self._header.stride :].clone().numpy(), file))
        return pixels


def _times(windows: Sequence[Window], header: Header) -> Tensor | None:
    """`Window.times` of all tiles of some windows: (windows T, f, f); None if none of them has any."""
    if all(window.times is None for window in windows):
        return None
    as_it_is = torch.eye(header.config.frames)
    times = torch.stack([as_it_is if window.times is None else window.times for window in windows])
    return times.repeat_interleave(header.tiles, dim=0)


def _kept(values: np.ndarray, file: IO[bytes] | None) -> np.ndarray:
    """The same values, which lie in a file if there is one. Raises OSError where it has no room."""
    if file is None:
        return values
    at = file.tell()
    file.write(np.ascontiguousarray(values).data)
    file.flush()
    kept = np.memmap(file, values.dtype, "c", at, values.shape)
    file.seek(at + values.nbytes)
    return kept


def fade(cuts: tuple[bool, ...], shared: int) -> Tensor:
    """Weights (shared,) of the later of two windows in the frames that both hold: a ramp, fade of 3 frames is [1/4, 2/4, 3/4].

    If a frame but the first of them begins a new shot (`cuts`), the later window counts fully from there on and not at all before.
    """
    change = next((index for index, cut in enumerate(cuts) if cut and index > 0), None)
    if change is not None:
        return (torch.arange(shared) >= change).float()
    return (torch.arange(shared) + 1) / (shared + 1)


def write_decoded(writer: VideoWriter, decoded: Decoded) -> None:
    """Make the frames and write them: work for another thread than the model's."""
    if decoded.clip is not None:
        writer.write(decoded.frames, decoded.ticks)
        return
    for index, tick in enumerate(decoded.ticks):  # one in memory
        writer.write(np.concatenate([band[index : index + 1] for band in decoded.bands], axis=1), [tick])


def decode_windows(engine: Engine, stream: LatentStream, only: Part | None = None, start: int = 0) -> Iterator[Decoded]:
    """The frames of a stream from number `start` on, window by window."""
    decoder = Decoder(engine, stream.header, only)
    for windows in grouped(stream.windows, engine.windows_at_once(stream.header.tiles)):
        for decoded in decoder(windows):
            if (wanted := decoded.since(start)).ticks:
                yield wanted


@dataclass(frozen=True)
class Output:
    """How a video is written, and what of the source goes with it.

    Attributes:
        encoding: codec and quality.
        source: the video whose sound, subtitles and chapters are copied, or what `probe` said of it; None for none.
    """

    encoding: Encoding = field(default_factory=Encoding)
    source: Path | VideoInfo | None = None

    def writer(
        self,
        out: str | Path,
        header: Header,
        size: tuple[int, int],
        from_start: bool,
        **more: Any,
    ) -> VideoWriter:
        """For frames of (height, width) with the timing, pixel aspect and orientation of `header`.

        What comes first of the source, sound or picture, is at 0 in the output; the first frame, if the frames do not begin where
        the source does (`from_start`), or without sound.
        """
        source, origin = self.source, None
        if source is not None and from_start:
            source = info_of(source)
            origin = max(Fraction(0), source.start_time) if source.has_audio else None
        return VideoWriter(
            out,
            header.fps,
            size,
            self.encoding,
            clock=header.clock,
            pixel_aspect=header.pixel_aspect,
            **({"orientation": header.orientation} | more),
            source=source.path if isinstance(source, VideoInfo) else source,
            origin=origin,
        )


def span_of(ticks: Sequence[int], header: Header, begins: bool, ends: bool) -> tuple[Fraction | None, Fraction | None]:
    """When the first frame is shown and the last is over, in seconds of the source; None for an end that is the source's."""
    first, last = ticks[0] * header.clock, ticks[-1] * header.clock + 1 / header.fps
    return first if begins else None, last if ends else None


def decode_video(
    model: VidTwin | Engine,
    video: LatentVideo | LatentStream,
    out: str | Path,
    *,
    only: Part | None = None,
    start: int = 0,
    stop: int | None = None,
    output: Output | None = None,
    weights: Identity | None = None,
    progress: Progress | None = None,
) -> Written:
    """Decode latents to a video file with the source's number of frames and timing; returns what could not be kept of it.

    `start`, `stop`: frames start..stop-1 of a latent file; only the windows that they need are read.

    Raises:
        ValueError: the latents are of other weights or of another config, or decode to NaN; a range outside the video.
        OSError: `out` cannot be written.
    """
    engine = Engine.of(model)
    stream = video if isinstance(video, LatentStream) else video.stream(start, stop)
    stream.header.check_weights(weights or engine.identity())
    header, output = stream.header, output or Output()
    with output.writer(out, header, header.geometry.output_size, start == 0) as writer:
        with Behind() as later:
            reading = LatentStream(header, ahead(stream.windows, engine.windows_at_once(header.tiles)), stream.frames)
            for decoded in decode_windows(engine, reading, only, start):
                later(write_decoded, writer, decoded)
                if progress:
                    progress(len(decoded.ticks))
        writer.span = span_of(writer.ticks, header, start > 0, stop is not None or bool(stream.cut))
    return Written([*stream.cut, *writer.notes], out)
