import os
import random
import signal
import subprocess
import sys
import time
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from tests.conftest import SMALL
from vidtwin import VidTwin
from vidtwin.inference.decode import Output, decode_video
from vidtwin.inference.encode import encode_stream, encode_video, plan_header
from vidtwin.inference.engine import Engine
from vidtwin.inference.reconstruct import decode_row, interpolate, reconstruct, swap
from vidtwin.inference.report import ordinal, plan_ssim
from vidtwin.latents.file import LatentVideo
from vidtwin.latents.stream import Identity
from vidtwin.metrics import frame_ssim
from vidtwin.video.read.reader import iter_frames, probe, read_video
from vidtwin.video.write.encoding import Encoding


def length_of(path) -> tuple[int, Fraction, float]:
    """Decoded frames, average rate, duration in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        return frames, stream.average_rate, float(stream.duration * stream.time_base)


def stream_of(model, path, **options):
    engine = Engine(model)
    return encode_stream(engine, path, plan_header(engine, probe(path), Identity.of(model), **options))


def latents_of(stream):
    return [window.latents for window in stream.windows]


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001)])
@pytest.mark.parametrize("frames", [1, 2, 15, 16, 17, 33, 100])
def test_frames_in_are_frames_out_at_the_same_times(model, write, tmp_path, frames, fps):
    source = write(frames, fps)
    report = reconstruct(model, source, tmp_path / "out.mp4", panels=frames == 17, overlap=frames % 9)
    assert report.frames == frames
    assert length_of(tmp_path / "out.mp4") == length_of(source)
    assert length_of(source)[0] == frames
    assert length_of(source)[1] == fps
    assert [f.time for f in iter_frames(tmp_path / "out.mp4")] == [f.time for f in iter_frames(source)]


def test_the_report_measures_what_was_decoded(model, write, tmp_path):
    source = write(20, cuts=(12,))
    report = reconstruct(model, source, tmp_path / "out.mp4", policy="pad")
    assert report.output_size == (20, 32)
    assert read_video(source).frames.shape[1:3] == report.source_size
    assert 0 < report.psnr < 30
    assert report.cuts == 1
    assert report.latent_values == 2 * SMALL.latent_values
    assert "pad: 80x48 resized to 32x20" in report.table()
    assert "1 shot cut" in report.table()


def test_tiles_are_measured_on_whole_pictures(model, write, tmp_path):
    source = write(20)
    report = reconstruct(model, source, tmp_path / "out.mkv", policy="tile", output=Output(Encoding(lossless=True)))
    assert report.source_size == report.output_size == (48, 80)
    a, b = (read_video(path).frames.astype(float) / 255 for path in (source, tmp_path / "out.mkv"))
    expected = -10 * np.log10(((a - b) ** 2).mean(axis=(1, 2, 3)) + 1e-8)
    assert report.psnr == pytest.approx(expected.mean(), abs=1e-3)
    assert report.latent_values == 2 * 6 * SMALL.latent_values
    assert report.rate == pytest.approx(2 * 6 * SMALL.latent_values / (3 * 20 * 48 * 80))  # of tiles that overlap
    written = (tmp_path / "out.mkv").stat().st_size
    assert f"bytes         {source.stat().st_size:,} in, {written:,} out" in report.table()
    assert f"{12 * SMALL.latent_values:,} values, {report.rate:.2%} of the pixel values out" in report.table()


def test_pictures_below_the_window_of_ssim_say_so(model, write, tmp_path):
    report = reconstruct(model, write(3, height=4, width=80), tmp_path / "out.mp4", policy="pad")
    assert report.ssim is None
    assert "not measured" in report.table()


def test_without_scores_nothing_is_computed_for_them(model, write, tmp_path, monkeypatch):
    source, with_pixels = write(20, cuts=(12,)), []

    def stream(*arguments):
        with_pixels.append(arguments[-1])
        return encode_stream(*arguments)

    monkeypatch.setattr("vidtwin.inference.reconstruct.encode_stream", stream)
    whole = reconstruct(model, source, tmp_path / "scored.mp4")
    monkeypatch.setattr("vidtwin.inference.report._scores", None)
    report = reconstruct(model, source, tmp_path / "out.mp4", score=False)
    assert (report.psnr, report.ssim, report.ssim_every) == (None, None, None)
    assert report.table().count("not measured, as asked") == 2
    assert (report.frames, report.cuts) == (whole.frames, whole.cuts) == (20, 1)
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "scored.mp4").read_bytes()
    reconstruct(model, source, tmp_path / "panels.mp4", score=False, panels=True)
    assert with_pixels == [True, False, True]


@pytest.mark.parametrize("policy", ["crop", "tile"])
def test_ssim_of_every_third_frame(model, write, tmp_path, policy, monkeypatch):
    source = write(40)
    every = reconstruct(model, source, tmp_path / "out.mp4", policy=policy, overlap=2)
    assert every.ssim_every == 1
    assert every.table().count(f"{'SSIM':14}{every.ssim:.4f}\n") == 1

    taken = []
    monkeypatch.setattr("vidtwin.inference.report.frame_ssim", lambda x, y: taken.append(frame_ssim(x, y)) or taken[-1])
    monkeypatch.setattr("vidtwin.inference.report.cores", lambda: 1)  # in their order
    reconstruct(model, source, tmp_path / "out.mp4", policy=policy, overlap=2)
    all_of_them = taken.copy()
    taken.clear()
    third = reconstruct(model, source, tmp_path / "out.mp4", policy=policy, overlap=2, ssim_every=3)
    assert taken == all_of_them[::3]
    assert len(taken) == 14
    assert third.psnr == every.psnr
    assert third.ssim == pytest.approx(sum(map(float, taken)) / 14)
    assert f"SSIM          {third.ssim:.4f} (every 3rd frame)" in third.table()


@pytest.mark.parametrize(
    ("given", "size", "expected"), [(None, (499, 1000), 1), (None, (500, 1000), 4), (2, (1080, 1920), 2), (7, (32, 32), 7)]
)
def test_ssim_is_of_every_frame_unless_pictures_are_large(given, size, expected):
    assert plan_ssim(True, given, size) == expected
    assert plan_ssim(False, None, size) is None


def test_frames_of_ssim_that_cannot_be(model, write, tmp_path):
    source = write(3)
    with pytest.raises(ValueError, match="ssim_every 0: give at least 1"):
        reconstruct(model, source, tmp_path / "out.mp4", ssim_every=0)
    with pytest.raises(ValueError, match="ssim_every 2: no scores are taken"):
        reconstruct(model, source, tmp_path / "out.mp4", ssim_every=2, score=False)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_ordinals():
    assert [ordinal(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 102, 113)] == (
        ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "113th"]
    )


def test_a_range_of_frames(model, write, tmp_path):
    source = write(40)
    report = reconstruct(model, source, tmp_path / "out.mp4", start=4, stop=9)
    assert report.frames == 5
    assert next(iter_frames(tmp_path / "out.mp4")).time == 0
    assert report.latent_values == SMALL.latent_values


@pytest.mark.parametrize("policy", ["crop", "tile"])
def test_panels(model, write, tmp_path, policy):
    source = write(17)
    reconstruct(model, source, tmp_path / "out.mp4", panels=True, policy=policy)
    height, width = (48, 80) if policy == "tile" else (32, 32)
    assert read_video(tmp_path / "out.mp4").frames.shape == (17, height + 20, 4 * width, 3)


def test_pixel_aspect_and_orientation_are_kept_by_tiles(model, assets, tmp_path):
    for name in ("sar_2x1.mp4", "rot90.mp4"):
        reconstruct(model, assets / name, tmp_path / name, policy="tile", stop=3)
        before, after = probe(assets / name), probe(tmp_path / name)
        assert (after.width, after.height) == (before.width, before.height)
        assert (after.pixel_aspect, after.orientation) == (before.pixel_aspect, before.orientation)
        assert after.stored_size == before.stored_size


def test_sound_and_start_times_are_kept(model, assets, tmp_path):
    source = assets / "start_offset.ts"
    reconstruct(model, source, tmp_path / "out.mp4", output=Output(source=source))
    info = probe(source)
    origin = max(0, info.start_time)
    assert [f.time for f in iter_frames(tmp_path / "out.mp4")] == [f.time - origin for f in iter_frames(source)]
    assert probe(tmp_path / "out.mp4").has_audio == info.has_audio


@pytest.mark.parametrize("sound", [False, True])
def test_a_source_that_is_probed_is_not_probed_again(model, assets, tmp_path, monkeypatch, sound):
    info = probe(assets / "start_offset.ts")
    reconstruct(model, info.path, tmp_path / "path.mp4", output=Output(source=info.path if sound else None), stop=5)
    probed = []
    monkeypatch.setattr("vidtwin.video.read.in_order.probe", lambda path: probed.append(path) or info)
    reconstruct(model, info, tmp_path / "info.mp4", output=Output(source=info if sound else None), stop=5)
    encode_video(model, info, tmp_path / "info.vidtwin", stop=5)
    assert probed == []
    assert (tmp_path / "info.mp4").read_bytes() == (tmp_path / "path.mp4").read_bytes()
    reconstruct(model, info.path, tmp_path / "path.mp4", output=Output(source=info.path if sound else None), stop=5)
    assert probed == [info.path]


def test_without_sound_the_first_frame_is_at_the_start(model, assets, tmp_path):
    source = assets / "starts_mid_gop.ts"  # its first packets cannot be decoded
    reconstruct(model, source, tmp_path / "out.mp4", output=Output(source=source))
    assert next(iter_frames(tmp_path / "out.mp4")).time == 0


@pytest.mark.parametrize(
    ("options", "batch"),
    [
        ({}, 1),
        ({"policy": "tile", "overlap": 4}, 1),
        ({"policy": "tile", "overlap": 4, "ssim_every": 3}, 1),
        ({"panels": True, "overlap": 2}, 1),
        ({"panels": True, "overlap": 2}, 3),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bytes(model, write, tmp_path, options, batch):
    source, out = write(230, cuts=(100,)), tmp_path / "out.mp4"
    model = Engine(model, batch=batch)
    whole = reconstruct(model, source, tmp_path / "whole.mp4", **options)
    for stop_at in (70, 150, 229):
        done = []

        def interrupt(count, done=done, stop_at=stop_at):
            done.append(count)
            if sum(done) >= stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            reconstruct(model, source, out, progress=interrupt, **options)
        assert not out.exists()
        done = []
        report = reconstruct(model, source, out, resume=True, progress=done.append, **options)
        assert sum(done) == report.frames == 230
        assert done[0] >= 64  # it went on, and did not begin anew
        assert out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
        assert (report.psnr, report.ssim, report.cuts) == (whole.psnr, whole.ssim, whole.cuts)
        assert report.frames_done < 230
        out.unlink()
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "whole.mp4"}


def test_going_on_with_other_options_is_refused(model, write, tmp_path):
    source, out = write(100), tmp_path / "out.mp4"

    def interrupt(count, done=[]):  # noqa: B006 (counts)
        done.append(count)
        if sum(done) > 90:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstruct(model, source, out, progress=interrupt)
    with pytest.raises(ValueError, match="run without resume=True"):
        reconstruct(model, source, out, resume=True, policy="pad")
    with pytest.raises(ValueError, match="run without resume=True"):
        reconstruct(model, source, out, resume=True, ssim_every=2)
    reconstruct(model, source, out, policy="pad")  # anew
    assert length_of(out)[0] == 100


KILLED = """
import sys, time
from vidtwin import VidTwin
from vidtwin.inference.encode import encode_video
from vidtwin.inference.reconstruct import reconstruct
import torch
torch.set_num_threads(1)
work, weights, source, out, pace = sys.argv[1:]
model = VidTwin.from_pretrained(weights)
print("ready", flush=True)
job = {"encode": encode_video, "reconstruct": reconstruct}[work]
job(model, source, out, overlap=4, resume=True, progress=lambda frames: time.sleep(float(pace)))
"""


@pytest.fixture
def one_thread():
    """As in the processes that are killed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize(("work", "suffix"), [("encode", ".vidtwin"), ("reconstruct", ".mp4")])
