"""One run of an encoder: RGB pictures -> packets, one for each, in the order shown."""

import os
from fractions import Fraction

import av
import numpy as np
from av.filter import Graph
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange

from vidtwin.video.pyav import open_encoder
from vidtwin.video.write.encoding import THREADS, Settings

GLOBAL_HEADER = 1 << 22  # FFmpeg's flag: parameter sets in the extradata, where containers want them
BT709, RGB, SRGB = 1, 0, 13  # H.273 numbers: matrix, transfer and primaries alike; matrix; transfer
AV1_RATES = Fraction(1), Fraction(240)  # what SVT-AV1 takes; times are the container's, not the encoder's


class FrameEncoder:
    """Compresses pictures of one size; the first packet is a key frame.

    Args:
        settings: from `Encoding.settings`.
        size: (height, width) of the pictures as stored; an odd side is padded if the codec needs it even.
        fps: frames per second, for the rate control alone.
        pixel_aspect: width / height of a stored pixel.

    Raises av.error.FFmpegError, here and in its methods, when the encoder fails.
    """

    def __init__(self, settings: Settings, size: tuple[int, int], fps: Fraction, pixel_aspect: Fraction) -> None:
        context = av.CodecContext.create(settings.encoder, "w")
        assert isinstance(context, VideoCodecContext)
        context.options = dict(settings.options)
        configure(context, settings, size, fps, pixel_aspect)
        open_encoder(context)
        self._context, self._settings = context, settings
        self._frame_time = context.time_base
        self._graph = color_graph(padded(settings, size)) if settings.halves_chroma else None
        self._sent = self._received = 0

    @property
    def extradata(self) -> bytes:
        """What the container stores once for all packets; the same for every run with the same settings."""
        return self._context.extradata or b""

    def encode(self, picture: np.ndarray) -> list[Packet]:
        """uint8 (H, W, 3) as stored -> the packets that are ready, usually of earlier pictures."""
        height, width = self._context.height, self._context.width
        if picture.shape[:2] != (height, width):
            picture = np.pad(picture, ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)), "edge")
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        if self._graph is not None:
            self._graph.vpush(frame)
            frame = self._graph.vpull()
        elif self._settings.pixel_format != "rgb24":
            frame = frame.reformat(format=self._settings.pixel_format)
        frame.pts, frame.time_base = self._sent, self._frame_time
        self._sent += 1
        return self._in_order(self._context.encode(frame))

    def finish(self) -> list[Packet]:
        """The packets of all pictures that are still in the encoder; it takes no more."""
        packets = self._in_order(self._context.encode(None))
        assert self._received == self._sent, f"{self._sent} pictures became {self._received} packets"
        return packets

    def _in_order(self, packets: list[Packet]) -> list[Packet]:
        for packet in packets:
            assert packet.pts == self._received, f"packet {self._received} has the number {packet.pts}"
            self._received += 1
        return packets


def padded(settings: Settings, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the pictures that the encoder takes for pictures of `size`."""
    height, width = size
    return (height + height % 2, width + width % 2) if settings.halves_chroma else size


def configure(context: VideoCodecContext, settings: Settings, size: tuple[int, int], fps: Fraction, pixel_aspect: Fraction) -> None:
    """Set all that changes the extradata or the packets, but the options."""
    os.environ.setdefault("SVT_LOG", "1")  # errors alone; SVT-AV1 would tell its settings on stderr
    if settings.encoder == "libsvtav1":
        fps = min(max(fps, AV1_RATES[0]), AV1_RATES[1])
    context.height, context.width = padded(settings, size)
    context.pix_fmt = settings.pixel_format
    context.framerate, context.time_base = fps, 1 / fps
    if pixel_aspect != 1:
        context.sample_aspect_ratio = pixel_aspect
    context.thread_count = THREADS
    context.flags |= GLOBAL_HEADER
    context.color_primaries = BT709
    if settings.halves_chroma:
        context.colorspace = context.color_trc = BT709
        context.color_range = ColorRange.MPEG
    else:
        context.colorspace, context.color_trc, context.color_range = RGB, SRGB, ColorRange.JPEG


def color_graph(size: tuple[int, int]) -> Graph:
    """RGB -> yuv420p, BT.709, limited range, and chroma sited left, as decoders expect (not swscale's centre)."""
    height, width = size
    graph = Graph()
    conversion = "out_color_matrix=bt709:out_range=limited:out_chroma_loc=left:flags=bicubic+accurate_rnd+full_chroma_inp"
    graph.link_nodes(
        graph.add_buffer(width=width, height=height, format=VideoFormat("rgb24"), time_base=Fraction(1, 1000)),
        graph.add("scale", conversion),
        graph.add("format", "yuv420p"),
        graph.add("buffersink"),
    ).configure()
    return graph
