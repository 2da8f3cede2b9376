"""How frames are compressed: the codec that a file name asks for, its quality, and what each codec and container can hold."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

# FFmpeg's name of the container that a suffix stands for.
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
PNG = "png"  # not a video: a file for each frame


@dataclass(frozen=True)
class Settings:
    """What an encoder is opened with."""

    encoder: str
    pixel_format: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def halves_chroma(self) -> bool:
        """Whether colour is stored for squares of 2x2 pixels, so that both sides have to be even."""
        return self.pixel_format == "yuv420p"


@dataclass(frozen=True)
class _Codec:
    """A codec as this package writes it; `crf`: the best, the default and the worst."""

    suffixes: tuple[str, ...]
    smallest: int
    largest: tuple[int, int]  # (height, width)
    lossy: Settings | None = None
    crf: tuple[int, int, int] = (0, 0, 0)
    lossless: Settings | None = None
    fast: dict[str, str] = field(default_factory=dict)  # options of lossy settings


def _x264_options(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Where the processor has AVX-512, leave it to x264 no further than AVX2: its AVX-512 code reads memory that was never written
    (seen with macroblock-tree rate control), so that the same frames became other bytes from run to run."""
    wide = cpuinfo.is_file() and "avx512bw" in cpuinfo.read_text()
    return {"x264-params": "asm=avx2"} if wide else {}


