"""Some of the rows of tests/tools/robustness.py, and that it finds what it is there to find."""

import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from tests.tools.odd_inputs import launch, tables
from tests.tools.odd_inputs.judging import Gives, Refuses, Result, Row, faults
from tests.tools.odd_inputs.launch import Ended
from tests.tools.odd_inputs.making import asset, data, video
from tests.tools.odd_inputs.media import Media, Track
from tests.tools.odd_inputs.running import Done, run_rows
from tests.tools.robustness import GROUPS, report, rows_of

QUICK = [
    "one frame",
    "frames after 0, 0.04, 0.2, 0.24 and 0.8 s",
    "turned by 90 degrees, full size",
    "33x47 pixels, full size, without loss",
    "transparency, PNG",
    "a pattern whose numbers have a gap",
    "a video by a pipe, and to a pipe",
    "nothing by the pipe",
    "cut off at half, MP4 with its index at the end",
    "text named .mp4",
    "a FIFO",
    "65535x65535 in a GIF",
]


@pytest.fixture(scope="module")
def done() -> dict[str, Done]:
    rows = {row.name: row for rows in GROUPS.values() for row in rows}
    return {one.row.name: one for one in run_rows({"Quick": [rows[name] for name in QUICK]})}


def test_quick_rows_are_as_expected(done):
    assert list(done) == QUICK
    assert {name: one.faults for name, one in done.items() if one.faults} == {}


def test_other_expectations_are_not_met(done):
    """The same results, held against what did not happen."""
    wrong = {
        "one frame": [Gives(2), Gives(1, (48, 64)), Gives(1, sound=1), Gives(1, notes=("HDR",)), Refuses("empty")],
        "frames after 0, 0.04, 0.2, 0.24 and 0.8 s": [Gives(5)],
        "transparency, PNG": [Gives(1), Gives(1, notes=("HDR",))],
        "text named .mp4": [Refuses("is a playlist"), Refuses("is not a video file", code=2), Gives(1)],
    }
    for name, expectations in wrong.items():
        for expect in expectations:
            assert faults(replace(done[name].row, expect=expect), done[name].result) != []


MEDIA = Media(
    [Fraction(n, 25) for n in range(3)],
    (224, 224),
    Fraction(1),
    [Track("audio", "aac", Fraction(1, 48000), [(bytes([n]), Fraction(n * 1024, 48000)) for n in range(4)], 4096)],
    [],
)
ROW = Row("a video", asset("h264_aac.mp4"), Gives(3, sound=1))
RESULT = Result(Ended(0, 1.0, 300.0), "", "", ["out.mp4"], MEDIA, MEDIA)


def with_packets(*packets: tuple[bytes, Fraction]) -> Media:
    return replace(MEDIA, tracks=[replace(MEDIA.tracks[0], packets=list(packets))])


def test_what_is_wrong_with_an_output_is_found():
    packets, later = MEDIA.tracks[0].packets, Fraction(1, 100)
    wrong = {
        "3 frames in, 2 out": {"output": replace(MEDIA, times=MEDIA.times[:2])},
        "times differ by up to 0.010000 s": {"output": replace(MEDIA, times=[*MEDIA.times[:2], MEDIA.times[2] + later])},
        "begins at 0.040 s": {"output": replace(MEDIA, times=[time + Fraction(1, 25) for time in MEDIA.times], tracks=[])},
        "packets lost: 1": {"output": with_packets(*packets[:-1])},
        "1 packets are not the source's": {"output": with_packets(*packets[:-1], (b"x", packets[3][1]))},
        "0.010000 s beside the picture": {"output": with_packets(*[(content, time + later) for content, time in packets])},
        "0 of 5000 samples": {
            "source": replace(MEDIA, tracks=[replace(MEDIA.tracks[0], samples=5000)]),
            "output": replace(MEDIA, tracks=[replace(MEDIA.tracks[0], samples=0)]),
        },
        "tracks of sound: 0 instead of 1": {"output": replace(MEDIA, tracks=[])},
        "turned or mirrored": {"upright": False},
        "in the folder: a, out.mp4": {"files": ["a", "out.mp4"]},
        "on standard error: Traceback": {"stderr": "Traceback"},
        "notes: 1 instead of 0": {"stdout": "note          HDR"},
        "cannot be read": {"output": None},
        "ended by signal 14": {"ended": Ended(-14, 120.0, 1.0)},
        "took 121.0 s": {"ended": Ended(0, 121.0, 1.0)},
    }
    assert faults(ROW, RESULT) == []
    for fault, change in wrong.items():
        assert fault in "; ".join(faults(ROW, replace(RESULT, **change)))


@pytest.mark.parametrize(
    ("stderr", "fault"),
    [
        ("vidtwin: error: a.mp4: is empty; get it again\n", ""),
        ("vidtwin: warning: odd\nvidtwin: error: a.mp4: is empty; get it again\n", ""),
        ("vidtwin: error: a.mp4: is empty\n", "no remedy"),
        ("vidtwin: error: a.mp4: is cut off; get it again\n", "the error does not say 'is empty'"),
        ("Traceback\nValueError: is empty; no\n", "2 lines of error"),
    ],
)
def test_what_is_wrong_with_an_error_is_found(stderr, fault):
    row = replace(ROW, expect=Refuses("is empty"))
    assert "; ".join(faults(row, Result(Ended(1, 1.0, 200.0), "", stderr))) == fault
    found = "; ".join(faults(row, Result(Ended(1, 1.0, 200.0), "x", stderr, ["out.mp4"])))
    assert "something on standard output; left behind: out.mp4" in found


def test_a_run_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "SECONDS", 1)
    child = os.fork()
    if child == 0:
        job = launch.Job([], str(tmp_path), str(tmp_path / "out"), str(tmp_path / "err"))
        monkeypatch.setattr(launch.runpy, "run_module", lambda *_, **__: launch.time.sleep(30))
        launch.become(job, None, fresh=False)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -14


def test_files_of_the_user_and_the_report(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.tools.robustness.RESULTS", tmp_path)
    monkeypatch.setattr("benchmarks.setting.RESULTS", tmp_path)
    (tmp_path / "videos" / "folder").mkdir(parents=True)
    data("no | video.mp4", b"text")(tmp_path / "videos")
    video("a.mp4", frames=1)(tmp_path / "videos")
    rows = rows_of(tmp_path / "videos")
    assert [(row.name, row.make(Path())) for row in rows] == [(n, tmp_path / "videos" / n) for n in ("a.mp4", "no | video.mp4")]
    refused = Result(Ended(1, 1.0, 200.0), "", "vidtwin: error: is not a video; choose one\n")
    done = [Done("Mine", replace(rows[0], expect=Gives(4)), RESULT), Done("Mine", rows[1], refused), Done("Mine", ROW, None)]
    assert tables.facts(done[1])["as_expected"] is None
    report("robustness", done, 5.0, [])
    lines = (tmp_path / "robustness.md").read_text().splitlines()
    assert "3 frames" in lines[-3] and "**no**: frames: 3 instead of 4" in lines[-3]
    assert "| no \\| video.mp4 | `out.mp4` | an error | is not a video; choose one | 1 |" in lines[-2]
    assert "not run" in lines[-1]
