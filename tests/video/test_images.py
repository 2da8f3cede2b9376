import os
import shutil
import struct
import warnings
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from vidtwin.video import VideoWarning, frame_count, iter_frames, probe, read_clip, read_video
from vidtwin.video.read import images


@pytest.fixture
def save(tmp_path, blobs):
    """save("a/1.png", ...) -> the pictures that were saved, one a name."""

    def save(*names, mode="RGB", **options):
        frames = blobs(len(names))
        for name, frame in zip(names, frames, strict=True):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.fromarray(frame).convert(mode).save(tmp_path / name, **options)
        return frames

    return save


def test_a_folder_is_read_in_natural_order(save, tmp_path):
    frames = save("a/x1.png", "a/x2.PNG", "a/x010.bmp", "a/x11.tif")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / ".hidden.png").write_text("no image")
    (tmp_path / "a" / "folder.png").mkdir()
    path = tmp_path / "a"
    video = read_video(path)
    assert (video.frames == frames).all() and frame_count(path) == 4
    assert video.times == [Fraction(n, 25) for n in range(4)] and [f.duration for f in iter_frames(path)] == [1] * 4
    assert (read_clip(path, 1, 2, 2) == frames[1::2]).all()
    part = list(iter_frames(path, 2, 9, square_pixels=False, last_pts=1))
    assert [frame.pts for frame in part] == [2, 3] and (part[0].image == frames[2]).all()
    info = video.info
    assert (info.width, info.height, info.frames, info.fps, info.duration) == (64, 48, 4, 25, 0.16)
    assert (info.codec, info.pixel_format, info.color_space, info.color_range) == ("png", "RGB", "rgb", "full")
    assert (info.time_base, info.stored_size, info.pixel_aspect, info.start_time) == (Fraction(1, 25), (48, 64), 1, 0)
    assert info.notes == () and info.path == path and not info.has_audio
    with pytest.raises(ValueError, match="has 4 frames; frame 4 is beyond its end"):
        list(iter_frames(path, 4))
    with pytest.raises(ValueError, match="has 4 frames; 2 frames from 3"):
        read_clip(path, 3, 2)


def test_the_frame_rate_can_be_set(save, tmp_path, monkeypatch):
    save("a/1.png", "a/2.png")
    monkeypatch.setattr(images, "DEFAULT_FPS", Fraction(30000, 1001))
    info = probe(tmp_path / "a")
    assert info.fps == Fraction(30000, 1001)
    assert [frame.time for frame in iter_frames(tmp_path / "a")] == [0, Fraction(1001, 30000)]


@pytest.mark.parametrize("names", [("08.png", "09.png", "10.png"), ("a 7.jpg", "a 8.jpg"), ("50%_1.png", "50%_2.png")])
def test_a_pattern_is_read_by_number(save, tmp_path, names):
    save(*[f"p/{name}" for name in names], "p/x9.png", "p/1.gif")
    pattern = {"08.png": "%02d.png", "a 7.jpg": "a %d.jpg", "50%_1.png": "50%%_%d.png"}[names[0]]
    video = read_video(tmp_path / "p" / pattern)
    expected = np.stack([np.asarray(Image.open(tmp_path / "p" / name)) for name in names])
    assert (video.frames == expected).all() and frame_count(tmp_path / "p" / pattern) == len(names)


def test_a_gap_in_a_pattern_names_the_missing_number(save, tmp_path):
    save("p/0003.png", "p/0004.png", "p/0006.png", "p/5.png")
    for use in (probe, frame_count, read_video, iter_frames):
        with pytest.raises(FileNotFoundError, match=r"%04d.png: number 5 is missing; add 0005.png, "):
            use(tmp_path / "p" / "%04d.png")
    with pytest.raises(FileNotFoundError, match="no file has a name of this pattern"):
        probe(tmp_path / "p" / "%03d.png")
    for name in ("%04d.mp4", "%04d_%d.png", "missing.png", "%s.png"):
        with pytest.raises(FileNotFoundError, match="no such file; check the name"):
            probe(tmp_path / "p" / name)


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(save, tmp_path):
    frames = save("p/%d.png", "p/1.png", "p/*.png")
    for name, frame in (("%d.png", frames[0]), ("*.png", frames[2])):
        assert (read_video(tmp_path / "p" / name).frames == frame).all()


