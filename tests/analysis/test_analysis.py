"""All five analyses of a small real model: wiring, controls, determinism, refusals; and the command."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.conftest import SMALL, seeded_model
from vidtwin import VidTwin
from vidtwin.analysis.analyze import FIGURES, Analysis, Figure, analyze, quantity
from vidtwin.analysis.codes import encode_clips, untrained
from vidtwin.analysis.dependence import Dependence
from vidtwin.analysis.rates import Rates
from vidtwin.analysis.spectra import Spectra
from vidtwin.analysis.swaps import Kept, Swaps
from vidtwin.analysis.verdict import verdict
from vidtwin.cli import main
from vidtwin.data.sprites import SpriteClips, draw_factors
from vidtwin.model.ablations import ablations
from vidtwin.video.write.encoding import Encoding
from vidtwin.video.write.writer import VideoWriter

CLIPS = SpriteClips(draw_factors(10, seed=5), SMALL.frames, SMALL.height, SMALL.width)
ANALYSES = ["spectra", "swaps", "dependence", "dependence_of_sprites", "probes", "rates"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Products this small only wait for each other in several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def analysis(model: VidTwin) -> Analysis:
    grid = seeded_model(ablations(SMALL)["a"])
    return analyze(model, CLIPS, sprites=40, others={"grid": grid})


def test_every_model_has_every_figure(analysis, model):
    values = json.loads(json.dumps(analysis.to_dict(), allow_nan=False))
    assert list(values["findings"]) == ["model", "untrained", "grid"]
    assert all(list(findings) == ANALYSES for findings in values["findings"].values())
    assert len(values["table"]) == len(FIGURES) and {row["analysis"] for row in values["table"]} == set(ANALYSES)
    for row in values["table"]:
        assert row["model"] is not None and row["untrained"] is not None
    assert values["findings"]["grid"]["swaps"]["dynamics"]["own"] is None  # it has no Dynamics
    assert values["protocol"]["clips"] == values["protocol"]["videos"] == 10
    assert len(set(values["protocol"]["weights_hash"].values())) == 3


def test_every_analysis_has_its_sentences_in_one_line(analysis):
    assert list(analysis.sentences()) == ANALYSES
    for text in analysis.sentences().values():
        assert "\n" not in text and "nan" not in text and text.endswith(".") and "untrained" in text


def test_a_verdict_comes_first_and_figures_are_named_in_words(analysis):
    values = analysis.to_dict()
    assert values["verdict"].startswith("Structure explains ") and "After a swap Structure is " in values["verdict"]
    assert "The latents are not apart: " in values["verdict"] and "\n" not in values["verdict"]
    assert "motion reproduced: " in values["sentences"]["spectra"] and "moving.both" not in str(values["sentences"])
    row = {"unit": "%", "model": 0.175, "untrained": None}
    assert quantity(row, "model") == "18 %" and quantity(row, "untrained") == "-"
    assert quantity({"unit": "dB", "model": 6.318}, "model") == "6.32 dB"


def test_latents_are_apart_or_it_is_said_why_not():
    kept = Kept(0.95, 0.99, -1.0, -1.0, 0.01, 1.0, 1.0, 0.1)
    shares = {"both": [0.99], "structure": [0.9], "dynamics": [0.0]}
    spectra = Spectra(10, [0.0], [1.0], shares, {"both": 0.8, "structure": -0.1, "dynamics": 0.7}, None, {}, 1.0, 1.0)
    rates = Rates(10, 10, 900, 500, 900, 120, 100, 100, 1.0, None, None, None, 0.1, 10, 10)
    dependence = Dependence(10, 10, 0.1, 0.05, 0.1, 0.1, 0.5)
    said = verdict(spectra, Swaps(10, 90, kept, kept), dependence, rates)
    assert said == (
        "Structure explains 90 % of the time-averaged image and 0 % of what moves, Dynamics explains 0 % of the time-averaged "
        "image and 70 % of what moves, both together 99 % and 80 %. After a swap Structure is recovered (R^2 0.95, 100 % "
        "retrieval) and Dynamics is recovered (R^2 0.95, 100 % retrieval). A linear map predicts 10 % of Dynamics from Structure "
        "and 5 % of Structure from Dynamics. A clip that is frozen saves 95 % of Dynamics' bits. The latents are apart by these "
        "measures."
    )
    lost, told = replace(kept, own=0.3), replace(dependence, r2_dynamics=0.5)
    said = verdict(spectra, Swaps(10, 90, kept, lost), told, replace(rates, dynamics_frozen=490))
    assert said.endswith(
        "The latents are not apart: Dynamics is not recovered from a swap; Dynamics can be predicted from Structure; "
        "Dynamics costs bits where nothing moves."
    )


def test_it_is_the_same_for_a_seed_and_leaves_the_model_and_torchs_generator(analysis, model):
    model.train()
    state, said = torch.random.get_rng_state(), set()
    try:
        again = analyze(model, torch.stack([CLIPS[i] for i in range(10)]), sprites=40, progress=lambda *what: said.add(what[0]))
        assert model.training and torch.equal(torch.random.get_rng_state(), state)
    finally:
        model.eval()
    expected = {name: analysis.to_dict()["findings"][name] for name in ("model", "untrained")}
    assert again.to_dict()["findings"] == expected
    assert {"model: encode", "model: swaps", "untrained: spectra"} <= said
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_control_is_seeded(model):
    one, same, other = (untrained(SMALL, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_model_is_compared_with_itself_untrained():
    found = analyze(untrained(SMALL, 0), CLIPS, sprites=40)
    assert not any(row["apart"] for row in found.table())
    assert all("within the margins" in text for text in found.sentences().values())


def test_below_nothing_counts_as_nothing():
    figure = Figure("swaps", "structure.own", 0.1, "")
    assert figure.differ(-20.0, -3.0) is False and figure.differ(0.2, -3.0) is True
    assert figure.differ(None, 0.5) is None
    assert Figure("probes", "static_gap", 0.1, "", floor=-1).differ(-0.3, 0.0) is True


def test_what_cannot_be_analysed_is_refused_in_one_line(model):
    grid = seeded_model(SMALL)
    for options, said in (
        ({"clips": [CLIPS[0]] * 9}, "analyze needs clips of at least 10 videos, got 9; give more"),
        ({"names": ["a"] * 10}, "analyze needs clips of at least 10 videos, got 1; give more"),
        ({"names": [str(i) for i in range(11)]}, "11 names for 10 clips: give one for each"),
        ({"sprites": 39}, "analyze needs at least 40 sprites, got 39; draw more"),
        ({"others": {"untrained": grid}}, "other model 'untrained': give it another name"),
    ):
        with pytest.raises(ValueError) as error:
            analyze(model, **{"clips": CLIPS} | options)
        assert str(error.value).startswith(said) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no clips to analyse"):
        encode_clips(model, [])


def test_the_command_writes_a_file_without_paths(weights, tmp_path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    for index in range(11):
        frames = ((CLIPS[index % 10].permute(1, 2, 3, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
        with VideoWriter(videos / f"{index:02}.mp4", Fraction(25), (32, 32), Encoding(crf=12)) as writer:
            writer.write(frames if index < 10 else frames[:5])  # the last is too short for a clip
    options = ["--weights", str(weights), "--sprites", "40", "--device", "cpu", "-o", str(tmp_path / "out.json")]
    assert main(["analyze", str(videos), *options, "--others", f"again={weights}"]) == 0
    printed, text = capsys.readouterr().out, (tmp_path / "out.json").read_text()
    record = json.loads(text)
    assert printed.startswith("verdict: Structure explains ")
    assert all(f"{name}: " in printed for name in ANALYSES) and set(record["findings"]) == {"model", "untrained", "again"}
    assert record["findings"]["again"] == record["findings"]["model"]
    assert record["protocol"]["videos"] == 10 and record["weights"] == weights.name and str(tmp_path) not in text
    assert main(["analyze", str(videos), *options, "--sprites", "3"]) == 1
    assert capsys.readouterr().err == "vidtwin: error: analyze needs at least 40 sprites, got 3; draw more\n"
    assert main(["analyze", str(videos), "--clips", "0"]) == 2
    assert main(["analyze", str(videos), *options, "--others", "nothing"]) == 2
