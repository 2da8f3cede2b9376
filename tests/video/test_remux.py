"""What goes with the picture: sound, subtitles and chapters come out packet by packet as they were."""

import shutil
import warnings
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.frame import AudioFrame
from av.packet import Packet
from av.stream import Disposition

from vidtwin.video import VideoWriter, read_video
from vidtwin.video.read.reader import iter_frames
from vidtwin.video.read.tracks import Track

FPS, FRAMES, RATE = Fraction(25), 50, 48_000
HOLDS = {  # what each container can hold of the sound that the tests make
    ".mp4": {"aac", "opus", "flac", "mp3", "ac3"},
    ".mov": {"aac", "mp3", "ac3", "pcm_s16le"},
    ".mkv": {"aac", "opus", "flac", "mp3", "ac3", "pcm_s16le"},
    ".webm": {"opus"},
}
SOUND = {"aac": "aac", "libopus": "opus", "flac": "flac", "libmp3lame": "mp3", "ac3": "ac3", "pcm_s16le": "pcm_s16le"}
LANGUAGES = {"ger": "deu", "fre": "fra", "und": None}  # other codes of the same
CHAPTERS = [(0, 700, "Opening"), (700, 1500, "Middle"), (1500, 2000, "End")]
TICKS = [40 * index for index in range(FRAMES)]


def encoded_sound(stream, begin, seconds):
    """Packets of a tone, from `begin` seconds on."""
    context = stream.codec_context
    context.open()
    size = context.frame_size or 1024
    resampler = av.AudioResampler(format=context.format.name, layout="stereo", rate=RATE)
    for start in range(0, int(seconds * RATE), size):
        wave = 8000 * np.sin(2 * np.pi * 440 * np.arange(start, start + size) / RATE)
        frame = AudioFrame.from_ndarray(np.repeat(wave, 2).astype(np.int16)[None], format="s16", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), start + int(begin * RATE)
        for resampled in resampler.resample(frame):
            yield from stream.encode(resampled)
    yield from stream.encode(None)


@pytest.fixture
def make_source(tmp_path, blobs):
    """make_source(name, ...) -> path of a video with sound, subtitles, chapters and attachments."""

    def make_source(name, sound=("aac",), subtitles=(), chapters=(), attachment=False, begin=Fraction(0), tags=()):
        path = tmp_path / name
        with av.open(path, "w") as container:
            codec = {".webm": "libvpx-vp9", ".ogv": "libvpx"}.get(path.suffix, "libx264")
            video = container.add_stream(codec, rate=FPS, options={} if codec == "libx264" else {"cpu-used": "8"})
            video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
            video.codec_context.max_b_frames = 0
            audio = []
            for index, codec in enumerate(sound):
                stream = container.add_stream(codec, rate=RATE)
                stream.layout = "stereo"
                stream.metadata.update(language=("eng", "deu", "fra")[index % 3], title=f"Track {index}")
                stream.disposition = Disposition.default if index == 1 else 0
                audio.append(stream)
            texts = []
            for codec in subtitles:
                stream = container.add_mux_stream(codec)
                stream.metadata.update(language="ita", title="Full")
                stream.disposition = Disposition.forced
                texts.append(stream)
            if attachment:
                container.add_attachment("font.ttf", "application/x-truetype-font", bytes(range(256)))
            if chapters:
                container.set_chapters(
                    [
                        {"id": id, "start": start, "end": end, "time_base": Fraction(1, 1000), "metadata": {"title": title}}
                        for id, (start, end, title) in enumerate(chapters, start=1)
                    ]
                )
            container.metadata.update(dict(tags))
            packets = []
            for index, picture in enumerate(blobs(FRAMES)):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = index
                packets += video.encode(frame)
            packets += video.encode(None)
            for stream in audio:
                packets += encoded_sound(stream, begin, FRAMES / FPS)
            for stream in texts:
                for number in range(4):
                    packet = Packet(f"Line {number}".encode())
                    packet.stream, packet.time_base = stream, Fraction(1, 1000)
                    packet.pts = packet.dts = 100 + 450 * number
                    packet.duration = 300
                    packets.append(packet)
            for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
                container.mux(packet)
        return path

    return make_source


def write(path, source, blobs, ticks=TICKS, **more):
    with VideoWriter(path, FPS, (48, 64), clock=Fraction(1, 1000), source=source, **more) as writer:
        writer.write(blobs(len(ticks)), ticks)
    return writer.notes


