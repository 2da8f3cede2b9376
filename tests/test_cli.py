import json
import os
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import get_type_hints

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import seeded_model
from vidtwin import LatentDataset, __version__, export_released
from vidtwin.cli import COMMANDS, main
from vidtwin.cli.options import FitOptions, ModelOptions, VideoOptions
from vidtwin.cli.videos import parse_position
from vidtwin.latents.file import LatentVideo
from vidtwin.video.read.reader import probe, read_video
from vidtwin.video.write.writer import VideoWriter


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """run(*arguments) -> (exit code, standard output, standard error), in an empty folder."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit_:  # argument parsing
            code = int(exit_.code or 0)
        return code, *capsys.readouterr()

    return run


def test_reconstruct_writes_the_panels_and_prints_the_table(run, clip, weights):
    code, out, _ = run("reconstruct", clip, "-o", "out.mp4", "--weights", weights, "--side-by-side", "--frames", "0:20")
    assert code == 0
    for name in ("frames", "size", "latents", "bytes", "PSNR", "SSIM", "seconds"):
        assert name in out
    assert read_video("out.mp4").frames.shape == (20, 32 + 20, 4 * 32, 3)
    assert os.listdir() == ["out.mp4"]


def test_scores_are_an_option(run, clip, weights):
    arguments = ("reconstruct", clip, "-o", "out.mp4", "--weights", weights, "--frames", ":5")
    code, out, _ = run(*arguments, "--no-score")
    assert (code, out.count("not measured, as asked")) == (0, 2)
    code, out, _ = run(*arguments, "--score", "--ssim-every", 2)
    assert (code, "(every 2nd frame)" in out) == (0, True)
    code, out, _ = run(*arguments)
    assert (code, "frame)" in out, "not measured" in out) == (0, False, False)


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that FFmpeg has opened to read, in their order."""
    names, real = [], av.open

    def open_(file, *arguments, **options):
        if str(file).startswith("file:"):
            names.append(Path(str(file).removeprefix("file:")).name)
        return real(file, *arguments, **options)

    monkeypatch.setattr(av, "open", open_)
    return names


COPIED = 2  # times that the writer opens a source to copy its sound: for what streams it has, and for their packets


def test_a_source_is_probed_once_and_read_once(run, clip, weights, opened):
    more = ("--weights", weights, "--frames", ":20")
    assert run("reconstruct", clip, "-o", "a.mp4", *more, "--no-sound")[0] == 0
    assert opened.count(clip.name) == 2
    opened.clear()
    assert run("reconstruct", clip, "-o", "a.mkv", *more)[0] == 0
    assert opened.count(clip.name) == 2 + COPIED
    opened.clear()
    assert run("encode", clip, "-o", "a.vidtwin", *more)[0] == 0
    assert opened.count(clip.name) == 2
    assert probe("a.mkv").frames is None  # which is no reason to count them
    opened.clear()
    assert run("reconstruct", "a.mkv", "-o", "b.mp4", "--weights", weights, "--no-sound")[0] == 0
    assert run("encode", "a.mkv", "-o", "b.vidtwin", "--weights", weights)[0] == 0
    assert opened.count("a.mkv") == 4


def test_two_sources_are_probed_once_each(run, clip, weights, opened):
    assert run("reconstruct", clip, "-o", "b.mp4", "--weights", weights, "--frames", ":5", "--no-sound")[0] == 0
    opened.clear()
    assert run("swap", "--structure", clip, "--dynamics", "b.mp4", "-o", "swap.mp4", "--weights", weights)[0] == 0
    assert (opened.count(clip.name), opened.count("b.mp4")) == (2 + COPIED, 2)
    opened.clear()
    assert run("interpolate", "b.mp4", clip, "--steps", 2, "-o", "row.mp4", "--weights", weights, "--no-sound")[0] == 0
    assert (opened.count(clip.name), opened.count("b.mp4")) == (2, 2)


