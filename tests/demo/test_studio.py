"""What the page does, without the page; and what the command refuses."""

import copy

import numpy as np
import pytest
import torch

from tests.conftest import SMALL
from vidtwin.cli import main
from vidtwin.cli.demo import AUTH, is_local
from vidtwin.demo.studio import Limits, Studio, mixed
from vidtwin.demo.visitors import Visitor
from vidtwin.inference.engine import Engine
from vidtwin.inference.reconstruct import reconstruct
from vidtwin.latents.file import LatentVideo
from vidtwin.latents.stream import Identity
from vidtwin.video import read_video


@pytest.fixture
def studio(model) -> Studio:
    return Studio(Engine(model), Identity.of(model, "small"))


def nothing(share, what):
    assert 0 <= share <= 1


def test_what_is_shown_is_what_the_command_measures(studio, model, clip, tmp_path):
    shown = studio.rebuild(studio.encode(clip, "a.mp4", nothing), tmp_path / "grid.mp4", tmp_path / "x.vidtwin", nothing)
    report = reconstruct(model, clip, tmp_path / "plain.mp4")
    assert len(shown.psnr) == report.frames == 50
    assert np.mean(shown.psnr) == pytest.approx(report.psnr, abs=1e-3)
    grid = read_video(tmp_path / "grid.mp4").frames
    assert grid.shape == (50, 2 * (SMALL.height + 20), 2 * SMALL.width, 3)
    assert LatentVideo.load(tmp_path / "x.vidtwin").window_count == 4


def test_the_ends_of_the_sliders_are_the_videos_and_their_swaps(studio, clip, assets, tmp_path):
    a, b = (studio.encode(path, path.name, nothing) for path in (clip, assets / "rot90.mp4"))
    for structure, dynamics in ((0, 0), (1, 1), (0, 1), (1, 0)):
        for window, first, second in zip(mixed(a, b, structure, dynamics), a.windows, b.windows, strict=False):
            s, d = (first, second)[structure].latents, (first, second)[dynamics].latents
            assert torch.equal(window.latents.structure, s.structure)
            assert torch.equal(window.latents.dynamics_x, d.dynamics_x) and torch.equal(window.latents.dynamics_y, d.dynamics_y)
    frames = min(a.frames, b.frames)
    studio.swap(a, b, tmp_path / "swaps.mp4", nothing)
    assert read_video(tmp_path / "swaps.mp4").frames.shape == (frames, 2 * (SMALL.height + 20), 2 * SMALL.width, 3)
    studio.between(a, b, 0.5, 0.5, tmp_path / "between.mp4", nothing)
    assert read_video(tmp_path / "between.mp4").frames.shape == (frames, SMALL.height, SMALL.width, 3)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(seconds=1), "the video is 2 seconds long, the limit here is 1; cut it"),
        (Limits(side=300), "the video is 320x180, the limit here is 300 pixels a side; make it smaller"),
        (Limits(megabytes=0), "the file has 0 MB, the limit here is 0; make it smaller"),
    ],
)
def test_limits_are_told(limits, message, clip):
    with pytest.raises(ValueError, match=message):
        limits.check(clip)


def test_a_visitor_s_files_go_with_them_and_nobody_begins_with_those_of_another():
    visitor = Visitor()
    first, second = visitor.file("a.mp4"), visitor.file("a.mp4")
    first.write_bytes(b"1")
    assert first != second and visitor.folder is not None
    assert (copy.deepcopy(visitor).folder, copy.deepcopy(visitor).clips) == (None, {})
    folder = visitor.folder
    assert folder.stat().st_mode & 0o077 == 0
    visitor.leave()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others could use this machine; add --auth USER:PASSWORD"),
        (["--host", "0.0.0.0", "--auth", "me"], "--auth: give USER:PASSWORD"),
        (["--auth", ":x"], "--auth: give USER:PASSWORD"),
        (["--max-mb", "0"], "--max-mb 0: give a number above 0"),
        (["--port", "70000"], "--port 70000: give 1 to 65535"),
    ],
)
def test_what_is_not_safe_is_refused(options, message, capsys, monkeypatch):
    monkeypatch.delenv(AUTH, raising=False)
    assert main(["demo", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vidtwin: error: {message}")


def test_which_addresses_are_of_this_machine_alone():
    assert [is_local(host) for host in ("127.0.0.1", "localhost", "::1", "127.1.2.3")] == [True] * 4
    assert [is_local(host) for host in ("0.0.0.0", "192.168.0.1", "::", "example.org", "")] == [False] * 5