def test_killed_at_random_times_it_ends_with_the_same_bytes(one_thread, weights, write, tmp_path, work, suffix):
    source, out, whole = write(400, cuts=(150, 333)), tmp_path / f"out{suffix}", tmp_path / f"whole{suffix}"
    command = [sys.executable, "-c", KILLED, work, str(weights), str(source)]
    model, job = VidTwin.from_pretrained(weights), {"encode": encode_video, "reconstruct": reconstruct}[work]
    job(model, source, whole, overlap=4)
    rng = random.Random(0)
    for _ in range(2):  # at this pace 34 windows take longer than any of them lives
        process = subprocess.Popen([*command, str(out), "0.15"], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.1, 1.2))
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not out.exists()
    job(model, source, out, overlap=4, resume=True)
    assert out.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", out.name, whole.name}


def test_swap_takes_structure_from_one_and_dynamics_from_the_other(model, write, tmp_path):
    a, b = write(20), write(40, name="b.mp4", height=80, width=48)
    mixed = swap(stream_of(model, a), stream_of(model, b))
    windows = list(mixed.windows)
    assert [len(window.ticks) for window in windows] == [16, 4]
    first, second = latents_of(stream_of(model, a)), latents_of(stream_of(model, b))
    for index, window in enumerate(windows):
        assert torch.equal(window.latents.structure, first[index].structure)
        assert torch.equal(window.latents.dynamics_x, second[index].dynamics_x)
    notes = decode_video(model, swap(stream_of(model, b), stream_of(model, a)), tmp_path / "out.mp4")
    assert length_of(tmp_path / "out.mp4")[0] == 20
    assert notes == ["the first video is longer than the other, and was cut to its 20 frames"]
    assert decode_video(model, swap(stream_of(model, a), stream_of(model, a)), tmp_path / "out.mp4") == []


