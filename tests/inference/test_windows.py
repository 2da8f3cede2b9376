from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from tests.conftest import SMALL, seeded_model
from vidtwin import VidTwin
from vidtwin.inference.latent_video import Identity, LatentVideo
from vidtwin.inference.reconstruct import decode_row, interpolate, reconstruct, swap
from vidtwin.inference.windows import decode_video, decode_windows, encode_video, is_constant_rate
from vidtwin.video.read import read_video
from vidtwin.video.write import VideoWriter


def moving(frames: int, height: int = 48, width: int = 80) -> np.ndarray:
    """A gradient with a bright square that moves: uint8 (F, H, W, 3)."""
    video = np.zeros((frames, height, width, 3), np.uint8)
    video[..., 0] = np.linspace(40, 200, width, dtype=np.uint8)
    for index in range(frames):
        left = 3 * index % (width - 12)
        video[index, 10:22, left : left + 12] = (250, 240, 30)
    return video


@pytest.fixture
def write(tmp_path):
    def write(frames: int, fps: Fraction = Fraction(25), name: str = "in.mp4", **size: int):
        pictures = moving(frames, **size)
        with VideoWriter(tmp_path / name, fps, pictures.shape[1:3]) as writer:
            writer.write(pictures)
        return tmp_path / name

    return write


