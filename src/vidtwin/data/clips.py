"""Training clips from recordings. Clip number i is a function of the seed and i alone, so that any run can be resumed,
with any number of workers, by saying which number comes next.

Letters: B clips in a batch, F frames of a clip, H and W its height and width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vidtwin.data.recording import Recording
from vidtwin.frames.clips import Geometry, frame_interval, to_clip
from vidtwin.model.config import VidTwinConfig
from vidtwin.video.read.reader import frame_count, probe, read_clip

TRIES = 10  # recordings in a row that may be unusable

Failures = tuple[tuple[str, str], ...]  # (name of the recording, why it could not be used)


class TooShortError(ValueError):
    """A recording holds no clip."""


class Sample(NamedTuple):
    """A clip, uint8 (3, F, H, W), its number, and the recordings that were passed over to get it."""

    clip: Tensor
    index: int  # type: ignore[assignment]  # in place of tuple.index
    failures: Failures


class Batch(NamedTuple):
    """Clips, uint8 (B, 3, F, H, W), their numbers, int64 (B,), and the recordings that were passed over."""

    clips: Tensor
    indices: Tensor
    failures: Failures


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples -> a batch, in their order."""
    return Batch(
        torch.stack([sample.clip for sample in samples]),
        torch.tensor([sample.index for sample in samples]),
        tuple(failure for sample in samples for failure in sample.failures),
    )


