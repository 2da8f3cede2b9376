import dataclasses
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.conftest import SMALL, seeded_model
from vidtwin import VidTwin
from vidtwin.frames.clips import from_clip
from vidtwin.frames.tiles import Tiling
from vidtwin.inference import decode
from vidtwin.inference.decode import Decoder, Output, decode_video, decode_windows, fade, write_decoded
from vidtwin.inference.encode import encode_stream, encode_video, plan_header
from vidtwin.inference.engine import Engine
from vidtwin.inference.reconstruct import reconstruct
from vidtwin.latents.file import LatentVideo, partial_path
from vidtwin.latents.stream import Identity, LatentStream
from vidtwin.video.read.reader import iter_frames, probe, read_video
from vidtwin.video.write.encoding import Encoding
from vidtwin.video.write.writer import VideoWriter

EXACT = Output(Encoding(lossless=True))


def frames_of(model, path, **options):
    """All decoded frames of a video, uint8 (F, H, W, 3)."""
    engine = Engine(model)
    header = plan_header(engine, probe(path), Identity.of(model), **options)
    decoded = list(decode_windows(engine, encode_stream(engine, path, header)))
    assert [d.first for d in decoded] == [k * header.stride for k in range(len(decoded))]
    return np.concatenate([d.frames for d in decoded])


@pytest.mark.parametrize("policy", ["crop", "squash", "pad", "tile"])
def test_encode_then_decode_is_reconstruct(model, write, tmp_path, policy):
    source = write(21)
    reconstruct(model, source, tmp_path / "at_once.mp4", policy=policy, overlap=4)
    identity = Identity.of(model, "small")
    encode_video(model, source, tmp_path / "x.vidtwin", policy=policy, overlap=4, weights=identity, stored="float32")
    source.unlink()
    decode_video(model, LatentVideo.load(tmp_path / "x.vidtwin"), tmp_path / "later.mp4")
    assert (tmp_path / "later.mp4").read_bytes() == (tmp_path / "at_once.mp4").read_bytes()


@pytest.mark.parametrize("policy", ["crop", "tile"])
def test_windows_decoded_together_are_those_decoded_alone(model, write, policy):
    source = write(16 * 4 - 3, cuts=(20,))
    header = plan_header(Engine(model), probe(source), Identity.of(model), policy=policy, overlap=2)
    tiles = header.tiles
    windows = list(encode_stream(model, source, header).windows)

    def decoded(batch, start=0):
        stream = LatentStream(header, iter(windows))
        return np.concatenate([d.frames for d in decode_windows(Engine(model, batch=batch * tiles), stream, start=start)])

    alone = decoded(1)
    assert len(alone) == 61
    for start in (0, 30):
        assert np.abs(decoded(3, start).astype(int) - alone[start:]).max() <= 1  # rounding, before that to 8 bits


def test_fades():
    assert fade((False,) * 3, 3).tolist() == [0.25, 0.5, 0.75]
    assert fade((True, False, False), 3).tolist() == [0.25, 0.5, 0.75]  # both windows hold the new shot only
    assert fade((False, False, True), 3).tolist() == [0, 0, 1]
    assert fade((False, True, True), 3).tolist() == [0, 1, 1]


@pytest.mark.parametrize("policy", ["crop", "tile"])
def test_shared_frames_fade_from_one_window_into_the_next(model, write, policy):
    source, shared = write(28), 4
    engine = Engine(model)
    header = plan_header(engine, probe(source), Identity.of(model), policy=policy, overlap=shared)
    first, second = encode_stream(engine, source, header).windows
    both = Decoder(engine, header)
    a, b = (decoded.frames for decoded in both([first, second]))
    (alone_a,) = (decoded.frames for decoded in Decoder(engine, header)([first.shortened(16)]))
    (alone_b,) = (decoded.frames for decoded in Decoder(engine, header)([second]))
    assert (len(a), len(b)) == (12, 16)
    assert np.array_equal(a, alone_a[:12])
    assert np.array_equal(b[4:], alone_b[4:])
    for index in range(shared):
        weight = (index + 1) / (shared + 1)
        expected = (1 - weight) * alone_a[12 + index].astype(float) + weight * alone_b[index]
        assert np.abs(b[index] - expected).max() <= 1  # both were rounded to 8 bits


