"""Pictures are made RGB by way of planes, which is faster; the bits are those of packed RGB."""

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, VideoReformatter

from vidtwin.video.pictures import PLANAR, SCALER

YUV_420 = ["yuv420p", "yuvj420p", "nv12", "yuva420p", "yuv420p10le", "p010le"]
OTHERS = ["yuv422p", "yuv444p", "yuv411p", "yuyv422", "yuv422p12le", "gray", "gray16le"]


@pytest.mark.parametrize("size", [(48, 64), (47, 63), (2, 2)], ids=str)
@pytest.mark.parametrize("pix_fmt", YUV_420 + OTHERS)
def test_planes_hold_the_same_bits(pix_fmt, size):
    rng = np.random.default_rng(0)
    height, width = size
    frame = av.VideoFrame(width, height, pix_fmt)
    for plane in frame.planes:
        plane.update(rng.integers(0, 256, plane.buffer_size, np.uint8).tobytes())
    for wider, full in ((1, ColorRange.JPEG), (2, ColorRange.MPEG)):
        packed, planar = (
            VideoReformatter()
            .reformat(
                frame,
                width=wider * width,
                height=height,
                format=target,
                src_colorspace=1,
                src_color_range=full,
                dst_color_range=ColorRange.JPEG,
                interpolation=SCALER,
            )
            .to_ndarray()
            for target in ("rgb24", PLANAR)
        )
        assert (packed == planar).all()