def test_links_and_odd_names(save, tmp_path):
    frames = save("a/ü 1.png", "a/\n2.png")
    os.symlink("ü 1.png", tmp_path / "a" / "ü 3.png")
    os.symlink("a", tmp_path / "link")
    assert (read_video(tmp_path / "link").frames == frames[[1, 0, 0]]).all()
    os.symlink("nowhere", tmp_path / "a" / "ü 4.png")
    with pytest.raises(FileNotFoundError, match="ü 4.png: cannot be opened"):
        read_video(tmp_path / "a")


def tiff(path, frames, **first):
    first_page, *rest = [Image.fromarray(frame) for frame in frames]
    first_page.save(path, save_all=True, append_images=rest, **first)
    return path


@pytest.mark.parametrize("big", [False, True])
def test_the_pages_of_a_tiff_are_frames(tmp_path, blobs, big):
    frames = blobs(5)
    path = tiff(tmp_path / "a.dat", frames, format="TIFF", big_tiff=big)
    assert (read_video(path).frames == frames).all() and frame_count(path) == 5 and probe(path).frames == 5
    assert [frame.time for frame in iter_frames(path, 3)] == [Fraction(3, 25), Fraction(4, 25)]
    assert (read_clip(path, 1, 2, 2) == frames[[1, 3]]).all() and probe(path).fps == 25
    assert (read_video(tiff(tmp_path / "one.tif", frames[:1])).frames == frames[:1]).all()


def test_pages_of_other_sizes_are_scaled_and_smaller_copies_are_none(tmp_path, blobs):
    pages = [Image.fromarray(frame) for frame in blobs(3)]
    pages[1] = pages[1].resize((20, 20))
    pages[1].encoderinfo = {"tiffinfo": {254: 1}}  # a thumbnail of the first
    pages[2] = pages[2].resize((32, 24))
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    video = read_video(tmp_path / "a.tif")
    assert video.frames.shape == (2, 48, 64, 3)
    assert np.abs(video.frames[1] - np.asarray(pages[2].resize((64, 48), Image.Resampling.BICUBIC)).astype(int)).max() == 0


def test_damage_in_a_later_page_is_said(tmp_path, blobs):
    path = tiff(tmp_path / "a.tif", blobs(4), compression="raw")
    with Image.open(path) as image:
        image.seek(3)
        strip = image.tag_v2[273][0]
    path.write_bytes(path.read_bytes()[: strip + 100])
    with pytest.warns(VideoWarning, match="a.tif: only 3 of 4 frames could be decoded"):
        assert len(list(iter_frames(path))) == 3


def test_in_a_folder_a_file_counts_once_and_pictures_left_out_are_said(tmp_path, blobs, save):
    save("a/1.png", "a/4.webp")
    tiff(tmp_path / "a" / "2.tif", blobs(3))
    tiff(tmp_path / "a" / "3.png", blobs(2))
    with pytest.warns(
        VideoWarning, match=r"of 2.tif and 1 more only the first picture of several was read; give such a file alone"
    ):
        assert len(list(iter_frames(tmp_path / "a"))) == 4


def test_pages_that_share_one_large_tag_are_refused_before_each_reads_it(tmp_path):
    tags = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1}
    page = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()) + struct.pack("<HHII", 700, 1, 10_000, 8)
    page = struct.pack("<H", len(tags) + 1) + page
    begins = [8 + 10_000 + number * (len(page) + 4) for number in range(4)]
    pages = [page + struct.pack("<I", after) for after in (*begins[1:], 0)]
    (tmp_path / "a.tif").write_bytes(struct.pack("<4sI", b"II*\0", begins[0]) + bytes(10_000) + b"".join(pages))
    with pytest.raises(ValueError, match=r"a\.tif: .* lie over each other"):
        probe(tmp_path / "a.tif")