X264 = _x264_options()
# The number of threads is the same on every machine, because it changes the bytes; frames are stored in the order shown.
THREADS = 4
_X265 = "bframes=0:frame-threads=2:pools=4:log-level=error"
_VP9 = {"b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}

_CODECS = {
    "h264": _Codec(
        (".mp4", ".m4v", ".mov", ".mkv"),
        1,
        (16_384, 16_384),
        Settings("libx264", "yuv420p", {"bf": "0"} | X264),
        (0, 18, 51),
        Settings("libx264rgb", "rgb24", {"bf": "0", "qp": "0"} | X264),
        {"preset": "veryfast"},
    ),
    "hevc": _Codec(
        (".mp4", ".m4v", ".mov", ".mkv"),
        64,  # x265 writes beyond its memory for pictures that are narrower than about 48
        (16_384, 16_384),
        Settings("libx265", "yuv420p", {"x265-params": _X265}),
        (0, 20, 51),
        Settings("libx265", "gbrp", {"x265-params": f"lossless=1:{_X265}"}),
        {"preset": "veryfast"},
    ),
    "vp9": _Codec(
        (".webm", ".mkv", ".mp4", ".m4v"),
        1,
        (65_534, 65_534),
        Settings("libvpx-vp9", "yuv420p", _VP9),
        (0, 24, 63),
        Settings("libvpx-vp9", "gbrp", {**_VP9, "lossless": "1"}),
        {"cpu-used": "8"},
    ),
    "av1": _Codec(
        (".mkv", ".webm", ".mp4", ".m4v"),
        16,  # SVT-AV1 reads beyond its memory at 4
        (8_704, 16_384),
        Settings("libsvtav1", "yuv420p", {"preset": "8", "svtav1-params": "lp=3"}),
        (1, 24, 63),  # 0 is taken for no choice at all
        fast={"preset": "12"},
    ),
    "ffv1": _Codec(
        (".mkv",),
        2,
        (65_534, 65_534),
        lossless=Settings("ffv1", "bgr0", {"level": "3", "g": "1", "slices": "4", "slicecrc": "1"}),
    ),
}
CODECS = ("auto", *_CODECS, PNG)


@dataclass(frozen=True)
class Encoding:
    """How frames are compressed.

    Attributes:
        codec: "auto", "h264", "hevc", "vp9", "av1", "ffv1" or "png". Auto goes by the name of the output: H.264 for .mp4,
            .m4v, .mov and .mkv, VP9 for .webm, PNG for a folder or a pattern such as out/%05d.png.
        crf: quality: 0 (best) to 51 (worst) for h264 and hevc, to 63 for vp9, 1 to 63 for av1; None is a default that shows no
            loss at normal viewing (18, 20, 24, 24).
        lossless: keep every pixel's RGB values; what ffv1 and png do anyway. Few players show lossless H.264, HEVC and VP9.
        fast: compress in less time, to a file that may be larger; of no effect without loss.
    """

    codec: str = "auto"
    crf: int | None = None
    lossless: bool = False
    fast: bool = False

    def codec_for(self, path: str | os.PathLike[str]) -> str:
        """The name of the codec that `path` is written with; never "auto".

        Raises ValueError for a codec or a suffix that is unknown, or that cannot hold one another.
        """
        if self.codec not in CODECS:
            raise ValueError(f"codec={self.codec!r}: is not one of {', '.join(CODECS)}; choose one")
        if is_picture_sequence(path):
            if self.codec not in ("auto", PNG):
                raise ValueError(
                    f"codec={self.codec!r}: {path} is a folder of pictures; name a file such as out.mkv, or leave it out"
                )
            return PNG
        suffix = Path(path).suffix.lower()
        if suffix == ".png":
            raise ValueError(f"{path}: is one picture; name a folder, or a pattern such as %05d.png")
        if suffix not in CONTAINERS:
            raise ValueError(
                f"{path}: videos are written as {', '.join(CONTAINERS)}, pictures into a folder; choose a name that ends in .mp4"
            )
        if self.codec == PNG:
            raise ValueError(f"codec={PNG!r}: {path} is one file; name a folder, or a pattern such as %05d.png")
        codec = ("vp9" if suffix == ".webm" else "h264") if self.codec == "auto" else self.codec
        if suffix not in (suffixes := _CODECS[codec].suffixes):
            others = " or ".join(name for name in _CODECS if suffix in _CODECS[name].suffixes)
            raise ValueError(f"codec={codec!r}: {path} cannot hold it; choose {others}, or a name that ends in {suffixes[0]}")
        return codec

    def settings(self, path: str | os.PathLike[str]) -> Settings:
        """What the encoder of `path` is opened with. Raises ValueError as `check`; PNG has none."""
        name = self.codec_for(path)
        self._check_quality(name)
        codec = _CODECS[name]
        if codec.lossy is None or self.lossless:
            assert codec.lossless is not None
            return codec.lossless
        crf = str(codec.crf[1] if self.crf is None else self.crf)
        chosen = codec.lossy.options | (codec.fast if self.fast else {}) | {"crf": crf}
        return Settings(codec.lossy.encoder, codec.lossy.pixel_format, chosen)

    def check(self, path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> None:
        """Raise what writing frames of `size` (height, width; None: not known yet) to `path` would end in; opens nothing.

        Raises:
            ValueError: the suffix is unknown, the container cannot hold the codec, the codec cannot hold the size or has no
                such quality.
        """
        name = self.codec_for(path)
        self._check_quality(name)
        if size is None:
            return
        height, width = size
        smallest, (tallest, widest) = (1, (2**24, 2**24)) if name == PNG else (_CODECS[name].smallest, _CODECS[name].largest)
        if min(height, width) < smallest or height > tallest or width > widest:
            remedy = f"resize them to sides of {smallest} to {min(tallest, widest)}"
            if 0 < min(height, width) < smallest:
                remedy += ", or choose codec='h264'"
            raise ValueError(f"{path}: {name} cannot hold frames of {width}x{height}; {remedy}")

    def _check_quality(self, name: str) -> None:
        always_lossless = name == PNG or _CODECS[name].lossy is None
        if self.crf is not None and (self.lossless or always_lossless):
            lossless = "lossless=True" if self.lossless else name
            raise ValueError(f"crf={self.crf}: {lossless} keeps every pixel, there is no quality to choose; leave crf out")
        if self.lossless and not always_lossless and _CODECS[name].lossless is None:
            raise ValueError(f"lossless=True: {name} is not written without loss; choose codec='ffv1', or leave it out")
        if self.crf is not None:
            best, _, worst = _CODECS[name].crf
            if not best <= self.crf <= worst:
                raise ValueError(f"crf={self.crf}: is out of range; give {best} (best) to {worst} (worst) for {name}")


def is_picture_sequence(path: str | os.PathLike[str]) -> bool:
    """Whether an output of this name is a picture for each frame: a folder, or a pattern such as out/%05d.png."""
    name = os.fspath(path)
    return is_pattern(path) or name.endswith(("/", os.sep)) or not Path(path).suffix or os.path.isdir(path)


def is_pattern(path: str | os.PathLike[str]) -> bool:
    """Whether the name has a place for the number of a frame: one %d or %05d ("%%" is "%")."""
    return re.fullmatch(r"(%%|[^%])*%(0[0-9]+)?d(%%|[^%])*\.png", Path(path).name, re.IGNORECASE) is not None
