import numpy as np
import pytest

from vidtwin.frames.shots import MEMORY, CutDetector, thumbnail


@pytest.mark.parametrize(
    ("changes", "cuts"),
    [
        ([1.0] * 30 + [40.0] + [1.0] * 30, [31]),
        ([9.0] * 60, []),
        ([20.0] * 30 + [60.0] + [20.0] * 30, [1]),  # in fast motion 60 is none; only the start has no past
        ([], []),
    ],
)
def test_cuts_stand_out_from_the_motion_around_them(changes, cuts):
    detector = CutDetector()
    assert [number for number, change in enumerate(changes, 1) if detector.judge(change)] == cuts


def test_only_the_frames_just_before_matter():
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 256, (12, 40, 50, 3), np.uint8), 9, axis=0)  # twelve shots of nine frames
    whole, late = CutDetector(), CutDetector()
    said = [whole(frame) for frame in frames]
    begin = 70
    assert [late(frame) for frame in frames[begin - MEMORY :]][MEMORY:] == said[begin:]
    assert sum(said) == 11


def test_thumbnails_are_of_any_size():
    for size in ((2, 4), (32, 32), (180, 320), (1080, 1921)):
        picture = thumbnail(np.full((*size, 3), 77, np.uint8))
        assert picture.shape == (32, 32)
        assert np.allclose(picture, 77)