def test_swap_of_files_is_swap_of_videos(model, write, tmp_path):
    a, b = write(32), write(40, name="b.mp4", height=80, width=48)
    files = [encode_video(model, path, tmp_path / f"{path.stem}.vidtwin") for path in (a, b)]
    decode_video(model, swap(*(file.stream() for file in files)), tmp_path / "files.mp4")
    decode_video(model, swap(*(stream_of(model, path) for path in (a, b))), tmp_path / "videos.mp4")
    assert (tmp_path / "files.mp4").read_bytes() == (tmp_path / "videos.mp4").read_bytes()
    with pytest.raises(ValueError, match="has overlap 0, b.mp4 4; encode both alike"):
        swap(LatentVideo.load(tmp_path / "in.vidtwin").stream(), stream_of(model, b, overlap=4))
    with pytest.raises(ValueError, match="has tiles 1, b.mp4 6; encode both alike"):
        swap(stream_of(model, a), stream_of(model, b, policy="tile"))


def test_interpolation_begins_at_a_and_ends_at_b(model, write, tmp_path):
    a, b = write(5), write(20, name="b.mp4", height=80, width=48)

    def streams():
        return stream_of(model, a), stream_of(model, b)

    (first,), (second, _) = (latents_of(stream) for stream in streams())
    row = [latents_of(stream)[0] for stream in interpolate(*streams(), 3)]
    assert torch.equal(row[0].structure, first.structure)
    assert torch.equal(row[2].dynamics_y, second.dynamics_y)
    torch.testing.assert_close(row[1].structure, (first.structure + second.structure) / 2)
    (alone,) = latents_of(interpolate(*streams(), 2, "structure")[1])
    assert torch.equal(alone.structure, second.structure)
    assert torch.equal(alone.dynamics_x, first.dynamics_x)
    decode_row(model, interpolate(*streams(), 3), tmp_path / "row.mp4")
    assert read_video(tmp_path / "row.mp4").frames.shape == (5, 32 + 20, 3 * 32, 3)
    with pytest.raises(ValueError, match="steps=1"):
        interpolate(*streams(), 1)
    with pytest.raises(ValueError, match="part='colour'"):
        interpolate(*streams(), 2, "colour")
