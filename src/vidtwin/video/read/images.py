"""Images as a video: a folder of them, a numbered pattern such as frames/%04d.png, an animated WebP, or a TIFF of several pages.

A folder's images come in natural order of their names (2.png before 10.png), hidden files and those of other kinds left out;
a pattern's by number, from the lowest there is, and a gap is an error. They are shown for 1 / DEFAULT_FPS seconds each, turned
upright as their EXIF asks, and scaled to the size of the first; so are a TIFF's pages. An animated WebP tells its own times.
"""

import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

import vidtwin.video.read.decode as decode
from vidtwin.files import check_regular
from vidtwin.video.read.decode import MAX_PIXELS, TableColumn, Tally, TarMember, VideoFile, VideoWarning
from vidtwin.video.read.info import Frame, VideoInfo
from vidtwin.video.read.pictures import TRANSPARENCY

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP")  # Pillow's names; some others of its formats run programs
DEFAULT_FPS = decode.DEFAULT_FPS  # of a folder or a pattern; looked up when one is opened, so it can be set
UNTIMED = 100  # milliseconds of a WebP's frame that states none, as browsers show it
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NO_PAGE = 5  # bits of a TIFF page's kind: a smaller copy of another one, or its mask
MAX_PAGES = 10_000  # of a TIFF
MAX_TAGS = 2**28  # bytes of the tags of a TIFF in memory
SPECIAL = set("%*?[]{}")  # in a file's name: FFmpeg takes the name of an image for a pattern, as it takes that of many a .jpg


def find(path: VideoFile) -> "Stills | Animation | None":
    """The images that a path means; None if it is to be read as a video file.

    Raises:
        FileNotFoundError: a pattern that no file has, or that leaves a number out.
        IsADirectoryError: a folder without images. OSError: it cannot be read.
    """
    if isinstance(path, TarMember | TableColumn):
        return None
    path, fps = Path(path), Fraction(DEFAULT_FPS)
    try:
        if path.is_dir():
            return Stills(path, tuple(_in_folder(path)), fps)
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(12)
            if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
                durations = _durations(path)
                return Animation(path, durations) if durations else Stills(path, (path,), fps)
            if head[:4] in TIFF and sum(pages := _pages_of(path)) > 1:
                return Animation(path, pages, 1 / fps)
            jpeg = head[:3] == b"\xff\xd8\xff" and path.suffix.lower() in (".jpg", ".jpeg")
            if jpeg or (path.suffix.lower() in SUFFIXES and SPECIAL & set(path.name)):
                return Stills(path, (path,), fps)
        elif path.suffix.lower() in SUFFIXES and not path.exists() and (files := _numbered(path)):
            return Stills(path, tuple(files), fps)
    except PermissionError as error:
        raise PermissionError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error
    return None


@dataclass(frozen=True)
class Stills:
    """Image files, a frame each."""

    path: Path
    files: tuple[Path, ...]
    fps: Fraction

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.files)

    def info(self) -> VideoInfo:
        """`read.probe`."""
        with open_image(self.files[0]) as image:
            return info_of(self, image, rgb(self.files[0], image), self.fps, 1 / self.fps, self.count)

    def frames(self, start: int, stop: int | None) -> Iterator[Frame]:
        """`read.iter_frames`; opens no image but these, and the first for its size."""
        check_start(self.path, start, self.count)
        size, several = self._picture(0).shape[:2], list[str]()
        for number in range(start, self.count if stop is None else min(stop, self.count)):
            yield Frame(self._picture(number, (size[0], size[1]), several), number, 1 / self.fps, 1)
        if several:
            names = f"{several[0]} and {len(several) - 1} more" if several[1:] else several[0]
            said = f"{self.path}: of {names} only the first picture of several was read; give such a file alone, or split it"
            warnings.warn(said, VideoWarning, stacklevel=2)

    def _picture(self, number: int, size: tuple[int, int] | None = None, several: list[str] | None = None) -> np.ndarray:
        with open_image(self.files[number]) as image:
            picture = rgb(self.files[number], image, size)
            if several is not None and holds_several(image):
                several.append(self.files[number].name)
            return picture