def tracks_of(path, kinds=("audio", "subtitle")):
    """{(codec, language, title): (time base, [(pts, dts, duration, bytes)])} of a file; times in seconds."""
    found = {}
    with av.open(path) as container:
        streams = [stream for stream in container.streams if stream.type in kinds]
        for stream in streams:
            codec = stream.codec_context.codec.canonical_name
            title = stream.metadata.get("title", stream.metadata.get("name"))  # as Matroska and as MP4 call it
            found[stream.index] = ((codec, title), stream.language, stream.disposition, stream.time_base, [])
        for packet in container.demux(streams) if streams else ():
            if packet.size:
                unit = packet.time_base
                times = (packet.pts * unit, packet.dts * unit, packet.duration * unit)
                found[packet.stream_index][4].append((*times, bytes(packet)))
    return {key: rest for key, *rest in found.values()}


def assert_same_packets(source, output, shift=Fraction(0), counted=False):
    """Bytes and order equal; times too, to the nearest tick of the output if that is coarser or they are moved.

    `counted`: the output has no times of packets, it counts samples; so it may undo the rounding of the source.
    """
    _, _, unit, before = source
    _, _, new_unit, after = output
    assert len(before) == len(after) > 0
    tolerance = new_unit / 2 if unit < new_unit else unit / 2 if counted else Fraction(0)
    tolerance = max(tolerance, new_unit / 2 if (shift / new_unit).denominator != 1 else Fraction(0))
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        assert old[3] == new[3]
        assert abs(old[0] - shift - new[0]) <= tolerance and abs(old[1] - shift - new[1]) <= tolerance
        if number < len(before) - 1 and new[2]:  # the last one's is not held by all, and Matroska's are guessed when read
            assert abs(old[2] - new[2]) <= max(unit, new_unit) + tolerance


@pytest.mark.parametrize("suffix", HOLDS)
@pytest.mark.parametrize("kind", [".mkv", ".mp4", ".mov", ".webm"])
def test_sound_is_copied_packet_by_packet(tmp_path, make_source, blobs, kind, suffix):
    codecs = [encoder for encoder, codec in SOUND.items() if codec in HOLDS[kind]]
    source, out = make_source(f"in{kind}", codecs), tmp_path / f"out{suffix}"
    notes = write(out, source, blobs, origin=Fraction(0))
    before, after = tracks_of(source), tracks_of(out)
    wanted = {key for key in before if key[0] in HOLDS[suffix]}
    if kind == ".mkv" and suffix == ".mp4":
        wanted -= {key for key in wanted if key[0] == "pcm_s16le"}
    assert set(after) >= wanted
    for key in wanted:
        packets = before[key][3]
        if suffix in (".mkv", ".webm") and kind in (".mp4", ".mov") and key[0] != "opus":
            packets = [packet for packet in packets if packet[0] >= 0]  # Matroska holds no time before 0
            early = len(before[key][3]) - len(packets)
            assert early == 0 or any(key[0] in note for note in notes if "before the first picture left out" in note)
        assert_same_packets((*before[key][:3], packets), after[key], counted=key[0] == "pcm_s16le" and suffix == ".mov")
        assert LANGUAGES.get(after[key][0], after[key][0]) == LANGUAGES.get(before[key][0], before[key][0])
        assert after[key][1] & Disposition.default == before[key][1] & Disposition.default or suffix in (".mp4", ".mov")
    for key in set(before) - set(after):
        assert any(key[0] in note and f"left out: {suffix} cannot hold it; write .m" in note for note in notes)
    assert read_video(out).times == [Fraction(tick, 1000) for tick in TICKS]


def test_start_up_samples_keep_their_times_in_mp4(tmp_path, make_source, blobs):
    """The first packet of AAC comes before 0, and an edit list says not to play it."""
    source = make_source("in.mp4")
    for suffix in (".mp4", ".mov"):
        assert write(tmp_path / f"out{suffix}", source, blobs) == []
        ((_, _, _, packets),) = tracks_of(tmp_path / f"out{suffix}").values()
        assert packets[0][0] == Fraction(-1024, RATE) == tracks_of(source)["aac", "Track 0"][3][0][0]
    notes = write(tmp_path / "out.mkv", source, blobs)
    assert notes == ["sound (stream 1, aac, eng): 1 packet from before the first picture left out; .mp4 can hold them"]


