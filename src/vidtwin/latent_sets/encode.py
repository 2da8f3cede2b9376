"""Items to rows, in one process: the windows of the next items are read while the model is at those of this one."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidtwin.files import in_line
from vidtwin.frames.clips import Geometry, is_resampled
from vidtwin.frames.windows import Cut, cut_windows, is_needed
from vidtwin.inference.encode import THREADS, pixels_of
from vidtwin.inference.engine import Engine
from vidtwin.latent_sets.items import Content, Item, opened
from vidtwin.latent_sets.plan import Plan
from vidtwin.latent_sets.rows import Encoded, table
from vidtwin.threads import ahead, cores, side_by_side
from vidtwin.video.read.decode import TableColumn, VideoWarning
from vidtwin.video.read.info import PendingFrame, VideoInfo
from vidtwin.video.read.random_access import timestamp
from vidtwin.video.read.reader import iter_pending, probe

AHEAD = 4  # windows that wait for the model


@dataclass(frozen=True)
class Failure:
    """An item that gave no rows, and why, in one line. `content` is None where the file could not even be read."""

    item: Item
    content: Content | None
    reason: str


@dataclass(frozen=True)
class Rows:
    """Of an item: an Arrow table."""

    item: Item
    content: Content
    table: Any


@dataclass(frozen=True)
class _Opened:
    """An item begins."""

    content: Content
    info: VideoInfo
    geometry: Geometry


@dataclass(frozen=True)
class ReadWindow:
    """A window's cut, clip (3, f, h, w) and seconds since the recording's first frame."""

    cut: Cut[Any]
    clip: Tensor
    times: tuple[float, ...]


@dataclass(frozen=True)
class _Ended:
    """An item ends, with what went wrong if anything did."""

    item: Item
    content: Content | None
    error: str | None


def encode_items(
    engine: Engine, plan: Plan, items: Iterable[Item], scratch: Path | None = None, begin: Callable[[Item], object] | None = None
) -> Iterator[Rows | Failure]:
    """The rows of each item, or why there are none, in the items' order.

    While it runs, what is warned of a damaged video is an error in this process, unless the plan takes damaged ones.

    Args:
        engine: of the plan's weights and dtype; its batch is that of the windows of one item that go through the model together.
        scratch: where copies of remote files are made for the time they are needed; default the system's temporary folder.
        begin: called with each item before its file is opened.

    Nothing that is wrong with a file is raised; MemoryError is, and what is wrong with the model (`Engine.encode`).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("default" if plan.damaged else "error", VideoWarning)
        yield from _encode_items(engine, plan, read_windows(plan, items, scratch, begin))


def _encode_items(engine: Engine, plan: Plan, events: "Iterator[_Opened | ReadWindow | _Ended]") -> Iterator[Rows | Failure]:
    opened_item: _Opened | None = None
    waiting: list[ReadWindow] = []
    done: list[Encoded] = []
    at_once = engine.windows_at_once(1)

    def run() -> None:
        """Put what waits through the model."""
        posterior = engine.encode(len(waiting), lambda index: waiting[index].clip)
        for number, read in enumerate(waiting):
            one = slice(number, number + 1)
            logvar = posterior.logvar[one] if plan.logvar else None
            done.append(Encoded(read.cut.anchor, read.cut.numbers, read.times, read.cut.valid, posterior.mean[one], logvar))
        waiting.clear()

    for event in ahead(events, max(AHEAD, at_once), single=True):
        if isinstance(event, _Opened):
            opened_item, done = event, []
        elif isinstance(event, ReadWindow):
            waiting.append(event)
            if len(waiting) == at_once:
                run()
        else:
            if waiting and event.error is None:
                run()
            waiting.clear()
            yield _outcome(plan, event, opened_item, done)
            opened_item, done = None, []


