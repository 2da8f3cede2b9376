import pytest
import torch

from tests.conftest import SMALL
from vidtwin.data.videos import TrainingClips, find_videos, usable_videos


@pytest.fixture
def clips(assets):
    videos, _ = usable_videos([assets / "h264_aac.mp4", assets / "rot90.mp4", assets / "vfr_jitter.mp4"], 16, None)
    return TrainingClips(videos, SMALL, None, flip=True, seed=3)


def test_an_item_depends_on_its_number_alone(clips, assets):
    again = TrainingClips(clips.videos, SMALL, None, flip=True, seed=3)
    for index in (7, 0, 100):
        assert torch.equal(clips[index], again[index])
    assert clips[0].dtype == torch.uint8
    assert clips[0].shape == SMALL.clip_shape
    assert not torch.equal(clips[0], TrainingClips(clips.videos, SMALL, None, flip=True, seed=4)[0])


def test_clips_differ_from_round_to_round(clips):
    assert len({clips[index].float().mean().item() for index in range(12)}) == 12


def test_videos_that_cannot_be_used_are_listed_with_the_reason(assets):
    videos, failures = usable_videos(find_videos(assets), 40, None)
    assert assets / "h264_aac.mp4" in videos
    assert failures[assets / "vfr_jitter.mp4"] == "36 frames, a clip needs 40"
    assert "audio_only.mp4" in failures[assets / "audio_only.mp4"]
    assert set(videos) | set(failures) == set(find_videos(assets))


def test_a_sample_rate_takes_whole_strides(assets):
    slow = usable_videos([assets / "h264_aac.mp4"], 16, 8.0)  # 25 / 8 -> stride 3: 46 of 50 frames
    assert slow[0]
    assert usable_videos([assets / "h264_aac.mp4"], 16, 6.0)[1]
    assert TrainingClips(slow[0], SMALL, 8.0, flip=False, seed=0)[0].shape == SMALL.clip_shape


def test_folders_without_videos_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no videos"):
        find_videos(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_videos(tmp_path / "no")
