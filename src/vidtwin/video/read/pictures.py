"""Decoded frames -> pictures as displayed, and what of a frame they do not keep."""

import threading
from fractions import Fraction

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream

import vidtwin.video.pyav as pyav
import vidtwin.video.read.hdr as hdr
from vidtwin.frames.orientation import Orientation
from vidtwin.video.read.decode import MAX_PIXELS, VideoFile, too_large

MAX_PIXEL_ASPECT = 32  # pixels stated to be longer than this are taken for square: the file is wrong

# swscale's flags bicubic, accurate_rnd and full_chroma_int, as FFmpeg numbers them: PyAV 17 has no names for the last two.
# Slower than swscale's default, but without its bias of more than a level, and chroma interpolated.
SCALER = 0x4 | 0x40000 | 0x2000
PLANAR = "gbrp"  # swscale makes the same bits of YUV as in rgb24, three times faster

# H.273 matrix number, as frames carry it -> name, swscale's number; all others (2 is "untagged") are guessed.
MATRICES = {
    1: ("bt709", 1),
    4: ("fcc", 4),
    5: ("bt601", 5),
    6: ("bt601", 5),
    7: ("smpte240m", 7),
    9: ("bt2020", 9),
    10: ("bt2020", 9),
}
UNTAGGED = (0, 2, 3)  # H.273: RGB, unspecified, reserved

TRANSPARENCY = "transparency is dropped: what is see-through shows the colour stored under it"


def color_matrix(frame: VideoFrame, stream: VideoStream) -> tuple[str, int | None]:
    """Name and number of the matrix a frame is converted with: its tag, or a guess.

    The guess is BT.2020 beside a transfer or primaries that go with it, else BT.709 from 720 lines and BT.601 below.
    """
    if frame.format.is_rgb:
        return "rgb", None
    light = hdr.Light.of(frame, stream)
    guess = 9 if light is not None and light.wide else 1 if frame.height >= 720 else 5
    return MATRICES.get(frame.colorspace, MATRICES[guess])


def color_range(frame: VideoFrame) -> ColorRange:
    """JPEG (full, 0..255) or MPEG (limited, 16..235); untagged frames are limited, but gray, and formats that say otherwise."""
    full = frame.format.is_rgb or frame.format.name.startswith("yuvj") or frame.color_range == ColorRange.JPEG
    full = full or (_is_gray(frame) and frame.color_range != ColorRange.MPEG)
    return ColorRange.JPEG if full else ColorRange.MPEG


def _is_gray(frame: VideoFrame) -> bool:
    return frame.format.name.startswith(("gray", "ya"))


def _with_chroma(frame: VideoFrame, levels: ColorRange) -> VideoFrame:
    """A gray frame as YUV of the same numbers where swscale ignores the range: it takes floats for limited, others for full."""
    floats = "f" in frame.format.name
    if not _is_gray(frame) or (levels == ColorRange.JPEG and not floats):
        return frame
    if floats:
        light = np.nan_to_num(frame.reformat(format="grayf32le").to_ndarray().clip(0, 1)) * 65535
        gray = VideoFrame.from_ndarray(light.round().astype(np.uint16), format="gray16le")
    else:
        gray = frame
    bits = gray.format.components[0].bits
    return gray.reformat(
        format="yuv444p" if bits == 8 else f"yuv444p{bits}le", src_color_range=ColorRange.JPEG, dst_color_range=ColorRange.JPEG
    )


