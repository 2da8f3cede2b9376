import csv

import pytest
import torch

from vidtwin.data.moving_sprites import CLASSES, SIZE, SPEED, WINDOW, class_factors, read_sprite, write_moving_sprites
from vidtwin.data.sprites import SpriteClips
from vidtwin.video import read_video


@pytest.mark.parametrize("label", range(len(CLASSES)), ids=CLASSES)
def test_what_is_drawn_is_read(label):
    factors = class_factors(label, 2, seed=3)
    for number, clip in enumerate(SpriteClips(factors, 2 * WINDOW, 64, 64)[i] for i in range(2)):
        for begin in (0, WINDOW):
            reading = read_sprite(clip[:, begin : begin + WINDOW])
            assert reading.label == CLASSES[label]
            assert reading.velocity == pytest.approx(
                (factors.velocity[number] / 2).tolist(), abs=5e-3
            )  # an edge may leave the frame
            middle = factors.position[number] + (begin / WINDOW - 0.5) * factors.velocity[number] / 2
            assert reading.position == pytest.approx(middle.tolist(), abs=3e-3)
            assert reading.size == pytest.approx(0.8 * factors.size[number], rel=0.15)
            assert reading.straying < 3e-3
            assert SPEED[0] - 0.01 < reading.speed < SPEED[1] + 0.01


def test_what_is_no_straight_way_has_no_class():
    clip = SpriteClips(class_factors(0, 1), WINDOW, 64, 64)[0]
    assert read_sprite(clip).label == "red-east"
    still = clip[:, :1].expand(-1, WINDOW, -1, -1)
    gone = clip.clone()
    gone[:, 8:] = -0.5
    jumping = clip.clone()
    jumping[:, ::2] = clip[:, ::2].flip(-1)
    for other in (torch.zeros_like(clip), still, gone, jumping, torch.full_like(clip, float("-1"))):
        assert read_sprite(other).label is None


def test_a_data_set_is_videos_by_class_and_their_factors(tmp_path):
    shown = []
    path = write_moving_sprites(tmp_path / "out", 1, frames=WINDOW, progress=shown.append)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == list(CLASSES) and sum(shown) == len(CLASSES)
    row = rows[11]
    frames = read_video(path.parent / row["videos"]).frames
    assert frames.shape == (WINDOW, 64, 64, 3)
    reading = read_sprite(torch.from_numpy(frames).permute(3, 0, 1, 2) / 127.5 - 1)
    assert reading.label == row["label"] == row["videos"].split("/")[0]
    assert reading.velocity == pytest.approx((float(row["vx"]), float(row["vy"])), abs=0.01)
    assert SIZE[0] <= float(row["sprite_size"]) <= SIZE[1]
    with pytest.raises(ValueError, match="0 videos of each class: give at least 1"):
        write_moving_sprites(tmp_path / "none", 0)