def test_encode_decode_swap_interpolate(run, clip, weights):
    assert run("encode", clip, "-o", "a.vidtwin", "--weights", weights, "--frames", ":20", "--logvar")[0] == 0
    assert run("decode", "a.vidtwin", "-o", "a.mp4", "--weights", weights)[0] == 0
    assert run("decode", "a.vidtwin", "-o", "s.mp4", "--weights", weights, "--only", "structure")[0] == 0
    assert run("swap", "--structure", "a.vidtwin", "--dynamics", clip, "-o", "swap.mp4", "--weights", weights)[0] == 0
    assert run("swap", "a.vidtwin", clip, "-o", "positional.mp4", "--weights", weights)[0] == 0
    assert Path("positional.mp4").read_bytes() == Path("swap.mp4").read_bytes()
    assert run("interpolate", "a.vidtwin", clip, "--steps", 3, "-o", "row.mp4", "--weights", weights)[0] == 0
    assert [len(read_video(name).frames) for name in ("a.mp4", "s.mp4", "swap.mp4", "row.mp4")] == [20] * 4


def test_compressed_latents_are_latents(run, clip, weights):
    code, out, _ = run("encode", clip, "-o", "c.vidtwin", "--weights", weights, "--frames", ":20", "--compress", "--step", 0.5)
    assert code == 0
    size = Path("c.vidtwin").stat().st_size
    assert f"c.vidtwin: {size:,} bytes, " in out and " bits a value (Structure " in out and "; KL " in out
    assert run("encode", clip, "-o", "p.vidtwin", "--weights", weights, "--frames", ":20")[0] == 0
    assert size < Path("p.vidtwin").stat().st_size
    assert run("decode", "c.vidtwin", "-o", "a.mkv", "--weights", weights, "--codec", "ffv1")[0] == 0
    assert run("decode", "c.vidtwin", "-o", "b.mkv", "--weights", weights, "--codec", "ffv1", "--start", 18)[0] == 0
    assert run("swap", "--structure", "c.vidtwin", "--dynamics", "p.vidtwin", "-o", "swap.mp4", "--weights", weights)[0] == 0
    assert run("interpolate", "c.vidtwin", "p.vidtwin", "--steps", 2, "-o", "row.mp4", "--weights", weights)[0] == 0
    assert [len(read_video(name).frames) for name in ("a.mkv", "b.mkv", "swap.mp4", "row.mp4")] == [20, 2, 20, 20]
    assert (read_video("a.mkv").frames[18:] == read_video("b.mkv").frames).all()
    code, out, _ = run("info", "c.vidtwin")
    assert code == 0
    assert all(text in out for text in ("compressed latents of h264_aac.mp4", "0.5 sigma", f"{size:,} bytes"))


def test_what_cannot_be_compressed_is_refused_before_any_work(run, clip, monkeypatch):
    encode = ("encode", clip, "-o", "c.vidtwin", "--compress")
    for more, expected in (
        (("--step", 0), "--step 0: give"),
        (("--step", "nan"), "--step nan: give"),
        (("--logvar",), "--logvar: "),
    ):
        code, out, err = run(*encode, *more)
        assert (code, out, err.count("\n"), expected in err) == (2, "", 1, True)
    monkeypatch.setitem(sys.modules, "constriction", None)
    code, out, err = run(*encode)
    assert (code, out, err.count("\n"), "pip install 'vidtwin[compress]'" in err) == (1, "", 1, True)
    assert os.listdir() == []


def test_decode_finds_shipped_weights_and_refuses_to_follow_a_path_in_a_file(run, clip, weights):
    assert run("encode", clip, "-o", "a.vidtwin", "--frames", "0:2")[0] == 0
    assert run("decode", "a.vidtwin", "-o", "a.mp4")[0] == 0
    assert run("encode", clip, "-o", "b.vidtwin", "--weights", weights, "--frames", "0:2")[0] == 0
    code, _, err = run("decode", "b.vidtwin", "-o", "b.mp4")
    assert (code, "say where they are with --weights" in err) == (2, True)
    code, _, err = run("decode", "b.vidtwin", "-o", "b.mp4", "--weights", "tiny")
    assert (code, "were encoded with weights" in err) == (1, True)