@dataclass(frozen=True)
class Animation:
    """Pictures in one file, and for how many units (seconds) each is shown; 0 for what is no picture of its own."""

    path: Path
    durations: tuple[int, ...]
    unit: Fraction = Fraction(1, 1000)

    @property
    def count(self) -> int:
        """Number of frames that it states."""
        return sum(map(bool, self.durations))

    def info(self) -> VideoInfo:
        """`read.probe`."""
        total = sum(self.durations)
        with open_image(self.path) as image:
            fps = self.count / (total * self.unit)
            return info_of(self, image, self._picture(image, self._places(1)[0]), fps, self.unit, total)

    def frames(self, start: int, stop: int | None) -> Iterator[Frame]:
        """`read.iter_frames`."""
        tally, pts, size = Tally(), 0, None
        with open_image(self.path) as image:
            for number, place in enumerate(self._places(stop)):
                try:
                    picture = self._picture(image, place, size)
                except ValueError:
                    break
                size, duration = (picture.shape[0], picture.shape[1]), self.durations[place]
                tally.frames += 1
                if number >= start:
                    yield Frame(picture, pts, self.unit, duration)
                pts += duration
        if tally.frames != stop:
            tally.finish(self.path, self.count)
            check_start(self.path, start, tally.frames)

    def _places(self, stop: int | None) -> list[int]:
        return [place for place, duration in enumerate(self.durations) if duration][:stop]

    def _picture(self, image: Any, place: int, size: tuple[int, int] | None = None) -> np.ndarray:
        with _one_line(self.path):
            image.seek(place)
            if image.width * image.height > _limit():
                raise Image.DecompressionBombError
        return rgb(self.path, image, size)


def check_start(path: Path | TableColumn, start: int, count: int) -> None:
    if start >= count:
        raise ValueError(f"{path}: has {count} frames; frame {start} is beyond its end, choose a lower start")


def info_of(source: Any, image: Any, picture: np.ndarray, fps: Fraction, time_base: Fraction, ticks: int) -> VideoInfo:
    height, width = picture.shape[:2]
    return VideoInfo(
        path=source.path,
        width=width,
        height=height,
        frames=source.count,
        fps=fps,
        duration=float(ticks * time_base),
        codec=image.format.lower(),
        pixel_format=image.mode,
        rotation=0,
        color_space="rgb",
        color_range="full",
        has_audio=False,
        time_base=time_base,
        stored_size=(height, width),
        notes=_what_is_lost(image),
    )


def _in_folder(folder: Path) -> list[Path]:
    images = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    images = [path for path in images if not path.is_dir()]
    if not images:
        kinds = ", ".join(SUFFIXES)
        raise IsADirectoryError(f"{folder}: is a folder without images; name a video file, or a folder of images ({kinds})")
    return sorted(images, key=_natural)


def _natural(path: Path) -> tuple[Any, ...]:
    """The numbers in a name count as numbers: a2.png before a10.png."""
    parts = re.split(r"([0-9]+)", path.name)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], path.name


def _numbered(pattern: Path) -> list[Path]:
    """Files of a name with one %d or %04d in it ("%%" is "%"), by number; none if it is no pattern."""
    parts = re.findall(r"%%|%0[0-9]{1,2}d|%d|[^%]+|%", pattern.name)
    places = [part for part in parts if part[0] == "%" and part[-1] == "d"]
    if len(places) != 1:
        return []
    name = re.compile("".join("([0-9]+)" if part in places else re.escape(part.replace("%%", "%")) for part in parts))
    numbers: dict[int, Path] = {}
    for path in pattern.parent.iterdir() if pattern.parent.is_dir() else ():
        found = name.fullmatch(path.name)
        if found and found[1] == places[0] % int(found[1]):
            numbers[int(found[1])] = path
    if not numbers:
        raise FileNotFoundError(f"{pattern}: no file has a name of this pattern; check the folder and the name")
    for number in range(min(numbers), max(numbers)):
        if number not in numbers:
            missing = "".join(places[0] % number if part in places else part.replace("%%", "%") for part in parts)
            raise FileNotFoundError(f"{pattern}: number {number} is missing; add {missing}, or renumber the files that follow")
    return [numbers[number] for number in sorted(numbers)]


def _durations(webp: Path) -> tuple[int, ...]:
    """Milliseconds that each frame of an animated WebP is shown for, as its ANMF chunks say."""
    durations = []
    with webp.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(12)
        while len(head := file.read(24)) >= 8:
            if head[:4] == b"ANMF" and len(head) >= 23:
                durations.append(int.from_bytes(head[20:23], "little") or UNTIMED)
            length = int.from_bytes(head[4:8], "little")
            if (place := file.tell() - len(head) + 8 + length + length % 2) > size:
                break
            file.seek(place)
    return tuple(durations)


