"""Videos and pictures as HTML elements that hold their data: for pages and notebooks, which load nothing."""

import base64
import io
import tempfile
from fractions import Fraction
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from vidtwin.files import in_line
from vidtwin.video.write.encoding import Encoding
from vidtwin.video.write.writer import VideoWriter

MOST_FRAMES, MOST_PIXELS, MOST_BYTES = 300, 2**18, 2**21  # of a preview: frames, pixels of a frame, bytes of its H.264 file


def picture(pixels: np.ndarray, alt: str) -> str:
    """uint8 (H, W, 3) as an element; photographs as JPEG where that is smaller."""
    files = {}
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 88})):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, kind, **options)
        files[kind] = out.getvalue()
    kind = "png" if len(files["png"]) < 3 * len(files["jpeg"]) else "jpeg"
    return f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(files[kind]).decode()}">'


def video(frames: np.ndarray, fps: Fraction, label: str, crf: int = 20) -> str:
    """uint8 (F, H, W, 3) as an element that plays in a loop.

    Raises:
        OSError, ValueError: as `VideoWriter`.
    """
    return _element(_h264(frames, fps, crf), label)


def preview(frames: np.ndarray, fps: Fraction, label: str, total: int | None = None) -> str:
    """Frames in a bounded number of bytes, with their label below: the first MOST_FRAMES, scaled down to MOST_PIXELS.

    A picture of the first frame, if there is only one, or no H.264 file of at most MOST_BYTES can be made. `total`: frames of the
    whole video, if `frames` are its first ones.
    """
    text, total, shown = in_line(label, 200), total or len(frames), frames[:MOST_FRAMES]
    scale = min(1.0, (MOST_PIXELS / (shown.shape[1] * shown.shape[2])) ** 0.5)
    width, height = (max(2, round(scale * side / 2) * 2) for side in (shown.shape[2], shown.shape[1]))
    if scale < 1:
        shown = np.stack([np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX)) for frame in shown])
    part = f", the first {len(shown)} of {total} frames" if len(shown) < total else ""
    return f"<figure>{_moving(shown, fps, text)}<figcaption>{escape(text)}{part}</figcaption></figure>"


def _moving(frames: np.ndarray, fps: Fraction, label: str) -> str:
    for crf in (24, 34) if len(frames) > 1 else ():
        try:
            data = _h264(frames, fps, crf)
        except (OSError, ValueError):  # no encoder, or no room for its file
            break
        if len(data) <= MOST_BYTES:
            return _element(data, label)
    return picture(frames[0], label)


def _h264(frames: np.ndarray, fps: Fraction, crf: int) -> bytes:
    with tempfile.TemporaryDirectory(prefix="vidtwin-") as folder:
        path = Path(folder, "clip.mp4")
        with VideoWriter(path, fps, frames.shape[1:3], Encoding("h264", crf)) as writer:
            writer.write(frames)
        return path.read_bytes()


def _element(data: bytes, label: str) -> str:
    source = f"data:video/mp4;base64,{base64.b64encode(data).decode()}"
    return f'<video aria-label="{escape(label)}" controls loop muted autoplay playsinline src="{source}"></video>'