def test_convert_both_ways_and_info(run, weights, clip):
    assert run("convert", weights, "-o", "ms.ckpt")[0] == 0
    code, _, err = run("convert", "ms.ckpt", "-o", "back")
    assert (code, "`vidtwin info` prints" in err, os.listdir()) == (1, True, ["ms.ckpt"])
    assert run("convert", "ms.ckpt", "-o", "back", "--config", weights / "config.json")[0] == 0
    assert Path("back/model.safetensors").read_bytes() == (weights / "model.safetensors").read_bytes()
    assert run("convert", "back/model.safetensors", "-o", "half", "--dtype", "float16")[0] == 0
    model = seeded_model()
    export_released(model, "ms.safetensors")
    for file, text in (
        (weights, "vidtwin folder"),
        ("tiny", "0.3348%"),
        ("ms.ckpt", "released (Microsoft)"),
        ("ms.safetensors", "released (Microsoft)"),
        (clip, "50 at 25 per second"),
        ("sprites", "flow, shift 5"),
    ):
        code, out, _ = run("info", file)
        assert code == 0
        assert text in out
    code, out, _ = run("info", "ms.ckpt")
    assert f"{sum(p.numel() for p in model.parameters()):,}" in out
    run("encode", clip, "-o", "a.vidtwin", "--weights", weights, "--frames", "0:20", "--policy", "pad")
    assert "20 at 25 per second" in run("info", "a.vidtwin")[1]
    assert "is a file of latents; `vidtwin decode` makes a video of it" in run("reconstruct", "a.vidtwin", "-o", "a.mp4")[2]


