"""scripts/moving_photos.py: its clips are whole, the same each time, and show nothing beyond the photograph."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts import moving_photos
from vidtwin.video import read_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With one bright photograph of noise."""
    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(0).integers(100, 256, (75, 125, 3), np.uint8)
    Image.fromarray(noise).resize((1000, 600), Image.Resampling.NEAREST).save(tmp_path / "photos" / "noise.jpg")
    return tmp_path


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving_photos, "FRAMES", 6)


def test_clips_have_their_size_and_are_the_same_again(folder: Path, short: None) -> None:
    moving_photos.move(folder, 2)
    files = sorted((folder / "clips").iterdir())
    assert [file.name for file in files] == ["noise_0.mp4", "noise_1.mp4"]
    written = [file.read_bytes() for file in files]
    assert written[0] != written[1]
    for file in files:
        video = read_video(file)
        assert video.fps == 25 and video.frames.shape in [(6, 256, 256, 3), (6, 256, 320, 3)]
        assert (video.frames[0] != video.frames[-1]).any()
    moving_photos.move(folder, 2)
    assert [file.read_bytes() for file in files] == written


def test_no_frame_is_dark_where_the_photograph_is_bright(folder: Path, short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving_photos, "exposure", lambda rng: np.ones(6))
    photo = Image.open(folder / "photos" / "noise.jpg")
    for seed in range(4):
        frames = moving_photos.draw_clip(np.random.default_rng(seed), photo, photo)
        assert frames.min() > 50  # sharp edges overshoot


@pytest.mark.parametrize("photo", [(1440, 720), (720, 1080), (600, 600)])
def test_the_camera_stays_inside_the_photograph(photo: tuple[int, int]) -> None:
    for seed in range(40):
        size = np.array([(256, 320)[seed % 2], 256])
        path = moving_photos.camera_path(np.random.default_rng(seed), np.array(photo), size)
        for a, b, left, d, e, top in moving_photos.affine(*path, size):
            corners = [(x, y) for x in (0, 2 * size[0]) for y in (0, 2 * size[1])]
            at = np.array([(a * x + b * y + left, d * x + e * y + top) for x, y in corners])
            assert (at > 2).all() and (at < np.array(photo) - 2).all()


def test_a_piece_in_front_turns_about_its_middle() -> None:
    size = np.array([320, 256])
    other = Image.new("RGB", (700, 600), "white")
    piece, placed = moving_photos.moving_piece(np.random.default_rng(1), other, size)
    assert piece.getchannel("A").getextrema() == (0, 255)
    a, b, left, d, e, top = placed[moving_photos.FRAMES // 2]  # when it is in sight
    x, y = np.linalg.solve([[a, b], [d, e]], np.array(piece.size) / 2 - [left, top]) / 2
    assert 0 < x < 320 and 0 < y < 256


def test_a_folder_without_photographs_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="^[^\n]*photos: has no photographs; run collect first$"):
        moving_photos.move(tmp_path, 1)


def test_a_small_photograph_is_one_line(folder: Path) -> None:
    Image.new("RGB", (500, 300)).save(folder / "photos" / "a.jpg")
    with pytest.raises(SystemExit, match="^[^\n]*a.jpg: is 500x300; use photographs of at least 600 pixels a side$"):
        moving_photos.move(folder, 1)


def test_every_photograph_has_a_licence_and_authors_and_is_counted_on_the_page() -> None:
    rows = list(csv.DictReader(moving_photos.LIST.open(encoding="utf-8", newline="")))
    assert all(all(row.values()) for row in rows) and len({row["photo"] for row in rows}) == len(rows)
    page = (Path(__file__).parents[1] / "docs" / "photographs.md").read_text(encoding="utf-8")
    for package in {row["package"] for row in rows}:
        count = sum(row["package"] == package for row in rows)
        assert f"| {package} | {count} |" in page
    for row in rows:
        assert all(author in page for author in row["authors"].split("; ")) and row["licence"] in page, row
