"""What the page does, without the page; and what the command refuses."""

import copy
import pickle
import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.conftest import SMALL
from vidtwin.cli import main
from vidtwin.cli.demo import AUTH, is_local, names_of
from vidtwin.demo.clips import ASSETS, EXAMPLE, FILES, NAMES, place_clips, small_picture
from vidtwin.demo.desk import Visitor
from vidtwin.demo.studio import Clip, Limits, Studio, mixed
from vidtwin.inference.decode import decode_video
from vidtwin.inference.edit import edit
from vidtwin.inference.engine import Engine
from vidtwin.inference.reconstruct import reconstruct
from vidtwin.latents.file import LatentVideo
from vidtwin.latents.stream import Identity
from vidtwin.model.cards import Quality, read_quality
from vidtwin.model.checkpoint import SHIPPED
from vidtwin.video import probe, read_video
from vidtwin.video.write.writer import VideoWriter


@pytest.fixture
def studio(model, tmp_path, monkeypatch) -> Studio:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where it puts its files
    return Studio(Engine(model), Identity.of(model, "small"))


def nothing(share, what):
    assert 0 <= share <= 1


def test_what_is_shown_is_what_the_command_measures(studio, model, clip, tmp_path):
    shown = studio.rebuild(clip, "a.mp4", tmp_path / "grid.mp4", tmp_path / "x.vidtwin", nothing)
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


@pytest.mark.parametrize(("motion", "slowed"), [(0.5, 1), (1.5, 2)])
def test_edits_are_those_of_the_command(studio, clip, tmp_path, motion, slowed):
    a = studio.encode(clip, "a.mp4", nothing)
    studio.edit(a, motion, slowed, tmp_path / "edited.mp4", nothing)
    shown = read_video(tmp_path / "edited.mp4").frames
    decode_video(
        studio.engine, edit(LatentVideo.load(a.latents).stream(), motion, slowed), tmp_path / "plain.mp4", weights=studio.identity
    )
    plain = read_video(tmp_path / "plain.mp4").frames
    assert len(shown) == len(plain) == 50 * slowed
    original, edited = (np.abs(half.astype(int) - plain).mean() for half in np.split(shown[:, 20:], 2, axis=2))
    assert edited < 8 < original  # levels; both are compressed


def test_a_video_is_slowed_within_the_limit_of_frames(studio, clip, tmp_path):
    studio.limits = Limits(seconds=3)  # 180 frames
    a = studio.encode(clip, "a.mp4", nothing)
    with pytest.raises(ValueError, match="4 times as long the video has 200 frames, the limit here is 180; slow it less"):
        studio.edit(a, 1, 4, tmp_path / "edited.mp4", nothing)


def test_clips_to_choose_from_are_short_small_and_attributed(tmp_path):
    attributed = (ASSETS / "ATTRIBUTION.md").read_text()
    assert all(f"`{file}`" in attributed for file in FILES.values())
    assert sum((ASSETS / file).stat().st_size for file in FILES.values()) < 600_000
    paths = place_clips(tmp_path / "kept")
    assert tuple(paths) == NAMES and all(len(read_video(path).frames) in (64, 98) for path in paths.values())
    assert small_picture(paths[EXAMPLE]).startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize("name", ["tiny", "mini"])
def test_the_quality_to_expect_is_what_the_card_of_the_weights_states(name):
    quality = read_quality(SHIPPED / name)
    card = (SHIPPED / name / "README.md").read_text()
    assert f"| `{name}` | {quality.figures['values per clip']} | {quality.figures['PSNR']} | {quality.figures['SSIM']} |" in card
    assert quality.on == "On 24 test videos that were not trained on" and quality.bad_at


def test_the_quality_that_a_training_wrote_is_read_and_none_is_made_up(model, tmp_path):
    model.save_pretrained(tmp_path / "with", figures={"PSNR": "24.55 dB", "SSIM": 0.7})
    model.save_pretrained(tmp_path / "without")
    assert read_quality(tmp_path / "with") == Quality({"PSNR": "24.55 dB", "SSIM": "0.7"})
    assert read_quality(tmp_path / "without") == read_quality(tmp_path / "nowhere") == Quality()


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