def test_convert_says_what_a_folder_does_not_hold(run, weights):
    model = seeded_model()
    model.set_aside = {"loss.logvar": torch.zeros(())}
    export_released(model, "ms.ckpt")
    code, _, err = run("convert", "ms.ckpt", "-o", "ours", "--config", weights / "config.json")
    assert (code, err) == (0, "vidtwin: note: 1 weights of losses (loss.*) left out; a folder holds the model alone\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "--help" in out and "{None}" not in out


@pytest.mark.parametrize(("arguments", "expected"), [([], 2), (["--help"], 0), (["-h"], 0)])
def test_a_bare_command_lists_all_in_groups(run, arguments, expected):
    code, out, err = run(*arguments)
    assert (code, err) == (expected, "")
    assert set(re.findall(r"^  (\S+)", out, flags=re.MULTILINE)) >= set(COMMANDS) and "\nTraining:\n" in out and "--version" in out


BAD_VIDEOS = [
    "missing.mp4",
    "folder.mp4",
    "text.mp4",
    "empty.mp4",
    "truncated.mp4",
    "random.mp4",
    "audio_only.mp4",
    "cover_art_only.m4a",
]


@pytest.mark.parametrize("name", BAD_VIDEOS)
@pytest.mark.parametrize("command", ["reconstruct", "encode"])
def test_bad_videos_are_one_line_and_leave_nothing(run, assets, clip, weights, name, command):
    source = Path("..") / name
    if name == "folder.mp4":
        source.mkdir()
    elif name == "text.mp4":
        source.write_text("this is no video\n")
    elif name == "empty.mp4":
        source.write_bytes(b"")
    elif name == "truncated.mp4":
        source.write_bytes(clip.read_bytes()[:3000])
    elif name == "random.mp4":
        source.write_bytes(np.random.default_rng(0).bytes(20_000))
    elif name != "missing.mp4":
        shutil.copy(assets / name, source)
    out = "out.mp4" if command == "reconstruct" else "out.vidtwin"
    code, printed, err = run(command, source, "-o", out, "--weights", weights)
    assert code == 1
    assert printed == ""
    assert err.count("\n") == 1
    assert name in err
    assert os.listdir() == []


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (31, 17), (360, 2)])
@pytest.mark.parametrize("policy", ["crop", "squash", "pad"])
def test_odd_and_tiny_pictures_work(run, weights, height, width, policy):
    import av

    picture = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    with av.open("in.avi", "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    code, _, err = run("reconstruct", "in.avi", "-o", "out.mp4", "--weights", weights, "--policy", policy)
    if (height, width) == (360, 2):
        assert (code, "crop it first" in err) == (1, True)
    else:
        assert code == 0, err
        assert len(read_video("out.mp4").frames) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["reconstruct", "CLIP", "-o", "no/such/out.mp4"], 1, "does not exist; create it"),
        (["reconstruct", "CLIP", "-o", ".."], 1, "is not empty"),
        (["reconstruct", "CLIP", "-o", "out.avi"], 1, ".mp4"),
        (["reconstruct", "CLIP", "-o", "out.mp4", "--crf", "99"], 1, "--crf 99"),
        (["reconstruct", "CLIP", "-o", "out.mp4", "--frames", "9:3"], 2, "--frames 9:3"),
        (["reconstruct", "CLIP", "-o", "out.mp4", "--frames", "500:"], 1, "50 frames"),
        (["reconstruct", "CLIP", "-o", "out.mp4", "--policy", "zoom"], 2, "policy"),
        (["reconstruct", "CLIP", "-o", "out.mp4", "--ssim-every", "0"], 2, "--ssim-every 0: give at least 1"),
        (
            ["reconstruct", "CLIP", "-o", "out.mp4", "--no-score", "--ssim-every", "2"],
            2,
            "--ssim-every 2: --no-score takes no SSIM",
        ),
        (["reconstruct", "CLIP", "-o", "out.mp4", "--device", "mps"], 2, "--device cpu"),
        (["reconstruct", "CLIP", "-o", "out.mp4", "--weights", "none"], 1, "shipped names: mini"),
        (["reconstruct", "CLIP", "-o", "out.mp4", "--weights", "none.ckpt"], 1, "none.ckpt: no such file"),
        (["encode", "CLIP", "-o", "out.mp4"], 2, "out.vidtwin"),
        (["decode", "CLIP", "-o", "out.mp4"], 1, "not a latent file"),
        (["info", "none"], 1, "no such file or folder"),
        (["convert", "tiny", "-o", "out.pt"], 1, ".ckpt or .safetensors"),
        (["convert", "tiny", "-o", "out.ckpt", "--dtype", "float16"], 2, "hold float32"),
        (["reconstruct", "CLIP", "-o", "CLIP"], 2, "is the input"),
        (["evaluate", "FOLDER", "-o", "CLIP"], 2, "has the name of a video, weights or data"),
        (["check-data", "FOLDER", "--json-out", "CLIP"], 2, "has the name of a video, weights or data"),
        (["swap", "--structure", "none.mp4", "--dynamics", "CLIP", "-o", "CLIP"], 2, "is the input"),
        (["interpolate", "CLIP", "CLIP", "-o", "out.mp4", "--steps", "1"], 1, "--steps 1"),
        (["train", "none.yaml"], 1, "none.yaml: no such recipe; give a YAML file, or the name of a shipped one"),
        (["train-generator", "none.yaml"], 1, "none.yaml: no such recipe; give a YAML file, or the name of a shipped one"),
        (["dance"], 2, "vidtwin: error: dance: no such command; `vidtwin` lists them"),
        (["recontruct"], 2, "vidtwin: error: recontruct: no such command; did you mean reconstruct?"),
        (["decode", "x.vidtwin", "-o", "y.mp4", "--onyl", "structure"], 2, "--only"),
        (["swap", "CLIP", "-o", "out.mp4"], 2, "vidtwin swap A B -o OUT"),
        (["swap", "CLIP", "CLIP", "--structure", "CLIP", "-o", "out.mp4"], 2, "vidtwin swap A B -o OUT"),
    ],
)
def test_bad_usage_is_answered_with_the_remedy(run, clip, weights, arguments, code, message):
    arguments = [str(clip) if argument == "CLIP" else argument for argument in arguments]
    if (
        arguments[0] not in ("info", "convert", "check-data", "train", "train-generator", "dance", "recontruct", "decode")
        and "--weights" not in arguments
    ):
        arguments += ["--weights", str(weights)]
    found, _, err = run(*arguments)
    assert found == code, err
    assert message in err
    assert "Traceback" not in err
    assert os.listdir() == []


def test_an_output_folder_without_permission(run, clip, weights):
    Path("locked").mkdir(mode=0o500)
    if os.access("locked", os.W_OK):
        pytest.skip("this user may write anywhere")
    code, _, err = run("reconstruct", clip, "-o", "locked/out.mp4", "--weights", weights)
    assert (code, "is not writable" in err) == (1, True)


