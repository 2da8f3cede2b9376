import json
import os

import pytest

from vidtwin.data.failures import FailureList


def test_each_recording_is_listed_and_said_once(tmp_path, capsys):
    failures = FailureList(tmp_path / "failures.jsonl", 10, 0.5)
    assert len(failures) == 0
    failures.add([])
    assert not failures.path.exists()
    failures.add([("a.mp4", "is empty"), ("b\n.mp4", "löst nicht"), ("a.mp4", "again")])
    failures.add([("a.mp4", "another reason")])
    records = [json.loads(line) for line in failures.path.read_text().splitlines()]
    assert [record["recording"] for record in records] == ["a.mp4", "b\n.mp4"]
    assert len(failures) == 2
    assert capsys.readouterr().out.count("skipped: a.mp4") == 1


@pytest.mark.parametrize("cut", ["", '{"recording": "c.mp4", "rea', '{"recording": "c.mp4", "reason": "x"}'])
def test_a_killed_run_goes_on_with_its_list(tmp_path, cut):
    path = tmp_path / "failures.jsonl"
    FailureList(path, 10, 0.5).add([("a.mp4", "x"), ("b.mp4", "y")])
    with path.open("a") as file:
        file.write(cut)  # a line is whole when its end is there
    failures = FailureList(path, 10, 0.5)
    assert len(failures) == 2
    failures.add([("a.mp4", "x"), ("c.mp4", "z")])
    assert [json.loads(line)["recording"] for line in path.read_text().splitlines()] == ["a.mp4", "b.mp4", "c.mp4"]
    assert len(FailureList(path, 10, 0.5)) == 3


def test_too_many_failures_end_the_run(tmp_path):
    path = tmp_path / "failures.jsonl"
    failures = FailureList(path, 20, 0.1)
    failures.add([("a", "x"), ("b", "y")])
    with pytest.raises(
        ValueError, match=r"3 of 20 recordings could not be used, more than max_failures=0.1; the list is in"
    ) as caught:
        failures.add([("c", "z")])
    assert str(path) in str(caught.value)
    with pytest.raises(ValueError, match="3 of 20"):  # on disk, so a resumed run ends at its first step, unless it allows more
        FailureList(path, 20, 0.1).add([])
    FailureList(path, 20, 0.2).add([])


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"recording": "a"}', '{"recording": [], "reason": "x"}'])
def test_a_file_that_is_no_list_is_refused(tmp_path, line):
    (tmp_path / "f.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match="f.jsonl: line 1 is not of a list of failures"):
        FailureList(tmp_path / "f.jsonl", 10, 0.5)


@pytest.mark.parametrize("line", ['{"recording": 3, "reason": "x"}', '{"recording": "a", "reason": null}', "[" * 100_000, "NaN"])
def test_a_list_that_is_well_formed_and_wrong_is_refused(tmp_path, line):
    (tmp_path / "failures.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match="line 1 is not of a list of failures .*; delete the file"):
        FailureList(tmp_path / "failures.jsonl", 3, 1.0)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "failures.jsonl")
    with pytest.raises(OSError, match="is a pipe, a socket or a device"):
        FailureList(tmp_path / "failures.jsonl", 3, 1.0)


def test_a_list_of_gigabytes_is_refused_unread(tmp_path):
    with (tmp_path / "failures.jsonl").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="failures.jsonl: has 1,099,511,627,776 bytes, more than 268,435,456; split it"):
        FailureList(tmp_path / "failures.jsonl", 1, 0.5)