def test_subtitles_chapters_titles_and_attachments_are_kept(tmp_path, make_source, blobs):
    source = make_source("in.mkv", subtitles=["subrip"], chapters=CHAPTERS, attachment=True, tags={"title": "A film"})
    out = tmp_path / "out.mkv"
    assert write(out, source, blobs) == []
    before, after = tracks_of(source), tracks_of(out)
    assert_same_packets(before["subrip", "Full"], after["subrip", "Full"])
    assert after["subrip", "Full"][:2] == ["ita", Disposition.forced]
    with av.open(out) as container:
        chapters = container.chapters()
        assert [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]["title"]) for c in chapters] == [
            (Fraction(start, 1000), Fraction(end, 1000), title) for start, end, title in CHAPTERS
        ]
        assert container.metadata["title"] == "A film"
        (attached,) = container.streams.attachments
        assert (attached.name, attached.mimetype, attached.data) == (
            "font.ttf",
            "application/x-truetype-font",
            bytes(range(256)),
        )
    for suffix in (".mp4", ".mov", ".webm"):
        notes = write(tmp_path / f"out{suffix}", source, blobs)
        assert f"subtitles (stream 2, subrip, ita) left out: {suffix} cannot hold it; write .mkv to keep it" in notes
        assert f"attachment (stream 3, font.ttf) left out: {suffix} cannot hold it; write .mkv to keep it" in notes
        with av.open(tmp_path / f"out{suffix}") as container:
            starts = [c["start"] * c["time_base"] for c in container.chapters()]
            assert starts == [Fraction(start, 1000) for start, _, _ in CHAPTERS]
            assert container.metadata["title"] == "A film"