@pytest.mark.parametrize("command", ["reconstruct", "encode", "convert", "convert-folder"])
def test_a_disk_that_fills_up_leaves_nothing_half_written(clip, weights, tmp_path, command):
    """A real write error: the process may write only a few kilobytes to a file."""
    out = {"reconstruct": "out.mp4", "encode": "out.vidtwin", "convert": "out.ckpt", "convert-folder": "out"}[command]
    source = [weights] if command.startswith("convert") else [clip, "--weights", weights]
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    limited = f"{limit}; from vidtwin.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", limited, command.removesuffix("-folder"), *map(str, source), "-o", out],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert out in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    if command == "encode":  # whole windows are kept to go on from
        assert "--resume" in done.stderr
        assert LatentVideo.load(tmp_path / "out.partial.vidtwin").frames in (16, 32)
    else:
        assert os.listdir(tmp_path) == []


def test_precision_of_encoding_and_decoding_may_differ(run, clip, weights):
    arguments = ["--weights", weights, "--dtype", "bfloat16", "--frames", "0:2"]
    assert run("encode", clip, "-o", "a.vidtwin", *arguments)[0] == 0
    assert run("decode", "a.vidtwin", "-o", "a.mp4", "--weights", weights)[0] == 0


def test_outputs_have_the_permissions_of_the_umask(run, clip, weights):
    before = os.umask(0o022)
    try:
        run("encode", clip, "-o", "a.vidtwin", "--weights", weights, "--frames", "0:2")
        run("convert", weights, "-o", "folder")
    finally:
        os.umask(before)
    for path in ("a.vidtwin", "folder/model.safetensors", "folder/config.json"):
        assert Path(path).stat().st_mode & 0o777 == 0o644


def test_an_existing_output_survives_a_failure(run, weights):
    Path("out.mp4").write_bytes(b"mine")
    assert run("reconstruct", "missing.mp4", "-o", "out.mp4", "--weights", weights)[0] == 1
    assert Path("out.mp4").read_bytes() == b"mine"


def test_a_damaged_video_is_reconstructed_with_a_warning(run, assets, weights):
    code, _, err = run("reconstruct", assets / "bitflips.mp4", "-o", "out.mp4", "--weights", weights)
    assert code == 0
    assert "vidtwin: warning: " in err
    assert "bitflips.mp4" in err


def test_decoding_weights_with_nan_is_an_error_and_not_a_black_video(run, clip, weights, tmp_path):
    shutil.copytree(weights, tmp_path / "nan")
    tensors = load_file(tmp_path / "nan" / "model.safetensors")
    tensors["decoder.head.linear.bias"].fill_(float("nan"))
    save_file(tensors, tmp_path / "nan" / "model.safetensors")
    code, _, err = run("reconstruct", clip, "-o", "out.mp4", "--weights", tmp_path / "nan")
    assert (code, "NaN" in err, os.listdir()) == (1, True, []), err