def test_a_fade_never_crosses_a_shot_cut(model, write):
    source, cut = write(28, cuts=(14,)), 14
    engine = Engine(model)
    header = plan_header(engine, probe(source), Identity.of(model), overlap=4)
    first, second = encode_stream(engine, source, header).windows
    assert second.cuts[:4] == (False, False, True, False)
    decoder = Decoder(engine, header)
    _, b = (decoded.frames for window in (first, second) for decoded in decoder([window]))
    (alone_a,) = (decoded.frames for decoded in Decoder(engine, header)([first.shortened(16)]))
    (alone_b,) = (decoded.frames for decoded in Decoder(engine, header)([second]))
    assert np.array_equal(b[:2], alone_a[12:cut])
    assert np.array_equal(b[2:], alone_b[2:])


@pytest.mark.parametrize("options", [{"overlap": 6}, {"policy": "tile"}, {"policy": "tile", "overlap": 6}])
def test_a_clip_of_one_window_and_tile_is_exactly_the_plain_one(model, write, options):
    source = write(16, height=32, width=32, cuts=(9,))
    plain = frames_of(model, source)
    assert plain.shape == (16, 32, 32, 3)
    assert np.array_equal(frames_of(model, source, **options), plain)
    with torch.inference_mode():
        x = torch.from_numpy(read_video(source).frames).permute(3, 0, 1, 2)[None].float() / 255
        x_hat = model.decode(model.encode((x - 0.5) / 0.5))
    header = plan_header(Engine(model), probe(source), Identity.of(model))
    assert np.array_equal(from_clip(x_hat[0], header.geometry), plain)


@pytest.mark.parametrize("size", [(48, 80), (33, 47), (20, 90), (100, 31)])
def test_tiles_keep_the_size_of_the_source(model, write, tmp_path, size):
    height, width = size
    source = write(3, name="in.mkv", height=height - height % 2, width=width - width % 2)
    assert frames_of(model, source, policy="tile").shape[1:3] == probe(source).stored_size


@pytest.mark.parametrize("overlap", [0, 6])
def test_frames_that_wait_in_a_file_are_the_same(model, write, tmp_path, monkeypatch, overlap):
    source = write(28, cuts=(20,))
    in_memory = frames_of(model, source, policy="tile", overlap=overlap)
    reconstruct(model, source, tmp_path / "a.mkv", policy="tile", overlap=overlap, output=EXACT)
    monkeypatch.setattr(decode, "IN_MEMORY", 0)
    assert np.array_equal(frames_of(model, source, policy="tile", overlap=overlap), in_memory)
    reconstruct(model, source, tmp_path / "b.mkv", policy="tile", overlap=overlap, output=EXACT)
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()


def test_a_large_size_in_a_header_takes_no_memory_for_it(model, write, monkeypatch):
    """A window's frames are 31 MB here, and what its neighbour fades from 46 MB."""
    source = write(16)
    engine = Engine(model)
    header = plan_header(engine, probe(source), Identity.of(model), policy="tile", overlap=6)
    (window,) = encode_stream(engine, source, header).windows
    header = dataclasses.replace(header, geometry=Tiling.plan((800, 800), header.geometry.model))
    monkeypatch.setattr(decode, "IN_MEMORY", 0)
    tracemalloc.start()
    clip = torch.zeros(3, 16, 32, 32)
    decoder = Decoder(engine, header)
    decoded = decoder._finished(window, iter([clip] * header.tiles))
    with VideoWriter(source.with_name("out.mp4"), Fraction(25), (800, 800)) as writer:
        write_decoded(writer, decoded.since(14))
    assert tracemalloc.get_traced_memory()[1] < 12e6
    tracemalloc.stop()
    assert decoded.frames.shape == (16, 800, 800, 3) and (decoded.frames == 128).all()


