"""Orientation of decoded images: every turn and mirroring of EXIF, beside an ICC profile, in every format that holds them."""

import multiprocessing

import av
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from vidtwin.frames.orientation import UPRIGHT, Orientation
from vidtwin.video import probe, read_video

PICTURE = np.zeros((48, 64, 3), np.uint8)
PICTURE[:16, :20], PICTURE[32:, 50:] = (250, 250, 250), (200, 30, 30)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("exif", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_images_with_a_profile_and_exif_are_read_upright(tmp_path, format, exif):
    path, tags = tmp_path / "a.bin", Image.Exif()  # a name that leaves it to FFmpeg
    tags[0x112] = exif
    Image.fromarray(PICTURE).save(path, format, icc_profile=PROFILE, exif=tags, quality=100)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), int)
    frames = read_video(path).frames
    assert frames.shape == (1, *expected.shape) and np.abs(frames[0] - expected).mean() < 4
    assert (probe(path).height, probe(path).width) == expected.shape[:2]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "I;16", "1"])
def test_a_profile_is_harmless_in_png_of_every_kind(tmp_path, mode):
    path = tmp_path / "a.png"
    gray = Image.fromarray(PICTURE[..., 0])
    image = Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 256) if mode == "I;16" else gray.convert(mode)
    image.save(path, icc_profile=PROFILE)
    assert read_video(path).frames.shape == (1, 48, 64, 3)


@pytest.mark.parametrize("name", ["a.mov", "a.avi", "a.apng"])
def test_videos_of_png_with_a_profile_are_read(tmp_path, name):
    """The packets of a file are those of PNG files with a profile."""
    Image.fromarray(PICTURE).save(tmp_path / "a.png", icc_profile=PROFILE)
    path = tmp_path / name
    if name == "a.apng":
        pictures = [Image.fromarray(np.roll(PICTURE, 5 * number, 1)) for number in range(3)]
        pictures[0].save(path, "PNG", save_all=True, append_images=pictures[1:], icc_profile=PROFILE)
    else:
        with av.open(path, "w") as container:
            stream = container.add_stream("png", rate=25)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "rgb24"
            for number in range(3):
                packet = av.Packet((tmp_path / "a.png").read_bytes())
                packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number, number, True
                container.mux(packet)
    frames = read_video(path).frames
    assert frames.shape == (3, 48, 64, 3) and (frames[0] == PICTURE).all()


def turned(path):
    with av.open(path) as container:
        return Orientation.of(next(container.decode(video=0)))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_forked_process_reads_pictures_of_another_kind(assets):
    """As the workers of a DataLoader do, after their parent has read something."""
    turned(assets / "rot90.mp4")
    child = multiprocessing.get_context("fork").Process(target=turned, args=(assets / "h264_10bit.mp4",))
    child.start()
    child.join(60)
    child.kill()
    assert child.exitcode == 0


def test_reading_the_orientation_leaves_a_frame_as_it_was(assets):
    with av.open(assets / "rot90.mp4") as container:
        frame = next(container.decode(video=0))
    before = frame.pts, frame.time_base, frame.to_ndarray(format="rgb24").tobytes()
    assert Orientation.of(frame) == Orientation(True, True, False) != UPRIGHT
    assert (frame.pts, frame.time_base, frame.to_ndarray(format="rgb24").tobytes()) == before