def test_chapters_move_with_the_origin_and_end_with_the_picture(tmp_path, make_source, blobs):
    source = make_source("in.mkv", chapters=CHAPTERS)
    ticks = TICKS[20:30]  # 0.8 to 1.2 s
    for suffix in (".mkv", ".mp4"):
        out = tmp_path / f"out{suffix}"
        write(out, source, blobs, ticks, span=(Fraction(4, 5), Fraction(6, 5)))
        with av.open(out) as container:
            chapters = [(c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in container.chapters()]
        assert chapters == [(0, Fraction(2, 5))]
    late = make_source("late.mkv", chapters=CHAPTERS[1:])
    for suffix in (".mkv", ".mp4", ".mov"):  # the latter begin with one without a name, because theirs begin at 0
        write(tmp_path / f"out{suffix}", late, blobs)
        with av.open(tmp_path / f"out{suffix}") as container:
            starts = {c["metadata"]["title"]: c["start"] * c["time_base"] for c in container.chapters()}
        assert (starts["Middle"], starts["End"]) == (Fraction(7, 10), Fraction(3, 2))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_span_takes_the_packets_that_begin_in_it(tmp_path, make_source, blobs, suffix):
    source, out = make_source("in.mkv", ["flac"], ["subrip"]), tmp_path / f"out{suffix}"
    span = (Fraction(4, 5), Fraction(7, 5))
    write(out, source, blobs, TICKS[20:35], span=span)
    before, after = tracks_of(source), tracks_of(out)
    for key in after:
        lang, disposition, unit, packets = before[key]
        inside = [packet for packet in packets if span[0] <= packet[0] < span[1]]
        assert 0 < len(inside) < len(packets)
        assert_same_packets((lang, disposition, unit, inside), after[key], shift=span[0])
    assert read_video(out).times[0] == 0


def test_late_sound_and_late_pictures_stay_in_step(tmp_path, make_source, blobs):
    late_sound = make_source("sound.mp4", begin=Fraction(1, 2))
    late_ticks = [tick + 333 for tick in TICKS]
    for suffix in (".mp4", ".mov", ".mkv"):
        for source, ticks, origin in [(late_sound, TICKS, None), (late_sound, late_ticks, Fraction(0))]:
            out = tmp_path / f"out{suffix}"
            write(out, source, blobs, ticks, origin=origin)
            assert read_video(out).times == [Fraction(tick, 1000) for tick in ticks]
            assert_same_packets(tracks_of(source)["aac", "Track 0"], tracks_of(out)["aac", "Track 0"])


def test_sound_from_before_the_first_picture_is_noted(tmp_path, make_source, blobs):
    source = make_source("in.mkv", ["flac"])
    notes = write(tmp_path / "out.mp4", source, blobs, [tick + 500 for tick in TICKS])
    assert notes == ["sound (stream 1, flac, eng): 0.50 s from before the first picture kept, but not played"]
    assert_same_packets(tracks_of(source)["flac", "Track 0"], tracks_of(tmp_path / "out.mp4")["flac", "Track 0"], Fraction(1, 2))


def test_the_file_is_interleaved(tmp_path, make_source, blobs):
    source = make_source("in.mkv", ["aac", "flac"])
    for suffix in (".mp4", ".mkv"):
        out = tmp_path / f"out{suffix}"
        write(out, source, blobs)
        with av.open(out) as container:
            stored = sorted((p.pos, float(p.dts * p.time_base)) for p in container.demux() if p.size)
        times = [time for _, time in stored]
        assert max(max(times[:index]) - time for index, time in enumerate(times) if index) < 1.2


def test_other_streams_are_named(tmp_path, make_source, blobs, assets):
    source = make_source("in.mp4")
    two, cover = tmp_path / "two.mkv", tmp_path / "cover.mp4"
    with av.open(source) as first, av.open(two, "w") as container:
        inputs = [first.streams.video[0], first.streams.video[0], first.streams.audio[0]]
        outputs = [container.add_stream_from_template(stream, opaque=True) for stream in inputs]
        for packet in first.demux():
            for index, stream in enumerate(inputs):
                if packet.size and packet.stream_index == stream.index:
                    copy = Packet(bytes(packet))
                    copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                    copy.is_keyframe, copy.stream = packet.is_keyframe, outputs[index]
                    if copy.dts >= 0:
                        container.mux(copy)
    assert write(tmp_path / "out.mkv", two, blobs) == ["video (stream 1, h264) left out"]
    with av.open(source) as first, av.open(cover, "w") as container:
        picture = container.add_stream("png", rate=1)
        picture.width = picture.height = 16
        picture.pix_fmt, picture.disposition = "rgb24", Disposition.attached_pic
        video = container.add_stream_from_template(first.streams.video[0], opaque=True)
        for packet in picture.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")):
            container.mux(packet)
        for packet in first.demux(video=0):
            if packet.size:
                packet.stream = video
                container.mux(packet)
    assert write(tmp_path / "out.mp4", cover, blobs) == ["cover art left out"]


def test_a_source_that_breaks_off_is_copied_up_to_there(tmp_path, make_source, blobs):
    source = make_source("in.mkv", ["pcm_s16le"])
    cut = tmp_path / "cut.mkv"
    data = source.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    write(tmp_path / "out.mkv", cut, blobs)
    before, after = (tracks_of(path)["pcm_s16le", "Track 0"][3] for path in (source, tmp_path / "out.mkv"))
    assert 0 < len(after) < len(before)
    assert [packet[3] for packet in after[:-1]] == [packet[3] for packet in before[: len(after) - 1]]
    assert len(read_video(tmp_path / "out.mkv").frames) == FRAMES


def test_sound_that_is_cut_off_is_noted(tmp_path, make_source, blobs):
    source, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    write(source, make_source("in.mkv"), blobs)  # its index comes first
    cut.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    (note,) = write(tmp_path / "out.mp4", cut, blobs)
    assert note.startswith("sound (stream 1, aac, eng) is cut off: it ends at 1.") and note.endswith(" of 2.00 s")


def test_a_source_that_cannot_be_read_leaves_the_picture(tmp_path, make_source, blobs):
    for source in (tmp_path / "none.mp4", tmp_path):
        (note,) = write(tmp_path / "out.mp4", source, blobs)
        assert note.startswith("sound, subtitles and chapters left out: ") and "\n" not in note
        assert len(read_video(tmp_path / "out.mp4").frames) == FRAMES
    source = make_source("in.mp4")
    with VideoWriter(tmp_path / "out.mp4", FPS, (48, 64), source=source) as writer:
        writer.write(blobs(2))
        source.unlink()
    assert "no such file" in writer.notes[0]


def test_the_source_is_never_the_output(tmp_path, make_source, blobs):
    source = make_source("in.mp4")
    copy = shutil.copy(source, tmp_path / "copy.mp4")
    with pytest.raises(ValueError, match="in.mp4: is the source; choose another output"):
        write(source, source, blobs)
    assert Path(source).read_bytes() == Path(copy).read_bytes()


def test_damaged_times_are_told_apart(make_source, tmp_path):
    source = make_source("in.mkv", (), ["subrip"])
    with av.open(source) as container, av.open(tmp_path / "out.mkv", "w") as output:
        stream = container.streams.subtitles[0]
        out = output.add_stream_from_template(stream, opaque=True)
        track = Track(stream, out, Fraction(1, 2), (Fraction(1, 20), Fraction(9, 10)), is_matroska=False)
        packets = []
        for times in [(None, None), (40, 40), (100, 100), (600, 600), (600, 600), (650, 700), (500, 500), (None, 800), (900, 900)]:
            packet = Packet(b"text")
            packet.time_base, (packet.pts, packet.dts), packet.duration = Fraction(1, 1000), times, 10
            packets.append(packet)
        assert [track.place(packet) for packet in packets] == [False, False, False, True, True, False, False, True, False]
        assert track.left_out == {"damaged": 3, "outside": 2, "early": 1}
        assert [packet.dts for packet in packets if packet.stream is out] == [100, 101, 300]
        assert track.reached == Fraction(91, 100)


def test_times_that_begin_anew_go_on(make_source, tmp_path):
    source = make_source("in.mkv", (), ["subrip"])
    with av.open(source) as container, av.open(tmp_path / "out.mkv", "w") as output:
        stream = container.streams.subtitles[0]
        out = output.add_stream_from_template(stream, opaque=True)
        track = Track(stream, out, Fraction(0), (None, None), is_matroska=False, restarts=True)
        placed = []
        for time in (0, 20, 40, 7, 60, 80, 5000, 0, 20):  # 7 is damage; 0 begins anew
            packet = Packet(b"text")
            packet.time_base, packet.pts, packet.dts, packet.duration = Fraction(1, 1000), time, time, 20
            assert track.place(packet)
            placed.append(packet.dts)
    assert placed == [0, 20, 40, 60, 61, 80, 5000, 5020, 5040] and not track.left_out


@pytest.mark.parametrize(("suffix", "codec"), [(".ts", "aac"), (".mkv", "aac"), (".webm", "libopus"), (".ogv", "libopus")])
def test_sound_of_files_put_end_to_end(tmp_path, make_source, blobs, suffix, codec):
    first = make_source(f"a{suffix}", [codec])
    second = first if suffix == ".ogv" else make_source(f"b{suffix}", [codec])  # FFmpeg ends at another serial number of Ogg
    joined = tmp_path / f"joined{suffix}"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing of the second one is damage
        assert len(list(iter_frames(joined))) == 2 * FRAMES
    write(tmp_path / "out.mp4", joined, blobs, ticks=[40 * index for index in range(2 * FRAMES)])
    (*_, packets), (*_, before) = (next(iter(tracks_of(path, ["audio"]).values())) for path in (tmp_path / "out.mp4", first))
    assert len(packets) == 2 * len(before)
    steps = {round(float((b[1] - a[1]) * RATE)) for a, b in pairwise(packets)}
    tick = RATE // 1000 if suffix == ".mkv" else 2  # to which the times of packets are rounded
    assert max(steps) <= 1024 + tick  # samples: no hole where the files meet


def test_what_a_container_refuses_late_does_not_cost_the_picture(tmp_path, make_source, blobs, monkeypatch):
    source, out = make_source("in.mkv", ["aac", "flac"]), tmp_path / "out.mp4"

    def place(track, packet, place=Track.place):
        placed = place(track, packet)
        if track.stream.codec_context.name == "flac":
            packet.pts = packet.dts - 1  # no muxer takes that
        return placed

    monkeypatch.setattr(Track, "place", place)
    assert write(out, source, blobs) == ["sound (stream 2, flac, deu) left out: .mp4 cannot hold it; write .mkv to keep it"]
    assert set(tracks_of(out)) == {("aac", "Track 0")} and len(read_video(out).frames) == FRAMES
    monkeypatch.undo()
    monkeypatch.setattr("vidtwin.video.write.remux.holds", lambda *_: True)
    (note,) = write(out, make_source("in.mkv", ["pcm_s16le"]), blobs)
    assert note == "sound, subtitles and chapters left out: .mp4 refuses them (Invalid argument)"
    assert tracks_of(out) == {} and len(read_video(out).frames) == FRAMES


def test_sound_of_png_files_is_noted(tmp_path, make_source, blobs):
    source = make_source("in.mkv", subtitles=["subrip"])
    assert write(tmp_path / "pictures", source, blobs) == [
        "subtitles and sound cannot be kept in PNG files; write .mp4 or .mkv to keep it"
    ]
    assert len(list(Path(tmp_path / "pictures").iterdir())) == FRAMES


def test_images_have_no_sound_to_miss(tmp_path, blobs):
    for name in ("images", "images/%06d.png"):
        if name == "images":
            with VideoWriter(tmp_path / name, FPS, (48, 64)) as writer:
                writer.write(blobs(3))
        with VideoWriter(tmp_path / "out.mp4", FPS, (48, 64), source=tmp_path / name) as writer:
            writer.write(blobs(3))
        assert writer.notes == []


def test_of_many_streams_only_some_are_named(tmp_path, blobs, make_source):
    source = make_source("in.mkv", sound=["pcm_s16le"] * 12)
    with VideoWriter(tmp_path / "out.mp4", FPS, (48, 64), source=source) as writer:
        writer.write(blobs(3))
    assert len(writer.notes) == 9
    assert writer.notes[-1] == "4 more streams left out"
