"""Some of the cases of tests/tools/fuzz.py, and that it finds what it is there to find."""

import os
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tools.fuzz import fuzz
from tests.tools.fuzzing.cases import kind_of, make_case
from tests.tools.fuzzing.readers import Finding, Outcome, judge, run_case
from tests.tools.fuzzing.seeds import KINDS, Seed, make_seeds
from tests.tools.fuzzing.workers import Bounds, run_cases, watched
from vidtwin.video.read.decode import VideoWarning

SLOW = "released"  # a second each

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")


@pytest.fixture(scope="module")
def seeds() -> list[Seed]:
    return make_seeds()


def test_damaged_files_are_read_or_refused_in_one_line(seeds, tmp_path):
    outcomes = [watched(run_case, tmp_path, n, *make_case(seeds, 0, n)) for n in range(100) if kind_of(0, n) != SLOW]
    assert {outcome.kind for outcome in outcomes} == KINDS.keys() - {SLOW}
    assert [outcome for outcome in outcomes if outcome.result == "finding"] == []
    assert {outcome.result for outcome in outcomes} == {"read", "warned", "refused"}
    assert list(tmp_path.iterdir()) == []


def test_intact_files_are_read(seeds, tmp_path):
    """Those that are made here; tests/video has the videos."""
    made = [seed for seed in seeds if seed.kind != SLOW and "video" not in seed.kind]
    assert {seed.kind for seed in made if run_case(tmp_path, 0, seed, seed.data).result == "read"} == {seed.kind for seed in made}


def test_a_case_is_the_same_each_time(seeds):
    again = make_seeds()
    assert seeds == again
    assert [make_case(seeds, 7, n) for n in range(100)] == [make_case(again, 7, n) for n in range(100)]
    assert make_case(seeds, 7, 1) != make_case(seeds, 8, 1)
    assert all(make_case(seeds, 7, n)[0].kind == kind_of(7, n) for n in range(20))


def trouble(folder: Path, number: int, seed: Seed, data: bytes) -> Outcome:
    """Takes the place of `run_case`."""
    if number == 1:
        os.abort()
    if number == 2:
        time.sleep(60)
    return Outcome(number, seed.kind, seed.name, "read", memory=number << 28)


def test_crashes_hangs_and_memory_are_found_from_outside(seeds):
    outcomes = {o.case: o for o in run_cases(seeds, 0, range(6), 1, Bounds(seconds=0.5), trouble)}
    found = {case: outcome.findings[0] for case, outcome in outcomes.items() if outcome.findings}
    assert len(outcomes) == 6
    assert {case: finding.problem for case, finding in found.items()} == {1: "crash, SIGABRT", 2: "hang", 5: "runaway memory"}
    assert "trouble" in found[1].where and "trouble" in found[2].where


@pytest.mark.parametrize(
    ("raised", "problems"),
    [
        (ValueError("x.mp4: is empty; get it again"), []),
        (FileNotFoundError(2, "No such file or directory", "x.mp4"), []),
        (ValueError("is empty"), ["ValueError, does not name the file"]),
        (OSError("x.mp4: line\nand line"), ["OSError, not one line"]),
        (ValueError("x.mp4: \x1b[31m"), ["ValueError, not printable"]),
        (ValueError("x.mp4: " + 5000 * "a"), ["ValueError, too long"]),
        (TypeError("x.mp4: no"), ["TypeError"]),
        (MemoryError("x.mp4"), ["MemoryError"]),
        (SystemExit(1), ["SystemExit"]),
    ],
)
def test_what_may_be_raised(raised, problems):
    def call() -> None:
        raise raised

    result, findings = judge("call", call, ("x.mp4",))
    assert [finding.problem for finding in findings] == problems
    assert result == ("finding" if problems else "refused")


@pytest.mark.parametrize(
    ("text", "kind", "result"),
    [
        ("x.mp4: damaged", VideoWarning, "warned"),
        ("damaged", VideoWarning, "finding"),
        ("x.mp4: old", DeprecationWarning, "finding"),
    ],
)
def test_what_may_be_warned_of(text, kind, result):
    assert judge("call", lambda: warnings.warn(text, kind, stacklevel=1), ("x.mp4",))[0] == result


def test_findings_that_look_alike_are_one(seeds, tmp_path, monkeypatch, capsys):
    wrong = Outcome(3, "video", "a.mp4", "finding", findings=[Finding("probe", "TypeError", "video/read/reader.py:1 probe", "no")])
    monkeypatch.setattr("tests.tools.fuzz.run_cases", lambda *_: iter([wrong, replace(wrong, case=5)]))
    facts = fuzz(seeds, 0, range(6), 1, Bounds(), keep=tmp_path)
    assert facts["outcomes"] == {"video": {"read": 0, "warned": 0, "refused": 0, "finding": 2}}
    assert [(finding["count"], finding["cases"]) for finding in facts["findings"]] == [(2, [3, 5])]
    assert [path.name[:4] for path in tmp_path.iterdir()] == ["0-3-"]
    assert capsys.readouterr().out.count("TypeError") == 1