def _outcome(plan: Plan, ended: _Ended, begun: _Opened | None, done: list[Encoded]) -> Rows | Failure:
    if ended.error is not None or begun is None or not done:
        return Failure(ended.item, ended.content, ended.error or "gives no frames")
    try:
        size = begun.info.height, begun.info.width
        rows = table(plan, ended.item, begun.content, size, begun.info.fps, begun.geometry, done)
    except ValueError as error:  # values that do not fit what they are stored as
        return Failure(ended.item, begun.content, str(error))
    return Rows(ended.item, begun.content, rows)


def read_windows(
    plan: Plan, items: Iterable[Item], scratch: Path | None = None, begin: Callable[[Item], object] | None = None
) -> Iterator[_Opened | ReadWindow | _Ended]:
    """What there is of each item to encode; runs in a thread of its own."""
    for item in items:
        content: Content | None = None
        if begin is not None:
            begin(item)
        try:
            _check(plan, item)
            with opened(item, scratch) as (file, content):
                info = probe(file)
                geometry = Geometry.plan(plan.policy, (info.height, info.width), (plan.config.height, plan.config.width))
                yield _Opened(content, info, geometry)
                yield from _windows(plan, item, file, info, geometry)
        except (OSError, ValueError, VideoWarning) as error:
            yield _Ended(item, content, _reason(item, file if content is not None else item.file, error))
        else:
            yield _Ended(item, content, None)


def _windows(plan: Plan, item: Item, file: Any, info: VideoInfo, geometry: Geometry) -> Iterator[ReadWindow]:
    step = plan.step(info.fps)
    every = plan.every or step * plan.config.frames
    # From the second frame of the file on, reading begins at the key frame before.
    before = timestamp(file, item.start - 1) if item.start and not isinstance(file, TableColumn) else None
    frames = iter_pending(file, item.start, item.stop, last_pts=before)
    f, kind = plan.config.frames, plan.anchor
    numbered = ((frame, is_needed(number, f, step, every, kind)) for number, frame in enumerate(_all(plan, item, frames)))
    threads = min(cores(), THREADS) if is_resampled(geometry) and torch.get_num_threads() > 1 else 1
    fitted = side_by_side(partial(_fitted, geometry), numbered, threads)
    first: float | None = None
    for cut in cut_windows(fitted, f, step, every, kind):
        first = cut.frames[0][1] if first is None else first  # the first window begins with the recording, whatever its anchor
        clip = torch.from_numpy(np.stack([pixels for pixels, _ in cut.frames], axis=1))
        yield ReadWindow(cut, clip, tuple(round(time - first, 9) for _, time in cut.frames))


def _check(plan: Plan, item: Item) -> None:
    """Refuse what the source's listing showed to be wrong."""
    if item.problem is not None:
        raise ValueError(item.problem)
    if item.stop is not None:
        _check_count(plan, item, item.stop - item.start)


def _check_count(plan: Plan, item: Item, count: int) -> None:
    """Refuse other frames than the source says: rows would not join its own. Damaged recordings may have fewer, if taken."""
    if item.stated is not None and (count > item.stated or (count < item.stated and not plan.damaged)):
        raise ValueError(f"has {count} frames from {item.start} on, the data set says {item.stated}; get it again")


def _all(plan: Plan, item: Item, frames: Iterable[PendingFrame]) -> Iterator[PendingFrame]:
    """The frames, and a refusal at their end if there are not as many as there must be."""
    count = 0
    for frame in frames:
        yield frame
        count += 1
    _check_count(plan, item, count)


def _fitted(geometry: Geometry, numbered: tuple[PendingFrame, bool]) -> tuple[np.ndarray, float]:
    frame, needed = numbered
    time = float(frame.pts * frame.time_base)
    return (pixels_of(geometry, frame.picture(True)) if needed else np.empty(0, np.float32)), time


def _reason(item: Item, file: Any, error: Exception) -> str:
    """What an error says, without the name of the file, which is beside it."""
    text = " ".join(str(error).split()) or type(error).__name__
    for name in (str(file), item.video, str(Path(str(file)).absolute())):
        text = text.removeprefix(f"{name}: ")
    return in_line(text)
