"""Rows: how pictures are turned, shaped and coloured."""

import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from PIL import Image

from tests.tools.odd_inputs.judging import Gives, Refuses, Row
from tests.tools.odd_inputs.making import Make, asset, pictures, video

TILE = ("--policy", "tile")
TURNS = {
    "turned by 90 degrees": (0, 1, 0, -1, 0, 0, 0, 0, 1),
    "turned by 180 degrees": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    "turned by 270 degrees": (0, -1, 0, 1, 0, 0, 0, 0, 1),
    "mirrored, as front cameras record": (-1, 0, 0, 0, 1, 0, 0, 0, 1),
    "turned by 90 degrees and mirrored": (0, 1, 0, 1, 0, 0, 0, 0, 1),
}
BITS, TRANSPARENT, INTERLACED = "10 bits a channel are read as 8", "transparency is dropped", "is interlaced"
HDR = {"colorspace": 9, "color_primaries": 9, "color_range": 1}
PQ, HLG = {**HDR, "color_trc": 16}, {**HDR, "color_trc": 18}
X265 = {"x265-params": "log-level=error"}
TEN = "yuv420p10le"


def images(names: Sequence[str], sizes: Sequence[tuple[int, int]] = (), given: str = "", **options: object) -> Make:
    """A folder of images; what is given to the command is the folder, or a name in it."""

    def make(folder: Path) -> Path:
        (folder / "images").mkdir()
        for number, name in enumerate(names):
            width, height = sizes[number % len(sizes)] if sizes else (64, 48)
            image = Image.fromarray(pictures(number + 1, width, height)[number])
            if options.get("mode"):
                image = image.convert(str(options["mode"]))
                image.putalpha(Image.linear_gradient("L").resize(image.size))
            exif = Image.Exif()
            if "orientation" in options:
                exif[0x112] = options["orientation"]
            image.save(folder / "images" / name, exif=exif)
        return folder / "images" / given

    return make


def copied(name: str, as_name: str) -> Make:
    """A carried file under another name."""
    return lambda folder: Path(shutil.copy(asset(name)(folder), folder / as_name))


def webp(folder: Path) -> Path:
    """Animated, with times of its own."""
    first, *rest = [Image.fromarray(picture) for picture in pictures(5)]
    first.save(folder / "in.webp", save_all=True, append_images=rest, duration=[40, 100, 1, 60, 33])
    return folder / "in.webp"


ROWS = [
    *(
        Row(f"{name}, full size", video("in.mp4", matrix=matrix), Gives(8, (48, 64) if matrix[1] else (64, 48)), TILE)
        for name, matrix in TURNS.items()
    ),
    Row("filmed upright with a phone, with sound", asset("rot90.mp4"), Gives(50, sound=1)),
    Row("pixels twice as wide as high", asset("sar_2x1.mp4"), Gives(30)),
    Row(
        "pixels twice as wide as high, full size", video("in.mp4", aspect=Fraction(2)), Gives(8, (64, 48), aspect=Fraction(2)), TILE
    ),
    Row(
        "pixels twice as wide as high, full size, to MKV",
        video("in.mp4", aspect=Fraction(2)),
        Gives(8, (64, 48), aspect=Fraction(2)),
        TILE,
        "out.mkv",
    ),
    Row(
        "pixels twice as wide as high, turned by 90 degrees, full size",
        video("in.mp4", aspect=Fraction(2), matrix=TURNS["turned by 90 degrees"]),
        Gives(8, (48, 64), aspect=Fraction(1, 2)),
        TILE,
    ),
    Row("33x47 pixels", video("in.mkv", size=(33, 47), codec="ffv1", pix_fmt="bgr0"), Gives(8)),
    Row(
        "33x47 pixels, full size",
        video("in.mkv", size=(33, 47), codec="ffv1", pix_fmt="bgr0"),
        Gives(8, (34, 48), ("33x47 is odd",)),
        TILE,
    ),
    Row(
        "33x47 pixels, full size, without loss",
        video("in.mkv", size=(33, 47), codec="ffv1", pix_fmt="bgr0"),
        Gives(8, (33, 47)),
        (*TILE, "--lossless"),
    ),
    Row("2x2 pixels", asset("tiny_2x2.mp4"), Gives(30)),
    Row("2x2 pixels, full size", asset("tiny_2x2.mp4"), Gives(30, (2, 2), aspect=Fraction(16, 9)), TILE),
    Row("1x1 pixel", video("in.avi", size=(1, 1), codec="ffv1", pix_fmt="bgr0"), Gives(8)),
    Row("600x4 pixels", video("in.mp4", size=(600, 4)), Refuses("crop it first")),
    Row("600x4 pixels, full size", video("in.mp4", size=(600, 4)), Gives(8, (600, 4)), TILE),
    Row("interlaced", asset("interlaced_tff.mp4"), Gives(15, notes=(INTERLACED,))),
    Row("10 bits, H.264", asset("h264_10bit.mp4"), Gives(30, notes=(BITS,))),
    Row("10 bits, HEVC", asset("hevc_10bit.mp4"), Gives(30, notes=(BITS,))),
    Row("10 bits, VP9", asset("vp9_10bit.webm"), Gives(8, notes=(BITS,))),
    Row("10 bits, AV1", video("in.mp4", codec="libsvtav1", pix_fmt=TEN), Gives(8, notes=(BITS,))),
    Row(
        "HDR, PQ (HDR10)",
        video("in.mp4", codec="libx265", pix_fmt=TEN, options=X265, tags=PQ),
        Gives(8, notes=(BITS, "HDR (PQ, BT.2020) is tone-mapped")),
    ),
    Row(
        "HDR, HLG",
        video("in.mp4", codec="libx265", pix_fmt=TEN, options=X265, tags=HLG),
        Gives(8, notes=(BITS, "HDR (HLG, BT.2020) is tone-mapped")),
    ),
    Row("transparency, VP8", asset("vp8_alpha.webm"), Gives(30, notes=(TRANSPARENT,))),
    Row(
        "transparency, VP9",
        video("in.webm", codec="libvpx-vp9", pix_fmt="yuva420p", options={"auto-alt-ref": "0"}),
        Gives(8, notes=(TRANSPARENT,)),
    ),
    Row("transparency, PNG", images(["1.png"], given="1.png", mode="RGBA"), Gives(1, notes=(TRANSPARENT,))),
    Row("full range", asset("h264_fullrange.mp4"), Gives(30)),
    Row("gray", asset("hevc_gray.mp4"), Gives(30)),
    Row("4:4:4", video("in.mp4", pix_fmt="yuv444p"), Gives(8)),
    Row("a folder of images", images(["1.png", "2.png", "10.jpg"]), Gives(3)),
    Row("a folder of images of different sizes", images(["1.png", "2.png"], [(64, 48), (128, 72)]), Gives(2)),
    Row("a pattern of names, %04d.png", images(["0007.png", "0008.png", "0009.png"], given="%04d.png"), Gives(3)),
    Row("a pattern whose numbers have a gap", images(["0007.png", "0009.png"], given="%04d.png"), Refuses("number 8 is missing")),
    Row("one photo, turned by its EXIF, full size", images(["a.jpg"], given="a.jpg", orientation=6), Gives(1, (48, 64)), TILE),
    Row("animated WebP", webp, Gives(5, steady=False)),
    Row("animated WebP with transparency", asset("anim.webp"), Gives(12, notes=(TRANSPARENT,))),
    Row("a GIF of 3 frames", video("in.gif", frames=3, codec="gif", pix_fmt="rgb8"), Gives(3)),
]