def test_what_is_missing_of_a_damaged_video_is_noted(studio, assets, tmp_path, recwarn):
    shown = studio.rebuild(assets / "bitflips.mp4", "bitflips.mp4", tmp_path / "grid.mp4", tmp_path / "x.vidtwin", nothing)
    assert "get the file again" in shown.facts["note"] and str(assets) not in shown.facts["note"] and len(recwarn) == 0


@pytest.fixture
def liar(tmp_path) -> Path:
    """A video of 90 frames whose header tells of 2."""
    path = tmp_path / "liar.avi"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mjpeg", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        for _ in range(90):
            file.mux(stream.encode(av.VideoFrame(64, 64, "yuvj420p")))
    content = bytearray(path.read_bytes())
    length = content.index(b"strh") + 8 + 32
    content[length : length + 4] = (2).to_bytes(4, "little")
    path.write_bytes(content)
    return path


def test_frames_and_pixels_have_bounds_whatever_the_file_says(studio, liar, clip):
    assert probe(liar).frames == 2
    studio.limits = Limits(seconds=1)  # 60 frames
    with pytest.raises(ValueError, match="the video has 6. frames or more, the limit here is 60 of 64x64; cut it"):
        studio.encode(liar, "liar.avi", nothing)
    with pytest.raises(ValueError, match="frames or more"):
        studio.rebuild(liar, "liar.avi", liar.with_name("a.mp4"), liar.with_name("a.vidtwin"), nothing)
    info = replace(probe(clip), width=4096, height=4096)
    Limits().check_frames(512, info)
    with pytest.raises(ValueError, match="the limit here is 512 of 4096x4096; cut it, make it smaller or its frame rate lower"):
        Limits().check_frames(513, info)


def test_pixels_that_are_stored_count_like_those_that_are_shown(tmp_path):
    narrow = tmp_path / "narrow.mp4"
    with VideoWriter(narrow, Fraction(25), (32, 320), pixel_aspect=Fraction(1, 4)) as writer:
        writer.write(np.zeros((1, 32, 320, 3), np.uint8))
    assert probe(narrow).width == 80
    with pytest.raises(ValueError, match="the limit here is 300 pixels a side"):
        Limits(side=300).check(narrow)


def test_a_clip_is_files_and_few_bytes(studio, clip):
    made = studio.encode(clip, "a.mp4", nothing)
    assert len(pickle.dumps(made)) < 1000 and made.frames == 50
    assert [window.pixels for window in made.windows] == [None] * 4
    assert sum(pixels.shape[1] for pixels in made.pixels()) == 50


def test_nobody_begins_with_what_another_gave():
    visitor = Visitor({"a": Clip("a.mp4", Path("a.mp4"), Path("a.vidtwin"), 1)})
    assert copy.deepcopy(visitor).clips == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others could use this machine; add --auth USER:PASSWORD"),
        (["--host", "0.0.0.0", "--auth", "me"], "--auth: give USER:PASSWORD"),
        (["--auth", ":x"], "--auth: give USER:PASSWORD"),
        (["--max-mb", "0"], "--max-mb 0: give a number above 0"),
        (["--keep-minutes", "nan"], "--keep-minutes nan: give a number above 0"),
        (["--max-seconds", "inf"], "--max-seconds inf: give a number above 0"),
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


def test_a_page_of_this_machine_alone_answers_to_its_own_names():
    local = {"localhost", "127.0.0.1", "::1"}
    assert names_of("127.0.0.1", None) == local and names_of("127.0.0.2", None) == local | {"127.0.0.2"}
    assert names_of("localhost", "Demo.example.org") == local | {"demo.example.org"}
    assert names_of("0.0.0.0", None) is None and names_of("10.0.0.5", "demo.example.org") == local | {
        "10.0.0.5",
        "demo.example.org",
    }
