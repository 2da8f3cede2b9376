import json
from pathlib import Path

import pytest

from vidtwin.cli import main
from vidtwin.evaluation.compare import compare


def record(psnr, weights="a", sha="s", **protocol):
    clips = [
        {"video": f"{video}.mp4", "first_frame": 16 * number, "sha256": f"{sha}{number}", "psnr": value, "ssim": 0.5}
        for video, values in psnr.items()
        for number, value in enumerate(values)
    ]
    return {"protocol": {"weights": weights, "weights_hash": weights * 64, "tail": "repeat"} | protocol, "clips": clips}


@pytest.fixture
def write(tmp_path):
    def write(name, values):
        path = tmp_path / name
        path.write_text(values if isinstance(values, str) else json.dumps(values))
        return path

    return write


def test_differences_are_paired(write):
    a = write("a.json", record({"x": [20.0, 30.0], "y": [10.0]}))
    b = write("b.json", record({"x": [21.0, 31.0], "y": [11.5]}, "b"))
    found = compare(a, b)
    assert found.clips == 3 and found.left_out == 0 and found.protocol == {}
    assert found.differences["psnr"].mean == pytest.approx(3.5 / 3)
    assert (
        found.differences["psnr"].low == 1.0 and found.differences["psnr"].high == 1.5
    )  # though the clips themselves differ by 20
    assert found.differences["ssim"] == (0, 0, 0)
    lines = found.table().splitlines()
    assert lines[0] == "b (bbbbbbbb) less a (aaaaaaaa), 3 clips of both"
    assert lines[2].endswith("differs") and not lines[3].endswith("differs")


def test_files_with_the_former_key_of_the_hash_are_read(write):
    a = write("a.json", json.dumps(record({"x": [20.0]})).replace("weights_hash", "weights_sha256"))
    b = write("b.json", record({"x": [21.0]}, "b"))
    assert compare(a, b).names == ("a (aaaaaaaa)", "b (bbbbbbbb)") and compare(a, b).protocol == {}


@pytest.mark.parametrize(
    ("clip", "protocol"),
    [
        ({"psnr": "20"}, {}),
        ({"psnr": None}, {}),
        ({"psnr": [20.0]}, {}),
        ({"psnr": float("nan")}, {}),
        ({"psnr": float("inf")}, {}),
        ({"psnr": 10**40}, {}),
        ({"video": ["x"]}, {}),
        ({"first_frame": "0"}, {}),
        ({"sha256": None}, {}),
        ({}, {"weights": 3}),
        ({}, {"weights_hash": ["a"]}),
        ({}, {"weights_hash": None}),
    ],
    ids=str,
)
def test_files_that_are_well_formed_and_wrong_are_one_line(write, clip, protocol):
    whole = record({"x": [20.0, 30.0]})
    wrong = {"protocol": whole["protocol"] | protocol, "clips": [whole["clips"][0], whole["clips"][1] | clip]}
    for names in (("a.json", "b.json"), ("b.json", "a.json")):
        write("a.json", whole), write("b.json", wrong)
        with pytest.raises(ValueError, match="b.json: ") as caught:
            compare(*(write(name, whole if name == "a.json" else wrong) for name in names))
        assert "\n" not in str(caught.value)


def test_names_in_files_are_shown_in_one_line(write):
    a = write("a.json", record({"x": [20.0]}, "\x1b]0;a\x07\nb", tail="\x1b[31m"))
    table = compare(a, write("b.json", record({"x": [21.0]}, "c"))).table()
    assert "\x1b" not in table and len(table.splitlines()) == 5
    with pytest.raises(ValueError, match="a clip appears twice"):
        twice = record({"x": [20.0]})
        compare(a, write("b.json", twice | {"clips": twice["clips"] * 2}))


def test_what_cannot_be_paired_is_said(write):
    a = write("a.json", record({"x": [20.0, 30.0]}))
    b = write("b.json", record({"x": [21.0]}, tail="drop"))
    found = compare(a, b)
    assert (found.clips, found.left_out, found.protocol) == (1, 1, {"tail": ("repeat", "drop")})
    assert "note: tail differs: repeat and drop" in found.table() and "1 clips are in one of them only" in found.table()
    with pytest.raises(ValueError, match="have no clip in common; evaluate the same videos"):
        compare(a, write("c.json", record({"x": [21.0]}, sha="other")))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"clips": [{}], "protocol": {}}', "[" * 10000, '{"clips": 3}'])
def test_other_files_are_refused(write, tmp_path, content):
    a = write("a.json", record({"x": [20.0]}))
    with pytest.raises(ValueError, match=r"odd.json: not a file that `vidtwin evaluate` wrote"):
        compare(a, write("odd.json", content))
    with pytest.raises(FileNotFoundError, match="no such file; `vidtwin evaluate"):
        compare(tmp_path / "nothing.json", a)


def test_an_evaluation_fills_the_figures_of_a_model_card(tmp_path, capsys):
    scores = str(Path(__file__).parents[2] / "benchmarks" / "results" / "evaluation-tiny.json")
    assert main(["convert", "tiny", "-o", str(tmp_path / "mine"), "--card-figures", scores]) == 0
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "| psnr, dB | 24.5" in card and "| protocol | clips 192" in card and "recipe, figures" not in card
    assert main(["convert", "mini", "-o", str(tmp_path / "other"), "--card-figures", scores]) == 1
    assert "is of weights 'tiny'" in capsys.readouterr().err
