"""Pictures are made RGB by way of planes, which is faster; the bits are those of packed RGB."""

from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, VideoReformatter

from vidtwin.frames.orientation import Orientation
from vidtwin.video import iter_frames
from vidtwin.video.read.pictures import PLANAR, SCALER, _upright_planes
from vidtwin.video.read.reader import iter_pending

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


@pytest.mark.parametrize("width", [64, 62, 33])
def test_planes_are_turned_as_pictures_are(width):
    frame = av.VideoFrame(width, 48, PLANAR)
    for plane in frame.planes:  # lines are padded
        plane.update(np.random.default_rng(0).integers(0, 256, plane.buffer_size, np.uint8).tobytes())
    for number in range(8):
        orientation = Orientation(bool(number & 1), bool(number & 2), bool(number & 4))
        planes = _upright_planes(frame, orientation)
        assert planes.flags.c_contiguous
        assert np.array_equal(planes.transpose(1, 2, 0), orientation.upright(frame.to_ndarray()))


def test_pictures_made_in_threads_are_those_made_in_order(encode, blobs):
    path = encode("v.mp4", blobs(20))
    frames, pending = list(iter_frames(path)), list(iter_pending(path))
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(lambda frame: frame.picture(True), pending[::-1]))[::-1]
    for frame, late, image in zip(frames, pending, pictures, strict=True):
        assert frame.image.flags.c_contiguous and np.array_equal(frame.image, image)
        assert (frame.pts, frame.time_base, frame.duration) == (late.pts, late.time_base, late.duration)