class TrainingClips(Dataset[Sample]):
    """Random clips: item i is the `Sample` number i, for any i from 0 on.

    Each round of len(recordings) items draws every recording once, in an order of its own. No recording is opened before it
    is drawn: one that cannot be read, or holds no clip, is named in the sample's failures, and the next one of the round's
    order is tried. An episode of a LeRobot data set that holds no clip is no failure. Start, crop and mirroring are drawn for
    every item, and for every try, anew.

    Args:
        recordings: at least one.
        config: F, H and W are the model's.
        sample_fps: frames per second to sample at, by taking every n-th frame; a slower recording gives all its frames, so
            plays faster (`vidtwin check-data` counts them). None is every frame of every recording.
        flip: mirror half of the clips.
        short_side: (low, high) in pixels: the recording is resized so that its short side is one of these lengths, all
            equally likely, and a random crop of HxW is taken, or the largest that there is if it is smaller. None: always
            the largest crop of the model's aspect.
        seed: of all draws.

    Raises:
        ValueError: `short_side` is no range, or its low end is below the model's short side. On drawing an item: 10
            recordings in a row could not be used.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        config: VidTwinConfig,
        sample_fps: float | None,
        flip: bool,
        short_side: tuple[int, int] | None,
        seed: int,
    ):
        if short_side is not None:
            (low, high), least = short_side, min(config.height, config.width)
            if not least <= low <= high:
                raise ValueError(f"short_side={low},{high}: must rise, from {least} (the model's short side) or more")
        self.recordings, self.config, self.sample_fps = recordings, config, sample_fps
        self.flip, self.short_side, self.seed = flip, short_side, seed
        self._order: tuple[int, np.ndarray] | None = None  # the latest round and its order

    def __getitem__(self, index: int) -> Sample:
        round_, place = divmod(index, len(self.recordings))
        order = self._order_of(round_)
        failures: list[tuple[str, str]] = []
        for attempt in range(max(TRIES, len(order))):
            recording = self.recordings[order[(place + attempt) % len(order)]]
            try:
                clip = self._draw(recording, np.random.default_rng((self.seed, 1, index, attempt)).random(5))
                return Sample(clip, index, tuple(failures))
            except (ValueError, OSError) as error:
                reason = recording.reason(error)
                if not is_short_episode(recording, error):
                    failures.append((recording.name, reason))
            if len(failures) == TRIES:
                break
        raise ValueError(
            f"{attempt + 1} recordings in a row could not be used, the last one {recording.name} ({reason}); check the data"
        )

    def _order_of(self, round_: int) -> np.ndarray:
        if self._order is None or self._order[0] != round_:
            self._order = round_, np.random.default_rng((self.seed, 0, round_)).permutation(len(self.recordings))
        return self._order[1]

    def _draw(self, recording: Recording, draws: np.ndarray) -> Tensor:
        """uint8 (3, F, H, W). `draws` in [0, 1) decide the start, short side, top, left and mirroring."""
        recording.check()
        start, short, top, left, mirrored = draws
        frames, model = self.config.frames, (self.config.height, self.config.width)
        stride = 1 if self.sample_fps is None else frame_interval(probe(recording.file).fps, self.sample_fps)
        starts = first_frames(recording, frames, stride)
        images = read_clip(recording.file, starts[int(start * len(starts))], frames, stride)  # (F, H', W', 3)

        source = images.shape[1:3]
        length = None
        if self.short_side is not None:
            low, high = self.short_side
            length = low + int(short * (high + 1 - low))
        height, width = box(source, model, length)
        top, left = int(top * (source[0] - height + 1)), int(left * (source[1] - width + 1))
        images = images[:, top : top + height, left : left + width]
        x = to_clip(images, Geometry.plan("crop", (height, width), model))  # (3, F, H, W)
        if self.flip and mirrored < 0.5:
            x = x.flip(-1)
        return ((x + 1) * 127.5).round().to(torch.uint8)


def is_short_episode(recording: Recording, error: Exception) -> bool:
    """Whether what is wrong is only that an episode of a LeRobot data set holds no clip, which is no failure."""
    return isinstance(error, TooShortError) and recording.length is not None


def first_frames(recording: Recording, frames: int, stride: int) -> range:
    """Numbers of the frames at which a clip of `frames` frames, `stride` apart, can start.

    Raises TooShortError when there are none; OSError or ValueError when the recording cannot be read.
    """
    recording.check()
    count = frame_count(recording.file)
    stop = count if recording.stop is None else min(recording.stop, count)
    needed = (frames - 1) * stride + 1
    if stop - recording.start < needed:
        raise TooShortError(f"{max(0, stop - recording.start)} frames, a clip needs {needed}")
    return range(recording.start, stop - needed + 1)


def box(source: tuple[int, int], model: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """(height, width), in source pixels, of what becomes the model's (height, width) when the source is resized so that its
    short side has `short_side` pixels; the largest box of the model's aspect if that is larger than the source, or for None.

    Examples: box((720, 1280), (224, 224), 336) -> (480, 480); None -> (720, 720).
    """
    (H, W), (h, w) = source, model
    largest = min(H, max(1, W * h // w)), min(W, max(1, H * w // h))
    if short_side is None:
        return largest
    height, width = (max(1, round(side * min(H, W) / short_side)) for side in (h, w))
    return (height, width) if height <= largest[0] and width <= largest[1] else largest


def validation_clips(recordings: Sequence[Recording], config: VidTwinConfig, count: int) -> tuple[Tensor, Failures]:
    """The first clip of each of the first `count` recordings that hold one, at every frame, centre-cropped.

    Returns:
        float32 (N, 3, F, H, W) in [-1, 1], N <= count; and the recordings that were passed over.

    Raises:
        ValueError: no recording holds a clip.
    """
    clips: list[Tensor] = []
    failures: list[tuple[str, str]] = []
    for recording in recordings:
        if len(clips) == count:
            break
        try:
            images = read_clip(recording.file, first_frames(recording, config.frames, 1)[0], config.frames)
            clips.append(to_clip(images, Geometry.plan("crop", images.shape[1:3], (config.height, config.width))))
        except (ValueError, OSError) as error:
            last = f"{recording.name} ({recording.reason(error)})"
            if not is_short_episode(recording, error):
                failures.append((recording.name, recording.reason(error)))
    if not clips:
        raise ValueError(f"none of {len(recordings)} recordings holds a clip of {config.frames} frames; the last: {last}")
    return torch.stack(clips), tuple(failures)
