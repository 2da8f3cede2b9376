"""Real files for the tests: a few carried ones (../assets) and ones that are encoded on the spot."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, VideoReformatter

from vidtwin.video import pyav


@pytest.fixture
def encode(tmp_path: Path) -> Callable[..., Path]:
    """encode(name, pictures, ...) -> path of a video of RGB pictures, with any codec, tags and timestamps."""

    def encode(
        name: str,
        pictures: Sequence[np.ndarray],
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        options: dict[str, str] | None = None,
        pts: Sequence[int] | None = None,
        matrix: tuple[int, ...] | None = None,
        tags: dict[str, int] | None = None,
        aspect: Fraction | None = None,
        format: str | None = None,
    ) -> Path:
        path = tmp_path / name
        height, width = pictures[0].shape[:2]
        tags = tags or {}
        with av.open(path, "w", format=format) as container:
            stream: Any = container.add_stream(codec, rate=25, options=options or {})
            stream.height, stream.width, stream.pix_fmt = height, width, pix_fmt
            for tag, value in tags.items():
                setattr(stream.codec_context, tag, value)
            if aspect is not None:
                stream.codec_context.sample_aspect_ratio = aspect
            if matrix is not None:
                if not pyav.TURNS:
                    pytest.skip("this PyAV cannot write a display matrix")
                stream.set_display_matrix([value << 16 for value in matrix[:8]] + [matrix[8] << 30])
            pyav.open_encoder(stream.codec_context)
            for number, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.colorspace = tags.get("colorspace", 6)  # of what it becomes: PyAV 17 has no dst_colorspace for BT.2020
                frame = pyav.reformat(
                    VideoReformatter(),
                    frame,
                    threads=0,
                    format=pix_fmt,
                    src_color_range=ColorRange.JPEG,
                    dst_color_range=tags.get("color_range", ColorRange.MPEG),
                )
                frame.pts = number if pts is None else pts[number]
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return encode


@pytest.fixture
def blobs() -> Callable[..., np.ndarray]:
    """blobs(count, height=48, width=64) -> uint8 (count, height, width, 3): smooth, moving, every frame another."""
    return _blobs


def _blobs(count: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (5, 6, 3))
    rows, columns = np.linspace(0, 4, height), np.linspace(0, 5, width)
    smooth = np.stack([_bilinear(coarse[..., channel], rows, columns) for channel in range(3)], axis=-1)
    return np.stack([np.roll(smooth, 3 * index, axis=1) for index in range(count)]).round().astype(np.uint8)


def _bilinear(coarse: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    by_row = np.stack([np.interp(columns, np.arange(coarse.shape[1]), row) for row in coarse])
    return np.stack([np.interp(rows, np.arange(coarse.shape[0]), column) for column in by_row.T], axis=1)
