"""Rows: frame rates, clocks, numbers of frames, and what hides frames."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from tests.tools.odd_inputs.judging import Gives, Row
from tests.tools.odd_inputs.making import MILLISECOND, Make, asset, changed, replaced, video, write_video

NO_B = {"bf": "0"}
OPEN_GOP = {"x264-params": "open-gop=1:keyint=8:bframes=3"}


def joined(name: str, *parts: Make) -> Make:
    """Files one behind the other: cat a b > c."""

    def make(folder: Path) -> Path:
        content = b""
        for number, part in enumerate(parts):
            (folder / str(number)).mkdir()
            content += part(folder / str(number)).read_bytes()
        (folder / name).write_bytes(content)
        return folder / name

    return make


def block_times(times: Mapping[int, int]) -> Make:
    """An MKV of 8 frames, 40 ms apart, whose blocks of these numbers state other times (in milliseconds)."""

    def make(folder: Path) -> Path:
        path = write_video(folder / "in.mkv", options=NO_B)
        content, at = bytearray(path.read_bytes()), 0
        for number in range(8):  # between the number of the track and the flags, which tell key frames
            flags = b"\0" if number else b"\x80"
            at = content.index(b"\x81" + (40 * number).to_bytes(2, "big") + flags, at) + 1
            content[at : at + 2] = times.get(number, 40 * number).to_bytes(2, "big", signed=True)
        path.write_bytes(content)
        return path

    return make


def early(name: str, **options: object) -> Make:
    """A video that begins 0.2 s before 0, and says so."""
    plain = {"avoid_negative_ts": "disabled"}
    return video(name, pts=list(range(-200, 120, 40)), clock=MILLISECOND, options=NO_B, container_options=plain, **options)


def cut_away(frames: int, **options: object) -> Make:
    """An MP4 whose edit list hides its first frames: version, count, duration, then the time where it begins."""
    start = (512 * frames).to_bytes(4, "big")
    return changed(video("in.mp4", frames=20, options=NO_B, **options), replaced(b"", start, b"elst", 12))


ROWS = [
    Row("variable frame rate, as phones record", asset("vfr_jitter.mp4"), Gives(36, steady=False)),
    Row(
        "frames after 0, 0.04, 0.2, 0.24 and 0.8 s",
        video("in.mp4", frames=5, pts=[0, 1, 5, 6, 20], options=NO_B),
        Gives(5, steady=False),
    ),
    Row("1 frame per second", video("in.mp4", rate=1), Gives(8)),
    Row("240 frames per second", video("in.mp4", frames=20, rate=240), Gives(20)),
    Row("29.97 frames per second", asset("h264_fullrange.mp4"), Gives(30)),
    Row(
        "29.97 frames per second, to MKV",
        video("in.mp4", rate=Fraction(30000, 1001)),
        Gives(8, notes=("times are rounded to 1/1000 s, as .mkv stores them",)),
        out="out.mkv",
    ),
    Row("one frame", video("in.mp4", frames=1), Gives(1)),
    Row("3 frames, fewer than a clip of the model", video("in.mp4", frames=3), Gives(3)),
    Row("17 frames, one more than a clip of the model", video("in.mp4", frames=17), Gives(17)),
    Row("B-frames with open groups of pictures, MP4", video("in.mp4", frames=30, options=OPEN_GOP), Gives(30)),
    Row("B-frames with open groups of pictures, TS", video("in.ts", frames=30, options=OPEN_GOP), Gives(30)),
    Row("an edit list that cuts away 5 of 20 frames", cut_away(5), Gives(15)),
    Row("an edit list that cuts away 5 of 20 frames, with sound", cut_away(5, sound=["aac"]), Gives(15, sound=1)),
    Row("sound that an edit list begins at 1024 samples (priming)", video("in.mp4", frames=20, sound=["aac"]), Gives(20, sound=1)),
    Row("negative timestamps, MP4: its edit list hides what is before 0", early("in.mp4"), Gives(3)),
    Row("negative timestamps, TS: the first frame at -0.2 s", early("in.ts"), Gives(8)),
    Row("negative timestamps, TS with sound", early("in.ts", sound=["aac"]), Gives(8, sound=1)),
    Row("negative timestamps, MKV", block_times({n: 40 * n - 200 for n in range(8)}), Gives(8)),
    Row("the first frame after 95,000 s, in TS with sound", asset("start_offset.ts"), Gives(50, sound=1)),
    Row("a TS that begins between two key frames", asset("starts_mid_gop.ts"), Gives(30, sound=0)),
    Row(
        "sound that begins 0.5 s after the picture", video("in.mkv", sound=["aac"], sound_begins=Fraction(1, 2)), Gives(8, sound=1)
    ),
    Row(
        "a picture that begins 0.5 s after the sound",
        video("in.mkv", pts=list(range(500, 820, 40)), clock=MILLISECOND, sound=["libopus"]),
        Gives(8, sound=1),
    ),
    Row("two frames of the same time", block_times({4: 120}), Gives(8)),
    Row("a frame whose time goes back by 0.12 s", block_times({5: 80}), Gives(8)),
    Row("two TS files, one behind the other: times begin anew", joined("in.ts", video("a.ts"), video("b.ts")), Gives(16)),
    Row(
        "two TS files with sound, one behind the other: times begin anew",
        joined("in.ts", video("a.ts", frames=15, sound=["aac"]), video("b.ts", frames=15, sound=["aac"])),
        Gives(30, sound=1),
    ),
    Row(
        "a size that changes in mid-stream",
        joined("in.ts", video("a.ts"), video("b.ts", size=(128, 96))),
        Gives(16),
    ),
    Row("raw H.264 without timestamps", video("in.h264"), Gives(8)),
    Row("raw H.264 whose size changes", joined("in.h264", video("a.h264"), video("b.h264", size=(128, 96))), Gives(16)),
]
