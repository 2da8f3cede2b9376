from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.conftest import SMALL, seeded_model
from tests.inference.conftest import moving
from vidtwin.frames.clips import Geometry, pad_tail, to_clip
from vidtwin.inference.encode import encode_stream, encode_video, padded, plan_header, source_windows
from vidtwin.inference.engine import Engine
from vidtwin.latents.file import LatentVideo, partial_path
from vidtwin.latents.stream import Identity
from vidtwin.video.read.reader import iter_frames, probe, read_video


def header_of(path, **options):
    return plan_header(Engine(seeded_model()), probe(path), Identity("small", "0" * 64), **options)


def test_windows_are_the_frames_in_order_and_the_last_is_padded_by_its_last_frame(model, write):
    source = write(33)
    video = encode_video(model, source, source.with_name("x.vidtwin"), stored="float32")
    assert (video.frames, video.window_count, video.cuts) == (33, 3, [])
    frames = read_video(source).frames
    geometry = Geometry.plan("crop", (48, 80), (32, 32))
    for index in range(3):
        clip = to_clip(pad_tail(frames[16 * index : 16 * index + 16], 16), geometry)
        with torch.inference_mode():
            expected = model.encode(clip[None])
        assert torch.equal(video.window(index).latents.structure, expected.structure)


def test_timestamps_are_those_of_the_source(model, assets):
    source = assets / "vfr_jitter.mp4"
    stream = encode_stream(model, source, header_of(source))
    ticks = [tick for window in stream.windows for tick in window.ticks]
    assert ticks == [frame.pts for frame in iter_frames(source)]
    assert stream.header.clock == next(iter_frames(source)).time_base


@pytest.mark.parametrize("policy", ["crop", "tile"])
@pytest.mark.parametrize("overlap", [0, 3, 8])
def test_beginning_at_any_window_gives_the_same_windows(write, policy, overlap):
    source = write(70, cuts=(20, 44, 45))
    header = header_of(source, policy=policy, overlap=overlap)
    whole = list(source_windows(source, header))
    assert [window.last for window in whole] == [False] * (len(whole) - 1) + [True]
    assert len(whole) == header.windows(70)
    ticks = np.array([frame.pts for frame in iter_frames(source)])
    for first in range(len(whole)):
        for known in (None, ticks[: first * header.stride]):
            again = list(source_windows(source, header, first=first, ticks=known))
            assert [window.index for window in again] == [window.index for window in whole[first:]]
            for a, b in zip(again, whole[first:], strict=True):
                assert (a.ticks, a.cuts, a.last) == (b.ticks, b.cuts, b.last)
                assert np.array_equal(np.asarray(a.pixels), np.asarray(b.pixels))


@pytest.mark.parametrize("policy", ["crop", "pad", "tile"])
def test_any_number_of_threads_makes_the_same_windows(monkeypatch, write, policy):
    monkeypatch.setattr("vidtwin.frames.clips.LARGE", 0)
    source = write(40, cuts=(21,))
    header, found = header_of(source, policy=policy), []
    for cores in (1, 2, 5):
        monkeypatch.setattr("vidtwin.inference.encode.cores", lambda cores=cores: cores)
        found.append([(w.ticks, w.cuts, w.last, np.asarray(w.pixels).tolist()) for w in source_windows(source, header)])
    assert found[0] == found[1] == found[2] and sum(map(sum, (cuts for _, cuts, *_ in found[0]))) == 1


@pytest.mark.parametrize("overlap", [0, 5])
def test_shot_cuts_are_found_once(model, write, overlap):
    source = write(60, cuts=(20, 44))
    assert encode_video(model, source, source.with_name("x.vidtwin"), overlap=overlap).cuts == [20, 44]


def test_a_range_of_frames(model, write, tmp_path):
    source = write(40)
    video = encode_video(model, source, tmp_path / "x.vidtwin", start=4, stop=9)
    assert video.frames == 5
    assert video.header.first_frame == 4
    assert video.ticks.tolist() == [frame.pts for frame in iter_frames(source, 4, 9)]
    with pytest.raises(ValueError, match="40 frames"):
        encode_video(model, source, tmp_path / "x.vidtwin", start=40)


def test_tiles_are_encoded_one_by_one(model, write, tmp_path):
    source = write(5)
    video = encode_video(model, source, tmp_path / "x.vidtwin", policy="tile", tile_overlap=8, stored="float32")
    tiling = video.header.geometry
    assert (tiling.count, video.header.tiles, len(video.latents)) == (6, 6, 6)
    clip = padded(tiling.cut(read_video(source).frames, 4), 16)
    with torch.inference_mode():
        expected = model.encode(clip[None])
    torch.testing.assert_close(video.latents[4:5].structure, expected.structure, atol=1e-6, rtol=0)