def test_the_module_runs_and_interrupting_is_not_a_traceback(tmp_path):
    done = subprocess.run([sys.executable, "-m", "vidtwin", "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"vidtwin {__version__}\n")


def test_a_bright_square_file_round_trip(run, weights, tmp_path):
    frames = np.full((3, 32, 32, 3), 200, np.uint8)
    with VideoWriter("in.mp4", Fraction(25), (32, 32)) as writer:
        writer.write(frames)
    assert run("reconstruct", "in.mp4", "-o", "a.mp4", "--weights", weights)[0] == 0
    assert run("reconstruct", "in.mp4", "-o", "b.mp4", "--weights", weights)[0] == 0
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()


def test_decode_a_part_by_frames_or_seconds(run, clip, weights):
    assert run("encode", clip, "-o", "x.vidtwin", "--weights", weights, "--overlap", "4")[0] == 0
    for start, end, frames in (("10", "20", 10), ("0.4", "0.8s", 10), ("0:01", "0:02.5", 25), ("1.96s", None, 1)):
        until = [] if end is None else ["--end", end]
        code, out, err = run("decode", "x.vidtwin", "-o", "out.mp4", "--weights", weights, "--start", start, *until)
        assert (code, f"{frames} frames" in out) == (0, True), err
        assert len(read_video("out.mp4").frames) == frames
    for wrong, code, message in (("soon", 2, "--start soon: expected a frame number (48) or seconds"), ("50", 1, "has 50 frames")):
        found, _, err = run("decode", "x.vidtwin", "-o", "out.mp4", "--weights", weights, "--start", wrong)
        assert (found, message in err) == (code, True), err


def test_positions(run, clip, weights):
    assert run("encode", clip, "-o", "x.vidtwin", "--weights", weights)[0] == 0
    video = LatentVideo.load("x.vidtwin")
    for text, frame in (("0", 0), ("48", 48), ("0s", 0), ("1.0", 25), ("1s", 25), ("0.041", 2), ("0:00:01.5", 38), ("1:00", 50)):
        assert parse_position(text, "--start", video) == frame


def test_sound_goes_along_unless_it_is_not_wanted(run, clip, weights):
    assert run("reconstruct", clip, "-o", "a.mp4", "--weights", weights, "--policy", "tile")[0] == 0
    assert run("reconstruct", clip, "-o", "b.mp4", "--weights", weights, "--no-sound")[0] == 0
    assert (probe("a.mp4").has_audio, probe("b.mp4").has_audio) == (True, False)
    assert probe("a.mp4").stored_size == probe(clip).stored_size
    assert run("encode", clip, "-o", "x.vidtwin", "--weights", weights)[0] == 0
    assert run("decode", "x.vidtwin", "-o", "c.mp4", "--weights", weights, "--sound-from", clip)[0] == 0
    assert probe("c.mp4").has_audio


def test_png_files_and_back(run, clip, weights):
    assert run("reconstruct", clip, "-o", "frames/", "--weights", weights, "--frames", ":3")[0] == 0
    assert len(os.listdir("frames")) == 3
    assert run("reconstruct", "frames", "-o", "out.mp4", "--weights", weights)[0] == 0
    assert len(read_video("out.mp4").frames) == 3


def test_pipes(clip, weights, tmp_path):
    command = [sys.executable, "-m", "vidtwin", "reconstruct", "-", "-o", "-", "--weights", str(weights), "--frames", ":5"]
    with clip.open("rb") as source:
        done = subprocess.run(command, stdin=source, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"PSNR" in done.stderr
    (tmp_path / "out.mp4").write_bytes(done.stdout)
    assert len(read_video(tmp_path / "out.mp4").frames) == 5


def test_a_lower_precision_is_checked_and_said(run, clip, weights):
    arguments = ["reconstruct", clip, "-o", "out.mp4", "--weights", weights, "--frames", ":3"]
    arguments += ["--encode-dtype", "bfloat16", "--dtype", "float32"]
    code, out, _ = run(*arguments)
    assert code == 0
    assert "encode bfloat16, decode float32" in out
    assert "the first clip encoded in bfloat16 is" in out
    code, _, err = run(*arguments, "--check", "99")
    assert (code, "below --check 99; use --encode-dtype float32" in err) == (1, True), err


def test_low_memory_gives_the_same_bytes(run, clip, weights, tmp_path):
    files = {name: tmp_path / name for name in ("a.vidtwin", "b.vidtwin", "a.mp4", "b.mp4", "c.mp4", "d.mp4")}
    for name, more in (("a", []), ("b", ["--low-memory"])):
        arguments = ["--weights", str(weights), "--dtype", "float32", *more]
        assert run("encode", clip, "-o", files[f"{name}.vidtwin"], *arguments)[0] == 0
        assert run("decode", files[f"{name}.vidtwin"], "-o", files[f"{name}.mp4"], *arguments)[0] == 0
        assert run("reconstruct", clip, "-o", files["cd"[name == "b"] + ".mp4"], *arguments)[0] == 0
    for one, other in (("a.vidtwin", "b.vidtwin"), ("a.mp4", "b.mp4"), ("c.mp4", "d.mp4")):
        assert files[one].read_bytes() == files[other].read_bytes()
    code, _, _ = run("encode", clip, "-o", files["b.vidtwin"], "--weights", weights, "--low-memory", "--encode-dtype", "bfloat16")
    assert code == 0  # checked against float32 by decoding


def test_evaluate_and_compare(run, clip, weights, tmp_path):
    video, name = clip, str(weights)
    code, out, err = run("evaluate", video, "--weights", name, "-o", "a.json", "--protocol", "vidtwin-paper", "--controls", "dct")
    assert (code, err) == (0, "")
    assert "psnr_dct" in out and "lpips                   not measured: the network was not given; give a folder with" in out
    record = json.loads(Path("a.json").read_text())
    assert record["protocol"]["sample_fps"] == 25 and record["protocol"]["weights"] == name
    code, out, err = run("evaluate", video, "--weights", name, "-o", "b.json", "--sample-fps", 25, "--latents", "sample")
    assert code == 0
    code, out, err = run("evaluate", "--compare", "a.json", "b.json")
    assert code == 0 and "note: latents differs: mean and sample" in out and "psnr " in out
    assert run("evaluate")[0] == 2
    assert run("evaluate", video, "--plot", "x.svg")[0] == 2
    code, _, err = run("evaluate", video, "--weights", name, "-o", "c.json", "--controls", "pca")
    assert (code, err) == (1, "vidtwin: error: the control pca learns from clips: give a folder of training videos with --fit\n")
    code, _, err = run("evaluate", video, "--weights", name, "-o", "c.json", "--i3d", "nothing.pt")
    assert (
        code == 1 and err.startswith("vidtwin: error: nothing.pt: no such file; give i3d_torchscript.pt") and err.count("\n") == 1
    )
    assert not Path("c.json").exists()


def test_curves_and_controls(run, clip, weights, tmp_path):
    training = tmp_path / "training"
    training.mkdir()
    for number in range(24):
        shutil.copy(clip, training / f"{number}.mp4")
    options = ["--clips", 1, "--controls", "pca", "grid", "--fit", training, "--grid", weights, "--codecs", "x264"]
    code, out, err = run("evaluate", clip, "--weights", weights, "-o", "a.json", "--plot", "a.svg", *options)
    assert (code, err) == (0, ""), err
    record = json.loads(Path("a.json").read_text())
    assert record["overall"]["psnr_grid"] == record["overall"]["psnr"] and record["protocol"]["controls"]["pca"]["clips"] == 24
    assert set(record["rate_distortion"]) == {"latents", "x264"} and Path("a.svg").read_text().startswith("<svg")
    assert "x264 " in out and " dB at " in out


def test_encode_dataset(run, clip, weights, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(clip, videos / "a.mp4")
    (videos / "b.mp4").write_bytes(b"nothing")
    options = ["--weights", weights, "--processes", 1]
    code, out, err = run("encode-dataset", videos, "-o", "set", *options)
    assert code == 1 and "1 of 2 recordings failed, b.mp4: " in err and err.count("\n") == 1
    assert "encoded       1 in" in out and "failed        1" in out
    (videos / "b.mp4").unlink()
    code, out, err = run("encode-dataset", videos, "-o", "set", *options)
    assert (code, err) == (0, "") and "kept          1" in out
    code, out, _ = run("encode-dataset", videos, "-o", "set", "--weights", weights, "--verify", 5)
    assert code == 0 and "1 recordings (4 rows) encoded again are the same, bit for bit" in out
    assert len(LatentDataset("set")) == 4
    assert run("encode-dataset", videos, "-o", "set", "--every", 0, *options)[0] == 1
    assert run("encode-dataset", videos, "-o", "set", "--processes", 0)[0] == 2


def test_a_reader_that_has_enough_is_no_error():
    for command in ("recipes", "--help"):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run([sys.executable, "-m", "vidtwin", command], stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
        assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_defaults_in_words_and_names_in_place_of_types(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert not re.search(r"default:[\s│]+(None|True|False)|--\S+ STR|\(default: \)", text)


def test_a_command_that_is_called_again_has_the_same_options():
    """Options were annotated anew by each call, one inside the other, so that a long process got slower and slower."""
    hints = []
    for _ in range(2):
        with pytest.raises(SystemExit):
            main(["reconstruct", "--help"])
        hints.append([get_type_hints(group, include_extras=True) for group in (ModelOptions, FitOptions, VideoOptions)])
    assert hints[0] == hints[1]
