"""Damage is survived and told of, what is no video or beyond the bounds is refused, in one line."""

import gc
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest

from vidtwin.video import VideoWarning, VideoWriter, frame_count, iter_frames, probe, read_clip, read_video


def test_half_a_file_gives_what_is_there_and_one_warning(tmp_path, blobs):
    path, half = tmp_path / "whole.mp4", tmp_path / "half.mp4"
    with VideoWriter(path, Fraction(25), (48, 64)) as writer:
        writer.write(blobs(60))
    half.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.warns(VideoWarning) as caught:
        video = read_video(half)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert f"half.mp4: only {len(video.frames)} of 60 frames" in str(caught[0].message)
    assert 0 < len(video.frames) < 60
    assert (read_clip(half, 0, 5) == video.frames[:5]).all()


def test_flipped_bytes_keep_all_frames_that_decode(assets):
    with pytest.warns(VideoWarning, match="decoded frames are damaged") as caught:
        video = read_video(assets / "bitflips.mp4")
    assert len(video.frames) == 50 and len(caught) == 1


def test_a_destroyed_packet_is_skipped(encode, blobs):
    path = encode("broken.mp4", blobs(30), "mjpeg", "yuvj420p")
    with av.open(path) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][10]
        begin, size = packet.pos, packet.size
    written = bytearray(path.read_bytes())
    written[begin : begin + size] = bytes(size)
    path.write_bytes(written)
    with pytest.warns(VideoWarning, match="only 29 of 30 frames") as caught:
        video = read_video(path)
    assert len(video.frames) == 29 and len(caught) == 1 and video.times[10] == Fraction(11, 25)
    assert (read_clip(path, 11, 2) == video.frames[10:12]).all()  # numbered as stored
    with pytest.raises(ValueError, match="frame 10 cannot be decoded"):
        read_clip(path, 9, 3)


def test_what_is_no_video_is_refused_in_one_line(assets, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is not a video\n")
    (tmp_path / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "random.mp4").write_bytes(noise)
    (tmp_path / "cut.mp4").write_bytes((assets / "h264_aac.mp4").read_bytes()[:32])
    cases = {
        tmp_path / "none.mp4": (FileNotFoundError, "no such file"),
        tmp_path: (IsADirectoryError, "is a folder"),
        tmp_path / "empty.mp4": (ValueError, "is empty"),
        tmp_path / "text.mp4": (ValueError, "not a video file"),
        tmp_path / "playlist.mp4": (ValueError, "playlist"),
        tmp_path / "random.mp4": (ValueError, "not a video file"),
        tmp_path / "cut.mp4": (ValueError, "is cut off"),
        assets / "audio_only.mp4": (ValueError, "has no video, only audio"),
        assets / "cover_art_only.m4a": (ValueError, "only audio, cover art"),
        "/dev/null": (OSError, "not a regular file"),
    }
    for path, (kind, message) in cases.items():
        for use in (probe, read_video, frame_count, lambda path: read_clip(path, 0, 1)):
            with pytest.raises(kind, match=message) as error:
                use(path)
            assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
            assert "; " in str(error.value)  # the remedy


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2,\nreal.ts\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2,\nreal.ts\n#EXT-X-ENDLIST\n"),
        ("concat.mp4", "ffconcat version 1.0\nfile real.ts\n"),
        ("session.mp4", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 33\n"),
        ("subtitles.mp4", "WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n"),
    ],
)
def test_what_names_other_files_is_refused(assets, tmp_path, name, text):
    shutil.copy(assets / "start_offset.ts", tmp_path / "real.ts")
    (tmp_path / name).write_text(text)
    for use in (probe, read_video, frame_count):
        with pytest.raises(ValueError, match="is a playlist, or of a format that is not read|is not a video file") as error:
            use(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(error.value)


def test_pictures_beyond_the_bound_are_refused(assets, encode, blobs, monkeypatch):
    gif = encode("a.gif", blobs(2), "gif", "rgb8")
    for side in (65535, 12000):  # the latter FFmpeg itself would take
        gif.write_bytes(gif.read_bytes()[:6] + side.to_bytes(2, "little") * 2 + gif.read_bytes()[10:])
        with pytest.raises(ValueError, match="a.gif: "):
            probe(gif)
    wide = encode("wide.mp4", blobs(2), aspect=Fraction(4))
    monkeypatch.setattr("vidtwin.video.read.pictures.MAX_PIXELS", 4 * 64 * 48 - 1)
    with pytest.raises(ValueError, match="wide.mp4: its pictures are 256x48, more than .* pixels; scale it down first"):
        probe(wide)
    assert next(iter_frames(wide, square_pixels=False)).image.shape == (48, 64, 3)
    monkeypatch.setattr("vidtwin.video.read.decode.MAX_PIXELS", 64 * 48 - 1)
    for use in (probe, read_video, frame_count):
        with pytest.raises(ValueError, match="wide.mp4: its pictures are 64x48, more than"):
            use(wide)


def test_thousands_of_streams_are_refused(assets, tmp_path):
    written = (assets / "h264_aac.mp4").read_bytes()
    moov, trak = written.index(b"moov") - 4, written.index(b"trak") - 4
    size = int.from_bytes(written[moov : moov + 4], "big")
    track = written[trak : trak + int.from_bytes(written[trak : trak + 4], "big")]
    more = (size + 5000 * len(track)).to_bytes(4, "big") + written[moov + 4 : moov + size] + track * 5000
    (tmp_path / "many.mp4").write_bytes(written[:moov] + more + written[moov + size :])
    with pytest.raises(ValueError, match="many.mp4: states more than 256 streams"):
        probe(tmp_path / "many.mp4")


def test_packets_without_end_are_given_up(encode, blobs, monkeypatch):
    path = encode("barren.mp4", blobs(40), "mjpeg", "yuvj420p")
    with av.open(path) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    written = bytearray(path.read_bytes())
    for position, size in packets[5:]:
        written[position : position + size] = bytes(size)
    path.write_bytes(written)
    with pytest.warns(VideoWarning, match="only 5 of 40 frames"):
        assert len(list(iter_frames(path))) == 5
    monkeypatch.setattr("vidtwin.video.read.decode.MAX_BARREN", 20)
    with pytest.warns(VideoWarning, match="only 5 of 40 frames"):
        assert len(list(iter_frames(path))) == 5
    assert frame_count(path) == 40  # as stored
    for position, size in packets[:5]:
        written[position : position + size] = bytes(size)
    path.write_bytes(written)
    for use in (probe, read_video, frame_count):
        with pytest.raises(ValueError, match="no frame could be decoded"):
            use(path)


def test_streams_that_appear_late_do_not_end_reading():
    """PyAV raises an IndexError of its own after the flush; it depends on memory that it does not own, so it is played here."""
    from vidtwin.video.read.decode import Tally, demux_packets

    class Container:
        def demux(self, stream):
            yield from ("packet", "flush")
            raise IndexError

    tally = Tally()
    assert list(demux_packets(Container(), None, tally)) == ["packet", "flush"] and tally.refused == 0


def test_frames_are_let_go(assets):
    """A decoded frame that refers to itself would wait for the garbage collector, and hundreds pile up until it comes."""
    gc.collect()
    gc.disable()
    try:
        for number, _ in enumerate(iter_frames(assets / "rot90.mp4")):
            if number % 20 == 19:
                assert sum(type(thing) is av.VideoFrame for thing in gc.get_objects()) < 10
    finally:
        gc.enable()