def stored_pixel_aspect(stream: VideoStream) -> Fraction:
    """Width / height of a pixel as stored, before it is turned upright; 1 if the file does not say or cannot be right."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    return aspect if 1 <= MAX_PIXEL_ASPECT * aspect <= MAX_PIXEL_ASPECT**2 else Fraction(1)


def what_is_lost(stream: VideoStream, frame: VideoFrame) -> tuple[str, ...]:
    """The notes of `VideoInfo`, judged by the first frame, which must not have been made a picture yet."""
    notes = []
    light = hdr.Light.of(frame, stream)
    if light is not None:
        kind = (
            "wide colour (BT.2020) is converted to BT.709" if light.transfer == hdr.SDR else f"HDR ({light}) is tone-mapped to SDR"
        )
        notes.append(kind)
    bits = max((component.bits for component in frame.format.components), default=8)
    if bits > 8:
        notes.append(f"{bits} bits a channel are read as 8")
    if frame.interlaced_frame:
        notes.append("is interlaced; fields are kept woven together, not deinterlaced")
    if stream.metadata.get("alpha_mode") == "1" or _is_transparent(frame):
        notes.append(TRANSPARENCY)
    if not frame.format.is_rgb and frame.colorspace not in (*MATRICES, *UNTAGGED):
        notes.append(
            f"its colour matrix (H.273 number {frame.colorspace}) is not known here and taken for {color_matrix(frame, stream)[0]}"
        )
    return tuple(notes)


def _is_transparent(frame: VideoFrame) -> bool:
    """Whether it has an alpha channel; GIF and palettes always do, and are looked at."""
    if frame.format.name not in ("bgra", "pal8"):
        return any(component.is_alpha for component in frame.format.components)
    return bool(VideoReformatter().reformat(frame, format="rgba").to_ndarray()[..., 3].min() < 255)


class Pictures:
    """Turns decoded frames into pictures as displayed: uint8 (H, W, 3) RGB, rotated, SDR, all of one size.

    With `square_pixels` the width is scaled for the pixel aspect. The first frame sets the size, unless it is given as
    (height, width) upright; later frames of another size are scaled to it. After the first, threads may share the work.

    Raises ValueError, in one line: pictures larger than MAX_PIXELS, or of a format that cannot be made RGB.
    """

    def __init__(
        self, path: VideoFile, stream: VideoStream, square_pixels: bool = True, size: tuple[int, int] | None = None
    ) -> None:
        self._pixel_aspect = stored_pixel_aspect(stream) if square_pixels else Fraction(1)
        self._path, self._stream = path, stream
        self._own = _Own()
        self.size = size

    def fit(self, frame: VideoFrame) -> tuple[int, int]:
        """(height, width) of the upright pictures; set by the first frame that is seen."""
        if self.size is None:
            self.size = Orientation.of(frame).size((frame.height, max(1, round(frame.width * self._pixel_aspect))))
            if self.size[0] * self.size[1] > MAX_PIXELS:
                raise ValueError(f"{self._path}: {too_large(self.size[1], self.size[0])}")
        return self.size

    def __call__(self, frame: VideoFrame, planar: bool = False) -> np.ndarray:
        """The picture; if `planar`, made in this thread alone, and its memory may be that of an array (3, H, W)."""
        stream = self._stream
        orientation, light, matrix = Orientation.of(frame), hdr.Light.of(frame, stream), color_matrix(frame, stream)[1]
        height, width = orientation.size(self.fit(frame))
        pyav.forget_color_tags(frame)
        if frame.colorspace == 10:  # BT.2020 with constant luminance, which swscale can only convert as the other BT.2020
            frame.colorspace = 9
        rgb24 = "rgb24" if frame.format.is_rgb else PLANAR
        levels = color_range(frame)
        try:
            rgb = pyav.reformat(
                self._own.reformatter,
                _with_chroma(frame, levels),
                threads=1 if planar else 0,
                width=width,
                height=height,
                format=rgb24 if light is None else "rgb48le",
                src_colorspace=matrix,
                src_color_range=levels,
                dst_color_range=ColorRange.JPEG,
                interpolation=SCALER,
            )
        except FFmpegError as error:
            kind = f"{frame.width}x{frame.height} {frame.format.name}"
            raise ValueError(f"{self._path}: {kind} pictures cannot be made RGB; convert it to H.264 first") from error
        if planar and rgb.format.name == PLANAR:
            return _upright_planes(rgb, orientation).transpose(1, 2, 0)
        picture = rgb.to_ndarray()
        return orientation.upright(picture if light is None else hdr.to_sdr(picture, light))


class _Own(threading.local):
    """What each thread has for itself: a reformatter, which keeps its tables from frame to frame."""

    def __init__(self) -> None:
        self.reformatter = VideoReformatter()


def _upright_planes(rgb: VideoFrame, orientation: Orientation) -> np.ndarray:
    """(3, H, W) R, G, B of a frame of format PLANAR."""
    lines = (np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size) for plane in rgb.planes)
    green, blue, red = (plane[: rgb.height, : rgb.width] for plane in lines)
    planes = np.empty((3, *orientation.size((rgb.height, rgb.width))), np.uint8)
    for target, plane in zip(planes, (red, green, blue), strict=True):
        target[:] = orientation.turned(plane)
    return planes
