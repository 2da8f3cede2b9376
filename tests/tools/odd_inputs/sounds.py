"""Rows: what goes with the picture, into .mp4 and into .mkv."""

from collections.abc import Mapping, Sequence

from tests.tools.odd_inputs.formats import NOT_IN_MP4
from tests.tools.odd_inputs.judging import Gives, Row
from tests.tools.odd_inputs.making import video

FRAMES = 12
CODECS = {"AAC": "aac", "Opus": "libopus", "MP3": "libmp3lame", "FLAC": "flac"}


def both(name: str, mp4: Gives, mkv: Gives, **options: Sequence[str] | int) -> list[Row]:
    """The same MKV file, to .mp4 and to .mkv."""
    make = video("in.mkv", frames=FRAMES, **options)
    return [Row(f"{name}, to MP4", make, mp4), Row(f"{name}, to MKV", make, mkv, out="out.mkv")]


def with_sound(codecs: Mapping[str, str]) -> list[Row]:
    kept = Gives(FRAMES, sound=1)
    lists = (both(f"{name} in MKV", kept, kept, sound=[codec]) for name, codec in codecs.items())
    return [row for rows in lists for row in rows]


ROWS = [
    *with_sound(CODECS),
    *both("PCM in MKV", Gives(FRAMES, notes=(NOT_IN_MP4,)), Gives(FRAMES, sound=1), sound=["pcm_s16le"]),
    *both("no sound", Gives(FRAMES), Gives(FRAMES)),
    *both("two tracks of sound", Gives(FRAMES, sound=2), Gives(FRAMES, sound=2), sound=["aac", "libopus"]),
    *both("SubRip subtitles", Gives(FRAMES, notes=(NOT_IN_MP4,)), Gives(FRAMES, subtitles=1), subtitles=1),
    *both("chapters", Gives(FRAMES, chapters=2), Gives(FRAMES, chapters=2), chapters=["Opening", "End"]),
]