def test_a_frame_beyond_all_videos_is_refused():
    with pytest.raises(ValueError, match=r"source size 20000x20000: is more than 134217728 pixels; scale it down first"):
        Tiling.plan((20000, 20000), (32, 32))


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (7, 31), (12, 13), (30, None), (44, 45)])
@pytest.mark.parametrize("overlap", [0, 4])
def test_decoding_from_anywhere_is_a_part_of_decoding_all(model, write, tmp_path, start, stop, overlap):
    source = write(45, cuts=(26,))
    video = encode_video(model, source, tmp_path / "x.vidtwin", overlap=overlap)
    decode_video(model, video, tmp_path / "all.mkv", output=EXACT)
    decode_video(model, video, tmp_path / "part.mkv", start=start, stop=stop, output=EXACT)
    every, part = read_video(tmp_path / "all.mkv"), read_video(tmp_path / "part.mkv")
    assert np.array_equal(part.frames, every.frames[start:stop])
    assert part.times == [time - every.times[start] for time in every.times[start:stop]]


def test_a_growing_file_decodes_as_far_as_it_goes(model, write, tmp_path):
    source = write(60)

    def stop_after_two(count, seen=[]):  # noqa: B006 (counts calls)
        seen.append(count)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_video(model, source, tmp_path / "x.vidtwin", overlap=4, progress=stop_after_two)
    growing = LatentVideo.load(partial_path(tmp_path / "x.vidtwin"))
    decode_video(model, growing, tmp_path / "out.mp4")
    assert len(read_video(tmp_path / "out.mp4").frames) == growing.frames == 28


def test_variable_rates_are_kept_exactly(model, assets, tmp_path):
    source = assets / "vfr_jitter.mp4"
    video = encode_video(model, source, tmp_path / "x.vidtwin")
    decode_video(model, video, tmp_path / "out.mp4")
    before, after = read_video(source).times, read_video(tmp_path / "out.mp4").times
    assert [time - after[0] for time in after] == [time - before[0] for time in before]


def test_encoding_in_low_precision_belongs_to_the_same_weights(model, write, tmp_path):
    identity = Identity.of(model)
    low = seeded_model().to(torch.bfloat16)
    video = encode_video(low, write(3), tmp_path / "x.vidtwin", weights=identity)
    assert video.header.precision == "bfloat16"
    decode_video(model, video, tmp_path / "out.mp4")
    other = VidTwin(SMALL)
    with pytest.raises(ValueError, match="were encoded with weights"):
        decode_video(other, video, tmp_path / "out.mp4")


def test_other_weights_are_refused(model, write, tmp_path):
    video = encode_video(model, write(3), tmp_path / "x.vidtwin", weights=Identity.of(model, "small"))
    with pytest.raises(ValueError, match="encoded with weights 'small'.*use a model with the former weights"):
        decode_video(seeded_model(seed=5), video, tmp_path / "out.mp4", weights=Identity("other", "0" * 64))
    assert not (tmp_path / "out.mp4").exists()


def test_sound_of_the_source_can_go_with_it(model, clip, tmp_path):
    video = encode_video(model, clip, tmp_path / "x.vidtwin")
    decode_video(model, video, tmp_path / "silent.mp4")
    decode_video(model, video, tmp_path / "out.mp4", output=Output(source=clip))
    assert not probe(tmp_path / "silent.mp4").has_audio
    assert probe(tmp_path / "out.mp4").has_audio
    assert [f.time for f in iter_frames(tmp_path / "out.mp4")] == [f.time for f in iter_frames(clip)]