def test_a_tiff_of_endless_pages_is_refused(tmp_path, blobs, monkeypatch):
    monkeypatch.setattr(images, "MAX_PAGES", 3)
    with pytest.raises(ValueError, match="a.tif: has more than 3 pages; split it"):
        probe(tiff(tmp_path / "a.tif", blobs(4)))


@pytest.mark.parametrize("path", ["a", "a/%d.png", "a/1.png", "a/2.mp4"])
def test_a_pipe_is_not_waited_for(tmp_path, path):
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "1.png")
    os.mkfifo(tmp_path / "a" / "2.mp4")
    for use in (probe, read_video, lambda path: list(iter_frames(path))):
        with pytest.raises(OSError, match=r"[12]\.(png|mp4): is (a pipe, a socket|not a regular file)"):
            use(tmp_path / path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, blobs, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(blobs(1)[0]).save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    plain = np.asarray(Image.open(tmp_path / "a.jpg"))
    turns = {1: plain, 2: plain[:, ::-1], 3: plain[::-1, ::-1], 4: plain[::-1]}
    transposed = plain.transpose(1, 0, 2)
    turns |= {5: transposed, 6: transposed[:, ::-1], 7: transposed[::-1, ::-1], 8: transposed[::-1]}
    assert (read_video(tmp_path / "a.jpg").frames[0] == turns[orientation]).all()
    info = probe(tmp_path / "a.jpg")
    assert (info.height, info.width) == info.stored_size == turns[orientation].shape[:2] and info.rotation == 0
    shutil.copy(tmp_path / "a.jpg", tmp_path / "a.dat")  # which FFmpeg reads: as it is turned, if not mirrored
    if orientation in (1, 3, 6, 8):
        read = read_video(tmp_path / "a.dat").frames[0].astype(int)
        assert read.shape == turns[orientation].shape and np.abs(read - turns[orientation]).max() <= 3


def test_sizes_kinds_and_notes(tmp_path, blobs, save):
    large = blobs(1, 96, 128)[0]
    save("a/1.png")
    Image.fromarray(large).save(tmp_path / "a" / "2.png")
    frames = read_video(tmp_path / "a").frames
    assert frames.shape == (2, 48, 64, 3) and np.abs(frames[1].astype(int) - frames[0]).mean() < 4
    for mode in ("L", "RGBA", "P", "CMYK", "1"):
        name = "x.tif" if mode == "CMYK" else "x.png"
        (tmp_path / mode).mkdir()
        save(f"{mode}/{name}", mode=mode)
        assert read_video(tmp_path / mode).frames.shape == (1, 48, 64, 3)
        assert [note.split(":")[0] for note in probe(tmp_path / mode).notes] == ["transparency is dropped"] * (mode == "RGBA")
    (tmp_path / "deep").mkdir()
    deep = (blobs(1)[0, :, :, 0].astype(np.uint16) << 8) + 77
    Image.fromarray(deep).save(tmp_path / "deep" / "1.png")
    assert (read_video(tmp_path / "deep").frames[0] == (deep >> 8)[..., None]).all()
    assert probe(tmp_path / "deep").notes == ("16 bits a channel are read as 8",)


def test_broken_images_are_named(save, tmp_path, monkeypatch):
    save("a/1.png", "a/2.png", "a/3.png")
    whole = (tmp_path / "a" / "2.png").read_bytes()
    floats = Image.fromarray(np.zeros((4, 4), np.float32))
    floats.save(tmp_path / "floats.tif")
    for content, message in (
        (whole[:500], "is an image that cannot be read"),
        (whole[:60] + bytes(100) + whole[160:], "is an image that cannot be read"),
        (b"no image", "is not an image of a known kind"),
        (b"", "is not an image of a known kind"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image of a known kind"),
        ((tmp_path / "floats.tif").read_bytes(), "its pixels are floating point"),
    ):
        (tmp_path / "a" / "2.png").write_bytes(content)
        assert frame_count(tmp_path / "a") == 3 and len(list(iter_frames(tmp_path / "a", 0, 1))) == 1
        with pytest.raises(ValueError, match=message) as error:
            read_video(tmp_path / "a")
        assert str(error.value).startswith(f"{tmp_path / 'a' / '2.png'}: ") and "\n" not in str(error.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for limit in (3000, 1000):  # Pillow itself only warns of the first
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
            with pytest.raises(ValueError, match=f"1.png: is larger than {limit} pixels; scale it down"):
                probe(tmp_path / "a")


def test_a_folder_without_images_says_so(tmp_path):
    (tmp_path / "video.mp4").write_bytes(b"x")
    for use in (probe, frame_count, read_video, iter_frames, lambda path: read_clip(path, 0, 1)):
        with pytest.raises(IsADirectoryError, match="is a folder without images; name a video file, or a folder of images"):
            use(tmp_path)


def test_animated_webp(tmp_path, blobs, assets):
    frames = blobs(5)
    path, durations = tmp_path / "a.webp", [40, 100, 1, 60, 33]
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, lossless=True)
    shutil.copy(path, tmp_path / "wrong.mp4")
    video = read_video(tmp_path / "wrong.mp4")
    assert (video.frames == frames).all() and frame_count(path) == 5
    assert video.times == [Fraction(n, 1000) for n in (0, 40, 140, 141, 201)]
    assert [frame.duration for frame in iter_frames(path)] == durations
    assert (read_clip(path, 1, 2, 3) == frames[1::3]).all()
    assert [frame.pts for frame in iter_frames(path, 3, 4, last_pts=140)] == [141]
    info = probe(path)
    assert (info.frames, info.fps, info.duration, info.codec) == (5, Fraction(5000, 234), 0.234, "webp")
    assert info.notes == () and probe(assets / "anim.webp").notes[0].startswith("transparency is dropped")
    with pytest.raises(ValueError, match="has 5 frames; frame 5 is beyond its end"):
        read_video(path, 5)
    pictures[0].save(tmp_path / "still.webp")
    assert read_video(tmp_path / "still.webp").times == [0] and probe(tmp_path / "still.webp").duration == 0.04


def test_damaged_webp(tmp_path, assets):
    whole = (assets / "anim.webp").read_bytes()
    path = tmp_path / "a.webp"
    at = [i for i in range(len(whole)) if whole[i : i + 4] == b"ANMF"][6]
    path.write_bytes(whole[: at + 36] + bytes(30) + whole[at + 66 :])
    with pytest.warns(VideoWarning, match="only 6 of 12 frames could be decoded"):
        assert len(read_video(path).frames) == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(iter_frames(path, 2, 5))) == 3
    path.write_bytes(whole[: at + 100])
    with pytest.raises(ValueError, match="a.webp: is an image that cannot be read"):
        read_video(path)
    size = struct.pack("<I", 16382)[:3]
    path.write_bytes(whole[:24] + size * 2 + whole[30:])
    with pytest.raises(ValueError, match="a.webp: is "):
        probe(path)


def test_animated_png(tmp_path, blobs):
    pictures = [Image.fromarray(frame) for frame in blobs(4)]
    pictures[0].save(tmp_path / "a.png", save_all=True, append_images=pictures[1:], duration=[40, 100, 20, 60])
    video = read_video(tmp_path / "a.png")
    assert (video.frames == blobs(4)).all() and [float(time) for time in video.times] == [0, 0.04, 0.14, 0.16]