def length_of(path) -> tuple[int, Fraction, float]:
    """Decoded frames, average rate, duration in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        return frames, stream.average_rate, float(stream.duration * stream.time_base)


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001)])
@pytest.mark.parametrize("frames", [1, 2, 15, 16, 17, 33, 100])
def test_frames_in_are_frames_out_at_the_same_rate(model, write, tmp_path, frames, fps):
    source = write(frames, fps)
    report = reconstruct(model, source, tmp_path / "out.mp4", panels=frames == 17)
    assert report.frames == frames
    assert length_of(tmp_path / "out.mp4") == length_of(source)
    assert length_of(source)[0] == frames
    assert length_of(source)[1] == fps


@pytest.mark.parametrize("policy", ["crop", "squash", "pad"])
def test_encode_then_decode_is_reconstruct(model, write, tmp_path, policy):
    source = write(21)
    reconstruct(model, source, tmp_path / "at_once.mp4", policy=policy)
    encode_video(model, source, policy=policy, weights=Identity.of(model, "small")).save(tmp_path / "x.vidtwin")
    source.unlink()
    decode_video(model, LatentVideo.load(tmp_path / "x.vidtwin"), tmp_path / "later.mp4")
    assert (tmp_path / "later.mp4").read_bytes() == (tmp_path / "at_once.mp4").read_bytes()


def test_variable_frame_rates_are_kept(model, assets, tmp_path):
    source = assets / "vfr_jitter.mp4"
    video = encode_video(model, source)
    assert video.times is not None
    video.save(tmp_path / "x.vidtwin")
    assert LatentVideo.load(tmp_path / "x.vidtwin").times == video.times
    decode_video(model, video, tmp_path / "out.mp4")
    before, after = read_video(source).times, read_video(tmp_path / "out.mp4").times
    assert len(before) == len(after)
    assert max(abs((a - after[0]) - (b - before[0])) for a, b in zip(after, before, strict=True)) <= Fraction(1, 90_000)


def test_a_rate_is_constant_to_one_tick_of_the_clock():
    milliseconds = [Fraction(t, 1000) for t in (5, 38, 72, 105)]
    assert is_constant_rate(milliseconds, Fraction(30), Fraction(1, 1000))
    assert not is_constant_rate([*milliseconds, Fraction(160, 1000)], Fraction(30), Fraction(1, 1000))


def test_a_dropped_frame_is_not_hidden_by_a_coarse_clock():
    frames = [Fraction(t, 25) for t in (0, 1, 3, 4)]
    assert not is_constant_rate(frames, Fraction(25), Fraction(1, 25))


def test_latents_that_are_not_finite_are_not_saved(write):
    broken = seeded_model()
    with torch.no_grad():
        broken.structure_encoder.moments.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite values; use --dtype float32"):
        encode_video(broken, write(3))


def test_encoding_in_low_precision_belongs_to_the_same_weights(model, write, tmp_path):
    identity = Identity.of(model)
    low = seeded_model().to(torch.bfloat16)
    video = encode_video(low, write(3), weights=identity)
    decode_video(model, video, tmp_path / "out.mp4")
    other = VidTwin(replace(SMALL, temporal_attention="full"))
    other.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match="were encoded with weights"):
        decode_video(other, video, tmp_path / "out.mp4")


def test_the_padding_is_the_last_frame_and_is_cut(model, write):
    source = write(17)
    video = encode_video(model, source)
    assert video.clip_frames == [16, 1]
    last = encode_video(model, source, start=16)
    assert torch.equal(video.latents[1:].structure, last.latents.structure)
    assert [clip.shape[2] for clip in decode_windows(model, video)] == [16, 1]


def test_a_range_of_frames(model, write, tmp_path):
    source = write(40)
    report = reconstruct(model, source, tmp_path / "out.mp4", start=4, stop=9)
    assert report.frames == 5
    assert report.latent_values == SMALL.latent_values
    with pytest.raises(ValueError, match="40 frames"):
        encode_video(model, source, start=40)


def test_the_report_measures_what_was_decoded(model, write, tmp_path):
    source = write(20)
    report = reconstruct(model, source, tmp_path / "out.mp4", policy="pad")
    assert report.output_size == (20, 32)
    x = read_video(source).frames
    assert x.shape[1:3] == report.source_size
    assert 0 < report.psnr < 30
    assert report.latent_values == 2 * SMALL.latent_values
    assert "pad: 80x48 resized to 32x20" in report.table()


def test_pictures_below_the_window_of_ssim_say_so(model, write, tmp_path):
    report = reconstruct(model, write(3, height=4, width=80), tmp_path / "out.mp4", policy="pad")
    assert report.ssim is None
    assert "not measured" in report.table()


def test_log_variances_travel_if_asked_for(model, write, tmp_path):
    encode_video(model, write(17), logvar=True).save(tmp_path / "x.vidtwin")
    video = LatentVideo.load(tmp_path / "x.vidtwin")
    assert video.logvar is not None
    assert video.logvar.shapes == video.latents.shapes


def test_other_weights_are_refused(model, write, tmp_path):
    video = encode_video(model, write(3), weights=Identity.of(model, "small"))
    with pytest.raises(ValueError, match="encoded with weights 'small'.*give the former with --weights"):
        decode_video(seeded_model(seed=5), video, tmp_path / "out.mp4", weights=Identity("other", "0" * 64))
    assert not (tmp_path / "out.mp4").exists()


def test_swap_takes_structure_from_one_and_dynamics_from_the_other(model, write):
    a, b = encode_video(model, write(20)), encode_video(model, write(40, name="b.mp4", height=80, width=48))
    mixed = swap(a, b)
    assert mixed.frames == 20
    assert torch.equal(mixed.latents.structure, a.latents.structure)
    assert torch.equal(mixed.latents.dynamics_x, b.latents.dynamics_x[:2])
    assert swap(b, a).frames == 20


def test_interpolation_begins_at_a_and_ends_at_b(model, write, tmp_path):
    a, b = encode_video(model, write(5)), encode_video(model, write(5, name="b.mp4", height=80, width=48))
    first, middle, last = interpolate(a, b, 3)
    assert torch.equal(first.latents.structure, a.latents.structure)
    assert torch.equal(last.latents.dynamics_y, b.latents.dynamics_y)
    torch.testing.assert_close(middle.latents.structure, (a.latents.structure + b.latents.structure) / 2)
    alone = interpolate(a, b, 2, "structure")[1]
    assert torch.equal(alone.latents.structure, b.latents.structure)
    assert torch.equal(alone.latents.dynamics_x, a.latents.dynamics_x)
    decode_row(model, [first, middle, last], tmp_path / "row.mp4")
    assert read_video(tmp_path / "row.mp4").frames.shape == (5, 32 + 20, 3 * 32, 3)
    with pytest.raises(ValueError, match="--steps 1"):
        interpolate(a, b, 1)


def test_damaged_latent_files_are_refused(model, write, tmp_path):
    path = tmp_path / "x.vidtwin"
    encode_video(model, write(17)).save(path)
    data = path.read_bytes()
    for damaged in (b"", b"text", data[: len(data) // 2], data.replace(b'"crop', b'"carp'), data.replace(b"17", b"99", 1)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="x.vidtwin"):
            LatentVideo.load(path)
    with pytest.raises(FileNotFoundError, match="vidtwin encode"):
        LatentVideo.load(tmp_path / "none.vidtwin")
