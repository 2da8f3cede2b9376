"""Video files -> frames as displayed, with exact timestamps, in order or at random.

What a video is: a file that FFmpeg reads, a folder or a numbered sequence of images, an animated WebP or a TIFF of several
pages (`images`), a member of a tar, or a column of pictures in a Parquet file (`tables`).

What a frame is: RGB of 8 bits, rotated and mirrored as the file asks, its pixels made square by scaling the width. The colour
matrix and range are those that the file is tagged with; an untagged file is taken for BT.709 when it has 720 lines or
more, for BT.601 below, and for limited range. High dynamic range (PQ, HLG) is tone-mapped to SDR, and BT.2020 becomes BT.709
(`hdr`); interlaced video is not deinterlaced; transparency is ignored. `VideoInfo.notes` says which of these befalls a file.

Bounds: pictures above 2^27 pixels and files of more than 256 streams are refused; of a file that gives no frame for 100,000
packets the rest is left out. Formats that name other files (playlists) are refused, so nothing but `path` is ever read.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

import vidtwin.video.read.images as images
import vidtwin.video.read.in_order as in_order
import vidtwin.video.read.random_access as random_access
import vidtwin.video.read.tables as tables
from vidtwin.video.read.decode import TableColumn, VideoFile, check_file
from vidtwin.video.read.info import Frame, PendingFrame, VideoInfo
from vidtwin.video.read.whole import Video

__all__ = ["Frame", "Video", "VideoInfo", "frame_count", "info_of", "iter_frames", "probe", "read_clip", "read_video"]


def probe(path: VideoFile) -> VideoInfo:
    """What the file says about its video; decodes one frame.

    Raises OSError or ValueError, in one line, as `iter_frames` does.
    """
    pictures = _pictures(path)
    return in_order.probe(path) if pictures is None else pictures.info()


def info_of(video: VideoFile | VideoInfo) -> VideoInfo:
    """What `probe` said of a video, or says of it now. Raises as `probe`."""
    return video if isinstance(video, VideoInfo) else probe(video)


def iter_frames(
    path: VideoFile,
    start: int = 0,
    stop: int | None = None,
    *,
    square_pixels: bool = True,
    last_pts: int | None = None,
) -> Iterator[Frame]:
    """Frames start..stop-1 (all to the end by default) in the order they are shown, one in memory at a time.

    A frame without a timestamp, or with one that does not come after the previous frame's, gets the previous one plus
    1 / fps. A video that changes its size is scaled to the size of its first frame. Damaged packets are skipped; when
    the end is reached and frames were missing or damaged, one `VideoWarning` says how many.

    Args:
        path: of the video.
        start, stop: numbers of frames.
        square_pixels: False gives upright pictures of `VideoInfo.stored_size`, whose width is not scaled for pixel aspect.
        last_pts: timestamp of frame start - 1, as reading this file before gave it. Where it is certain to give the same
            frames, decoding then begins at the key frame before it instead of at the start of the file; the warning at
            the end then tells of what follows only.

    Raises (when the first frame is asked for, except for what can be seen from the path and the numbers):
        OSError: the file is missing, a folder without images or not readable.
        ValueError: it is no video, has no video stream, is cut off, nothing in it can be decoded, its pictures are too
            large, or it ends before frame `start`.
    """
    return _made(iter_pending(path, start, stop, square_pixels=square_pixels, last_pts=last_pts))


def iter_pending(
    path: VideoFile,
    start: int = 0,
    stop: int | None = None,
    *,
    square_pixels: bool = True,
    last_pts: int | None = None,
) -> Iterator[PendingFrame]:
    """`iter_frames`, but pictures are made when they are asked for; what making one raises is raised then."""
    pictures = _pictures(path)
    if pictures is None:
        check_file(path)
    if start < 0 or (stop is not None and stop <= start):
        raise ValueError(f"{path}: frames {start} to {stop} are not a range; give 0 <= start < stop")
    if pictures is not None:
        return (_pending(frame) for frame in pictures.frames(start, stop))
    return in_order.iter_pending(path, start, stop, square_pixels, last_pts)


def _pictures(path: VideoFile) -> Any:
    """The images that a path means; None if it is to be read as a video file."""
    return tables.Column(path) if isinstance(path, TableColumn) else images.find(path)


def _made(frames: Iterator[PendingFrame]) -> Iterator[Frame]:
    for pending in frames:
        yield pending.frame()


def _pending(frame: Frame) -> PendingFrame:
    return PendingFrame(lambda planar: frame.image, frame.pts, frame.time_base, frame.duration)


def read_video(path: VideoFile, start: int = 0, stop: int | None = None) -> Video:
    """Frames start..stop-1 (all by default) at once, as `iter_frames` gives and refuses them."""
    info = probe(path)
    frames = list(iter_frames(path, start, stop))
    return Video(np.stack([frame.image for frame in frames]), [frame.time for frame in frames], info.fps, info)


def frame_count(path: VideoFile) -> int:
    """Frames that `iter_frames` gives for an undamaged file, counted without decoding where timestamps allow it.

    Raises OSError or ValueError, in one line, as `iter_frames` does.
    """
    pictures = _pictures(path)
    return random_access.frame_count(path) if pictures is None else pictures.count


def read_clip(path: VideoFile, start: int, count: int, stride: int = 1) -> np.ndarray:
    """Frames start, start + stride, ... (`count` of them), uint8 (count, H, W, 3): the same as slicing `read_video`.

    Seeks to the last key frame before and decodes from there. In a damaged file frames are numbered as they are stored,
    those that cannot be decoded included.

    Raises:
        OSError: as `iter_frames`.
        ValueError: as `iter_frames`; also when the range leaves the video, or a frame in it cannot be decoded or is damaged.
    """
    pictures = _pictures(path)
    total = random_access.frame_count(path) if pictures is None else pictures.count
    if start < 0 or count < 1 or stride < 1 or start + (count - 1) * stride >= total:
        asked = f"{count} frames from {start} at stride {stride}"
        raise ValueError(f"{path}: has {total} frames; {asked} do not lie in it, choose a smaller range")
    numbers = range(start, start + (count - 1) * stride + 1, stride)
    clip = random_access.read_clip(path, numbers) if pictures is None else None
    if clip is None:
        frames = islice(iter_frames(path, start, numbers[-1] + 1), 0, None, stride)
        clip = np.stack([frame.image for frame in frames])
    return clip
