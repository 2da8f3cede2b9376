"""Frames -> a video file, or PNG files: exact frame count and times, whole or not there, and able to go on after a kill.

Frames are compressed into a folder beside the output (`work_folder.py`); only when all are there the output is put together,
with what goes along from the source (`movie.py`, `remux.py`), and gets its name.
"""

import errno
import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from vidtwin.files import check_writable, is_same, make_readable
from vidtwin.frames.orientation import Orientation
from vidtwin.video.pyav import TURNS
from vidtwin.video.read.decode import VideoFile, file_holding
from vidtwin.video.read.tracks import Span
from vidtwin.video.write.encoder import FrameEncoder, padded
from vidtwin.video.write.encoding import CONTAINERS, Encoding, is_pattern, is_picture_sequence
from vidtwin.video.write.movie import Movie, Timing
from vidtwin.video.write.png import PngFiles, check_target
from vidtwin.video.write.remux import sound_note
from vidtwin.video.write.segments import Segments
from vidtwin.video.write.work_folder import WorkFolder, sync_folder

AUTO, UPRIGHT, SQUARE = Encoding(), Orientation(), Fraction(1)


class VideoWriter:
    """Writes one video; nothing is left at `path` unless the `with` block ends well.

        with VideoWriter("out.mp4", fps=Fraction(25), size=(224, 224)) as writer:
            writer.write(frames)  # uint8 (F, 224, 224, 3)
        print(writer.notes)

    Args:
        path: a file, its container chosen by its suffix; a folder, or a pattern such as out/%05d.png, for PNG files.
        fps: frames per second; with `clock`, only the duration of the last frame is taken from it.
        size: (height, width) of the upright frames.
        encoding: codec and quality.
        clock: seconds of one tick of the times given to `write`; None: they are numbers of frames.
        pixel_aspect: width / height of a pixel of the upright frames.
        orientation: how the picture is stored in MP4 and MOV, which say how to turn it for display; others hold it upright.
        source: a video whose sound, subtitles, chapters, titles and attachments are copied; None for none.
        span: (start, stop) in seconds of the source: sound and subtitles that begin outside are left out. Either may be None.
            The attribute can be set until the block ends.
        origin: seconds (in ticks of `clock`, and in the source) that become 0; None, or later than that: the time of the
            first frame.
        job: what is written and of what, JSON-able. With it, what was done up to a checkpoint survives errors and kills.
        resume: go on from the last checkpoint of the same job, if there is one.

    Attributes:
        state: after entering with `resume`, what was given to the last checkpoint; None if there was nothing to resume.
        ticks: of the frames written; after resuming, of those that the checkpoint holds.
        notes: what of the frames and of the source could not be kept, one clause each; complete after the block.

    Raises:
        ValueError: one of the above does not hold; another job is to be resumed; no frame was written.
        OSError: the folder is missing or not writable, the disk is full or the file too large for it; another process writes the
            same output; a folder for PNG files is not empty.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: Fraction,
        size: tuple[int, int],
        encoding: Encoding = AUTO,
        *,
        clock: Fraction | None = None,
        pixel_aspect: Fraction = SQUARE,
        orientation: Orientation = UPRIGHT,
        source: VideoFile | None = None,
        span: Span | None = None,
        origin: Fraction | None = None,
        job: dict[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        rate = Fraction(fps).limit_denominator(100_000)  # what a file's clock can hold
        if rate <= 0:
            raise ValueError(f"{path}: a frame rate of {fps} is impossible; give frames per second above 0")
        if clock is not None and clock <= 0:
            raise ValueError(f"{path}: ticks of {clock} seconds are impossible; give seconds above 0")
        if pixel_aspect <= 0:
            raise ValueError(f"{path}: a pixel aspect of {pixel_aspect} is impossible; give width / height above 0")
        if resume and job is None:
            raise ValueError(f"{path}: there is nothing to resume without a job; say what the job is")
        self._path, self._target, self._fps, self._clock = path, Path(path), rate, clock
        self._is_png = is_picture_sequence(path)
        can_turn = TURNS and CONTAINERS.get(self._target.suffix.lower()) in ("mp4", "mov") and not self._is_png
        turned = orientation if can_turn else UPRIGHT
        self._orientation, self._size, self._pixel_aspect = turned, size, pixel_aspect
        encoding.check(path, turned.size(size))
        self._encoding, self._job, self._resume = encoding, job, resume
        self._source, self._origin = source, origin
        self.span: Span = span or (None, None)
        self.state: dict[str, Any] | None = None
        self.notes: list[str] = []
        self._ticks = array("q")
        self._saved = 0  # frames that the last checkpoint holds

    @property
    def ticks(self) -> Sequence[int]:
        """Of the frames written."""
        return self._ticks

    def __enter__(self) -> "VideoWriter":
        source = None if self._source is None else file_holding(self._source)
        if source is not None and is_same(self._target, source):
            raise ValueError(f"{self._path}: is the source; choose another output")
        if self._is_png and not is_pattern(self._path):
            check_target(self._target)
        else:
            check_writable(self._target)
        self._encoder: FrameEncoder | None = None
        with _clear_errors(self._path):
            if not self._is_png:
                self._encoder = self._new_encoder()
                self._extradata = self._encoder.extradata
            self._folder = WorkFolder(self._target, None if self._job is None else self._whole_job(self._job), self._resume)
            self._folder.open()
            try:
                self._store = PngFiles(self._target, self._folder) if self._is_png else Segments(self._folder, self._next_encoder)
                self._restore()
            except BaseException:
                self._folder.close(keep=bool(self._folder.checkpoints))
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        whole = False
        try:
            if kind is None:
                self._finish()
                whole = True
        finally:
            self._encoder = None
            self._store.abandon()
            self._folder.close(keep=not whole and self._folder.durable and bool(self._folder.checkpoints))

    def write(self, frames: np.ndarray, ticks: Sequence[int] | None = None) -> None:
        """Append frames.

        Args:
            frames: uint8 RGB, upright, (F, H, W, 3) or one of (H, W, 3).
            ticks: (F,) when each is shown, strictly increasing; None: as `fps` says.

        Raises ValueError when the frames have another size or type or the ticks do not fit; OSError as the class says.
        """
        pictures = frames[None] if frames.ndim == 3 else frames
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1:] != (*self._size, 3):
            height, width = self._size
            raise ValueError(f"{self._path}: frames of {frames.dtype} {frames.shape}; give uint8 (F, {height}, {width}, 3)")
        stamps = [self._default_tick(len(self._ticks) + index) for index in range(len(pictures))] if ticks is None else list(ticks)
        if len(stamps) != len(pictures):
            raise ValueError(f"{self._path}: {len(stamps)} ticks for {len(pictures)} frames; give one for each")
        for picture, tick in zip(pictures, stamps, strict=True):
            self._check_tick(int(tick))
            with _clear_errors(self._path):
                self._store.write(self._orientation.stored(picture))
            self._ticks.append(int(tick))

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Make all frames written so far durable; what follows begins with a key frame.

        Args:
            state: JSON-able; what the caller needs to go on.

        Raises OSError as the class says.
        """
        with _clear_errors(self._path):
            about = self._store.seal()
            new = self._ticks[self._saved :].tolist()
            self._folder.add({"frames": len(new), "ticks": new, "state": state, **about})
        self._saved = len(self._ticks)

    def _restore(self) -> None:
        intact = self._store.restore(self._folder.checkpoints)
        self._folder.forget(intact)
        checkpoints = [checkpoint for checkpoint in self._folder.checkpoints if "state" in checkpoint]
        for checkpoint in checkpoints:
            self._ticks.extend(checkpoint["ticks"])
        self._saved = len(self._ticks)
        self.state = checkpoints[-1]["state"] if checkpoints else None

    def _finish(self) -> None:
        if not self._ticks:
            raise ValueError(f"{self._path}: 0 frames were written; write at least one")
        first = self._ticks[0] * (self._clock or 1 / self._fps)
        origin = first if self._origin is None else min(first, self._origin)
        timing = Timing(self._ticks, self._clock, origin, self._fps)
        with _clear_errors(self._path):
            self._store.seal()
            if isinstance(self._store, PngFiles):
                notes = self._store.finish(timing)
                if self._source is not None and (note := sound_note(self._source)):
                    notes.append(note)
                if self._pixel_aspect != 1:
                    notes.append(f"PNG files hold no pixel aspect; theirs is {self._pixel_aspect}")
            else:
                notes = self._padding_note() + self._write_movie(self._store, timing)
            sync_folder(self._target.parent)
        self.notes = notes

    def _write_movie(self, segments: Segments, timing: Timing) -> list[str]:
        suffix = self._target.suffix.lower()
        movie = Movie(
            suffix=suffix,
            settings=self._encoding.settings(self._path),
            size=self._stored_size,
            fps=self._fps,
            pixel_aspect=self._stored_aspect,
            extradata=self._extradata,
            orientation=self._orientation,
        )
        partial = self._folder.path / f"output{suffix}"
        notes = movie.write(partial, segments.packets, timing, self._source, self.span)
        make_readable(partial)
        if self._folder.durable:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, self._target)
        return notes

    @property
    def _stored_size(self) -> tuple[int, int]:
        return self._orientation.size(self._size)

    @property
    def _stored_aspect(self) -> Fraction:
        aspect = 1 / self._pixel_aspect if self._orientation.transposed else self._pixel_aspect
        return aspect.limit_denominator(2047)  # codecs hold numbers up to 65535

    def _new_encoder(self) -> FrameEncoder:
        return FrameEncoder(self._encoding.settings(self._path), self._stored_size, self._fps, self._stored_aspect)

    def _next_encoder(self) -> FrameEncoder:
        """The one that told the extradata, then others."""
        encoder, self._encoder = self._encoder or self._new_encoder(), None
        return encoder

    def _whole_job(self, job: dict[str, Any]) -> dict[str, Any]:
        """With all that decides on the bytes of a segment."""
        output: dict[str, Any] = {"size": self._size, "clock": str(self._clock), "fps": str(self._fps)}
        if not self._is_png:
            settings = self._encoding.settings(self._path)
            output |= {"encoder": settings.encoder, "options": settings.options, "pixel aspect": str(self._stored_aspect)}
            output |= {"orientation": str(self._orientation), "av": av.__version__}
            output["extradata"] = hashlib.sha256(self._extradata).hexdigest()
        return job | {f"output {name}": value for name, value in output.items()}

    def _default_tick(self, number: int) -> int:
        return number if self._clock is None else round(number / self._fps / self._clock)

    def _check_tick(self, tick: int) -> None:
        number = len(self._ticks)
        if number and tick <= self._ticks[-1]:
            raise ValueError(f"{self._path}: frame {number} is not shown after frame {number - 1}; ticks must increase")

    def _padding_note(self) -> list[str]:
        stored = padded(self._encoding.settings(self._path), self._stored_size)
        (height, width), (new_height, new_width) = self._size, self._orientation.size(stored)
        what = [f"one {name}" for name, added in (("row", new_height > height), ("column", new_width > width)) if added]
        if not what:
            return []
        verb = "was" if len(what) == 1 else "were"
        return [f"{width}x{height} is odd; {' and '.join(what)} {verb} repeated: {new_width}x{new_height}"]


def check_output(path: str | os.PathLike[str], encoding: Encoding = AUTO) -> None:
    """Raise what writing to `path` would end in, as far as can be seen beforehand: `Encoding.check`, `check_writable`, and for
    PNG files a folder that is not empty or files that have their names."""
    encoding.check(path)
    if is_picture_sequence(path):
        check_target(Path(path))
    else:
        check_writable(path)


@contextmanager
def _clear_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the encoder and the file system raise into one OSError that says what to do."""
    try:
        yield
    except (FFmpegError, OSError) as error:
        if error.errno is None:  # one of ours, clear already
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason, remedy = "the disk is full", "free some space or choose another output"
        elif error.errno == errno.EFBIG:
            reason, remedy = "the file is too large for its disk or its limit", "choose another output or a higher crf"
        else:
            reason, remedy = f"writing failed ({error.strerror})", "check the folder or choose another output"
        raise OSError(f"{path}: {reason}; {remedy}") from error
