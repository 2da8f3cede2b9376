"""What video codecs make of a clip: bits and PSNR at several qualities.

F frames per clip; H, W height and width in pixels, both even. A clip is one group of pictures: a key frame, then whatever the
encoder finds best.
"""

import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor

from vidtwin.frames.clips import levels
from vidtwin.metrics import clip_psnr
from vidtwin.video.pyav import open_encoder
from vidtwin.video.read.reader import read_video
from vidtwin.video.write.encoder import color_graph, configure
from vidtwin.video.write.encoding import X264, Settings

FPS = Fraction(25)


@dataclass(frozen=True)
class Codec:
    """An encoder at about its best, at any speed.

    Attributes:
        settings: but for the quality. qualities: values of CRF from good to bad, over the rates of our latents.
    """

    settings: Settings
    qualities: tuple[int, ...]

    def at(self, quality: int) -> Settings:
        """With a CRF."""
        return Settings(self.settings.encoder, self.settings.pixel_format, {**self.settings.options, "crf": str(quality)})


CODECS = {
    "x264": Codec(Settings("libx264", "yuv420p", {"preset": "veryslow", "g": "1000"} | X264), (24, 28, 32, 36, 40, 44)),
    "x265": Codec(
        Settings("libx265", "yuv420p", {"preset": "veryslow", "x265-params": "keyint=1000:info=0:log-level=error"}),
        (24, 28, 32, 36, 40, 44),
    ),
    "svtav1": Codec(Settings("libsvtav1", "yuv420p", {"preset": "3", "g": "1000"}), (32, 40, 48, 54, 58, 63)),
}


@dataclass(frozen=True)
class Point:
    """What a clip costs and how near it comes: `bits` (what a file adds around the clips is left out), and `psnr` in dB as
    `metrics.clip_psnr` has it. `quality`: CRF, or the step of a quantiser."""

    quality: float
    bits: float
    psnr: float


def coded(clip: Tensor, settings: Settings) -> tuple[int, Tensor]:
    """Bits of the packets of a clip (3, F, H, W) in [-1, 1], and what they decode to, the same.

    The clip is rounded to 8 bits first, as codecs take it; colour is BT.709, 4:2:0.
    """
    pictures = levels(clip).permute(1, 2, 3, 0).cpu().numpy()
    size = pictures.shape[1], pictures.shape[2]
    os.environ.setdefault("SVT_LOG", "1")
    with tempfile.TemporaryDirectory(prefix="vidtwin-") as folder:
        path = Path(folder, "clip.mkv")
        with av.open(str(path), "w") as container:
            stream = container.add_stream(settings.encoder, rate=FPS, options=settings.options)
            assert isinstance(stream, VideoStream)
            configure(stream.codec_context, settings, size, FPS, Fraction(1))
            open_encoder(stream.codec_context)
            graph, bits = color_graph(size), 0
            for number, picture in enumerate(pictures):
                graph.push(VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"))
                frame = graph.pull()
                assert isinstance(frame, VideoFrame)
                frame.pts, frame.time_base = number, 1 / FPS
                for packet in stream.encode(frame):
                    bits += 8 * payload(packet, settings.encoder)
                    container.mux(packet)
            for packet in stream.encode(None):
                bits += 8 * payload(packet, settings.encoder)
                container.mux(packet)
        frames = np.asarray(read_video(path).frames)
    assert len(frames) == len(pictures), f"{len(pictures)} frames became {len(frames)}"
    return bits, torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1


def payload(packet: Packet, encoder: str) -> int:
    """Bytes of a packet without what x264 writes about itself into the first one, 700 of them (SEI, type 6 of H.264's units)."""
    if encoder != "libx264":
        return packet.size
    units = re.split(rb"\x00?\x00\x00\x01", bytes(packet))[1:]
    return sum(len(unit) + 4 for unit in units if unit[0] & 31 != 6)


def codec_curve(clip: Tensor, codec: str) -> list[Point]:
    """A point for each quality of a codec of `CODECS`, of a clip (3, F, H, W) in [-1, 1].

    Raises:
        ValueError: another codec.
    """
    check_codecs([codec])
    points = []
    for quality in CODECS[codec].qualities:
        bits, decoded = coded(clip, CODECS[codec].at(quality))
        points.append(Point(quality, bits, clip_psnr(decoded, clip)))
    return points


def mean_curve(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """Of the curves of clips with the same qualities: at each the mean over clips."""
    return [
        Point(points[0].quality, float(np.mean([point.bits for point in points])), float(np.mean([point.psnr for point in points])))
        for points in zip(*curves, strict=True)
    ]


def check_codecs(names: Iterable[str]) -> None:
    """Raise a ValueError for a codec that there is not."""
    if unknown := set(names) - set(CODECS):
        raise ValueError(f"codec {min(unknown)!r} is unknown; choose of {', '.join(CODECS)}")