def test_tiles_keep_stored_pixels_and_their_aspect(assets):
    header = header_of(assets / "sar_2x1.mp4", policy="tile")
    plain = header_of(assets / "sar_2x1.mp4")
    assert header.pixel_aspect == 2
    assert plain.pixel_aspect == 1
    assert plain.geometry.source == (header.geometry.source[0], 2 * header.geometry.source[1])
    turned = header_of(assets / "rot90.mp4", policy="tile")
    assert turned.orientation.transposed
    assert not header_of(assets / "rot90.mp4").orientation.transposed


def test_overlaps_that_cannot_be(write):
    source = write(3)
    with pytest.raises(ValueError, match="overlap=9: give 0 to 8, half of a window"):
        header_of(source, overlap=9)
    with pytest.raises(ValueError, match="tile_overlap=4: is for policy='tile'"):
        header_of(source, tile_overlap=4)


def test_log_variances_travel_if_asked_for(model, write, tmp_path):
    video = encode_video(model, write(17), tmp_path / "x.vidtwin", logvar=True)
    assert video.logvar is not None
    assert video.logvar.shapes == video.latents.shapes
    assert encode_video(model, write(17), tmp_path / "y.vidtwin").logvar is None


def test_latents_that_are_not_finite_are_not_saved(write, tmp_path):
    broken = seeded_model()
    with torch.no_grad():
        broken.structure_encoder.moments.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite values; use dtype=torch.float32"):
        encode_video(broken, write(3), tmp_path / "x.vidtwin")
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4"}


@pytest.mark.parametrize(("overlap", "batch"), [(0, 1), (4, 1), (0, 3)])
def test_an_interrupted_run_goes_on_to_the_same_bytes(model, write, tmp_path, overlap, batch):
    source, out = write(70, cuts=(30,)), tmp_path / "x.vidtwin"
    identity = Identity.of(model, "small")
    model = Engine(model, batch=batch)
    encode_video(model, source, tmp_path / "whole.vidtwin", overlap=overlap, weights=identity)
    for stop_at in (1, 2, 4):
        calls = []

        def interrupt(count, calls=calls, stop_at=stop_at):
            calls.append(count)
            if len(calls) == stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            encode_video(model, source, out, overlap=overlap, weights=identity, progress=interrupt)
        assert not out.exists()
        assert LatentVideo.load(partial_path(out)).window_count == stop_at
        done = []
        encode_video(model, source, out, overlap=overlap, weights=identity, resume=True, progress=done.append)
        assert sum(done) == 70
        assert out.read_bytes() == (tmp_path / "whole.vidtwin").read_bytes()
        out.unlink()


def test_windows_go_through_the_model_with_the_same_ones_wherever_encoding_begins(model, write):
    source = write(16 * 7 - 5)
    batches = []

    class Watched(Engine):
        def encode(self, count, clip):
            batches.append(count)
            return super().encode(count, clip)

    engine = Watched(model, batch=3)
    whole = list(encode_stream(engine, source, header_of(source)).windows)
    assert batches == [3, 3, 1]
    rest = list(encode_stream(engine, source, header_of(source), first=4).windows)
    assert batches[3:] == [3, 1] and [window.index for window in rest] == [4, 5, 6]
    for a, b in zip(rest, whole[4:], strict=True):
        assert (a.ticks, a.cuts, a.last) == (b.ticks, b.cuts, b.last)
        assert all(torch.equal(x, y) for x, y in zip(a.latents.tensors, b.latents.tensors, strict=True))
    alone = list(encode_stream(Engine(model, batch=1), source, header_of(source)).windows)
    for a, b in zip(whole, alone, strict=True):
        torch.testing.assert_close(a.latents.structure, b.latents.structure, atol=1e-6, rtol=0)


def test_going_on_with_another_video_is_refused(model, write, tmp_path):
    source = write(40)

    def interrupt(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_video(model, source, tmp_path / "x.vidtwin", progress=interrupt)
    other = write(50, name="other.mp4")
    with pytest.raises(ValueError, match="started with another source, source_bytes"):
        encode_video(model, other, tmp_path / "x.vidtwin", resume=True)


def test_variable_rates(model, write, tmp_path):
    ticks = [0, 40, 55, 200, 201, 999]
    source = write(6, ticks=ticks, clock=Fraction(1, 1000))
    video = encode_video(model, source, tmp_path / "x.vidtwin")
    assert [tick * video.header.clock for tick in video.ticks.tolist()] == [Fraction(tick, 1000) for tick in ticks]


def test_moving_pictures_have_the_shot_cuts_that_they_are_made_with():
    assert moving(3).shape == (3, 48, 80, 3)
    assert SMALL.frames == 16