def _pages_of(tiff: Path) -> tuple[int, ...]:
    """`_pages` of a file; none if it cannot be opened here."""
    try:
        image = open_image(tiff)
    except ValueError:
        return ()
    with image, _one_line(tiff):
        pages = _pages(image)
    if len(pages) > MAX_PAGES:
        raise ValueError(f"{tiff}: has more than {MAX_PAGES:,} pages; split it")
    return pages


def _pages(image: Any) -> tuple[int, ...]:
    """Of a TIFF: 1 for each page, 0 for what is none. The first that is damaged, which reading will meet, is the last.

    Raises ValueError for tags that lie over each other, of which a small file can have very many.
    """
    pages: list[int] = []
    most = 2 * os.fstat(image.fp.fileno()).st_size if hasattr(image.fp, "fileno") and image.filename else MAX_TAGS
    try:
        while len(pages) <= MAX_PAGES and most >= 0:
            image.seek(len(pages))
            most -= sum(map(len, image.tag_v2._tagdata.values()))
            kind = image.tag_v2.get(254, 0)
            pages.append(0 if isinstance(kind, int) and kind & NO_PAGE else 1)
    except EOFError:
        return tuple(pages)
    except Exception:  # Pillow raises many kinds for damaged data
        pages.append(1)
    if most < 0:
        raise ValueError("the tags of its pages lie over each other")
    return tuple(pages)


def holds_several(image: Any) -> bool:
    """Whether more pictures follow in the file (a moving photo's are not meant)."""
    if image.format == "TIFF":
        with suppress(ValueError):
            return sum(_pages(image)) > 1
        return True
    return image.format != "MPO" and getattr(image, "is_animated", False)


@contextmanager
def _one_line(file: Path | str) -> Iterator[None]:
    """What Pillow raises becomes an OSError or ValueError of one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on damaged tags
            yield
    except OSError as error:
        if error.errno is not None:
            raise type(error)(f"{file}: cannot be opened ({error.strerror}); check that it is there and its permissions") from error
        raise ValueError(_broken(file, error)) from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{file}: is larger than {_limit()} pixels; scale it down first") from error
    except Exception as error:  # Pillow raises many kinds for damaged data
        raise ValueError(_broken(file, error)) from error


def _broken(file: Path | str, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"{file}: is not an image of a known kind ({', '.join(FORMATS)}); convert it to PNG or leave it out"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{file}: is an image that cannot be read ({reason}); get it again or leave it out"


def _limit() -> int:
    """Pixels of an image, at most: Pillow's bound against decompression bombs."""
    return min(Image.MAX_IMAGE_PIXELS or MAX_PIXELS, MAX_PIXELS)


def open_image(file: Path | str, data: io.BytesIO | None = None) -> Any:
    """A PIL image, of a file or of `data` that is called so, not loaded yet. Raises OSError or ValueError in one line."""
    if data is None and os.path.exists(file):
        check_regular(file)
    with _one_line(file):
        image = Image.open(file if data is None else data, formats=FORMATS)
        if image.width * image.height > _limit():
            image.close()
            raise Image.DecompressionBombError
        return image


def rgb(file: Path | str, image: Any, size: tuple[int, int] | None = None) -> np.ndarray:
    """The upright picture, uint8 (H, W, 3) RGB, scaled to `size` (height, width). Raises ValueError in one line."""
    with _one_line(file):
        image.load()
        with suppress(Exception):  # a damaged EXIF asks for nothing
            image = ImageOps.exif_transpose(image)
        if image.mode == "F":
            raise ValueError("its pixels are floating point")
        if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would cut off at 255
            gray = np.asarray(image)  # uint16, or int32 of the same values
            gray = gray if gray.dtype.kind == "u" else gray.clip(0, 65535)
            image = Image.fromarray((gray >> 8).astype(np.uint8))
        if "transparency" in image.info:
            image = image.convert("RGBA")
        image = image.convert("RGB")
        if size is not None and image.size != size[::-1]:
            image = image.resize(size[::-1], Image.Resampling.BICUBIC)
        return np.array(image)


def _what_is_lost(image: Any) -> tuple[str, ...]:
    """The notes of `VideoInfo`."""
    notes = ["16 bits a channel are read as 8"] if image.mode.startswith("I") else []
    return (*notes, TRANSPARENCY) if "A" in image.mode or "transparency" in image.info else tuple(notes)
