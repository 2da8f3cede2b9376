import gc
import itertools
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, get_worker_info

from tests.conftest import SMALL
from tests.data.conftest import STEP
from vidtwin.data.clips import TrainingClips, box, collate, first_frames, validation_clips
from vidtwin.data.sources import Recording
from vidtwin.video import Encoding, VideoWriter

CONFIG = replace(SMALL, frames=8)


def clips_of(recordings, config=CONFIG, sample_fps=None, flip=False, short_side=None, seed=3):
    return TrainingClips(recordings, config, sample_fps, flip, short_side, seed)


def numbers_of(clip):
    """uint8 (3, F, H, W) from `grey_video` -> frame numbers."""
    return [round(value / STEP) for value in clip.float().mean((0, 2, 3)).tolist()]


def same(a, b):
    return torch.equal(a.clip, b.clip) and a[1:] == b[1:]


@pytest.fixture
def real(assets):
    return [Recording(assets / name) for name in ("h264_aac.mp4", "rot90.mp4", "vfr_jitter.mp4")]


@pytest.fixture
def ramp(tmp_path):
    """A recording whose pixels say where they are: red grows to the right, green downwards; 64x96, 20 frames."""
    rows, columns = np.mgrid[0:64, 0:96]
    picture = np.stack([255 * columns / 95, 255 * rows / 63, np.full((64, 96), 128)], -1).round().astype(np.uint8)
    with VideoWriter(tmp_path / "ramp.mp4", Fraction(25), (64, 96), Encoding(crf=1)) as writer:
        writer.write(np.repeat(picture[None], 20, axis=0))
    return Recording(tmp_path / "ramp.mp4")


def test_an_item_depends_on_its_number_alone(real):
    clips, again = (clips_of(real, SMALL, flip=True, short_side=(32, 64)) for _ in range(2))
    first = {index: clips[index] for index in (0, 1, 5, 100)}
    for index in (100, 5, 0, 1):
        assert same(first[index], again[index])
    assert first[0].clip.dtype == torch.uint8
    assert first[0].clip.shape == SMALL.clip_shape
    assert not torch.equal(first[0].clip, clips_of(real, SMALL, flip=True, short_side=(32, 64), seed=4)[0].clip)
    assert len({clips[index].clip.float().mean().item() for index in range(12)}) == 12  # rounds differ


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(real, workers):
    clips = clips_of([*real, Recording(Path("gone.mp4"))], flip=True)
    loader = DataLoader(clips, 3, sampler=range(6, 18), num_workers=workers, collate_fn=collate)
    for place, batch in enumerate(loader):
        expected = collate([clips[index] for index in range(6 + 3 * place, 9 + 3 * place)])
        assert torch.equal(batch.clips, expected.clips)
        assert batch.indices.dtype == torch.int64
        assert batch.indices.tolist() == expected.indices.tolist()
        assert batch.failures == expected.failures


@pytest.mark.parametrize(("count", "batch", "ranks"), [(12, 4, 2), (7, 6, 3), (10, 5, 5)])
def test_shards_of_a_round_cover_every_recording_once(grey, count, batch, ranks):
    """Rank r takes its slice of each batch; the recordings are told apart by where the clip lies in one video."""
    video = grey("a.mp4", 60)
    clips = clips_of([Recording(video, n, n + 8) for n in range(count)])
    slices = [
        range(begin + rank * batch // ranks, begin + (rank + 1) * batch // ranks)
        for begin in range(0, 2 * count, batch)
        for rank in range(ranks)
    ]
    items = list(itertools.chain(*slices))
    assert items[: 2 * count] == list(range(2 * count))  # no overlap, nothing left out
    shown = [numbers_of(clips[index].clip)[0] for index in items[: 2 * count]]
    assert sorted(shown[:count]) == sorted(shown[count:]) == list(range(count))
    assert shown[:count] != shown[count:]


@pytest.mark.parametrize(("fps", "sample_fps", "stride"), [(25, None, 1), (24, 8, 3), (30, 12, 2), (25, 8, 3), (10, 25, 1)])
def test_strides_are_even(grey, fps, sample_fps, stride):
    """30 at 12 is 2.5, rounded to even; a slower recording gives all its frames."""
    clips = clips_of([Recording(grey("a.mp4", 40, fps=fps))], sample_fps=sample_fps)
    starts = set()
    for index in range(12):
        sample = clips[index]
        numbers = numbers_of(sample.clip)
        assert numbers == list(range(numbers[0], numbers[0] + 8 * stride, stride))
        assert sample.failures == ()
        starts.add(numbers[0])
    assert len(starts) > 4


def test_bounds_are_kept_to_the_frame(grey):
    video = grey("a.mp4", 40)
    clips = clips_of([Recording(video, 10, 21)], sample_fps=25)
    seen = {tuple(numbers_of(clips[index].clip)) for index in range(30)}
    assert seen == {tuple(range(start, start + 8)) for start in range(10, 14)}
    assert first_frames(Recording(video, 30), 8, 1) == range(30, 33)  # up to the end of the file
    assert first_frames(Recording(video, 30, 400), 8, 1) == range(30, 33)
    assert first_frames(Recording(video, 3, 18), 8, 2) == range(3, 4)
    for recording in (Recording(video, 33), Recording(video, 3, 10), Recording(video, 90)):
        with pytest.raises(ValueError, match="frames, a clip needs 8"):
            first_frames(recording, 8, 1)


def test_unusable_recordings_are_passed_over_and_named(grey, assets, tmp_path):
    (tmp_path / "empty.mp4").touch()
    bad = {
        str(tmp_path / "gone.mp4"): "no such file; check the name",
        str(tmp_path / "empty.mp4"): "is empty (0 bytes); get the file again",
        str(grey("short.mp4", 7)): "7 frames, a clip needs 8",
        str(assets / "audio_only.mp4"): "has no video, only audio; choose a video file",
    }
    good = [Recording(grey(f"{n}.mp4", 10)) for n in range(2)]
    clips = clips_of([*map(Recording, map(Path, bad)), *good])
    named = {}
    for index in range(6):
        sample = clips[index]
        assert same(sample, clips[index])
        assert numbers_of(sample.clip) == list(range(numbers_of(sample.clip)[0], numbers_of(sample.clip)[0] + 8))
        named |= dict(sample.failures)
    assert named == bad


def test_a_video_broken_in_the_middle_is_passed_over_where_it_is_broken(clip, tmp_path):
    data = bytearray(clip.read_bytes())
    data[14_000:24_000] = bytes(10_000)
    (tmp_path / "broken.mp4").write_bytes(data)
    recordings = [Recording(tmp_path / "broken.mp4"), Recording(clip)]
    clips = clips_of(recordings)
    samples = [clips[index] for index in range(40)]
    failed = [sample for sample in samples if sample.failures]
    assert 0 < len(failed) < 20  # of the 20 times it was drawn, some
    assert {name for sample in failed for name, _ in sample.failures} == {str(tmp_path / "broken.mp4")}
    assert all("cannot be decoded" in reason for sample in failed for _, reason in sample.failures)
    again = clips_of(recordings)
    assert all(same(sample, again[sample.index]) for sample in reversed(samples))


def test_ten_unusable_recordings_in_a_row_end_it(grey):
    gone = [Recording(Path(f"gone{n}.mp4")) for n in range(3)]
    with pytest.raises(ValueError, match=r"10 recordings in a row .* gone\d.mp4 \(no such file; check the name\)") as caught:
        clips_of(gone)[0]
    assert "\n" not in str(caught.value)
    assert len(clips_of([*gone, Recording(grey("a.mp4"))])[0].failures) <= 3


def test_mirroring_changes_nothing_else(real):
    plain, mirrored = clips_of(real, short_side=(40, 60)), clips_of(real, short_side=(40, 60), flip=True)
    turned = 0
    for index in range(20):
        a, b = plain[index].clip, mirrored[index].clip
        assert torch.equal(a, b) or torch.equal(a.flip(-1), b)
        turned += not torch.equal(a, b)
    assert 4 < turned < 16


def test_jitter_changes_scale_and_place_alone(grey, ramp):
    """The time, and whether it is mirrored, are the same with and without; the scale is what was drawn."""
    grey_recording = [Recording(grey("a.mp4", 40))]
    plain, jittered = clips_of(grey_recording), clips_of(grey_recording, short_side=(32, 64))
    assert all(numbers_of(plain[i].clip) == numbers_of(jittered[i].clip) for i in range(8))

    def spans(clips, count):
        """Source pixels from the first to the last column and row of the clip, and whether it is mirrored."""
        ends = [clips[i].clip.float().mean(1) for i in range(count)]  # (3, H, W)
        across = np.array([((x[0, :, -1] - x[0, :, 0]).mean() * 95 / 255).item() for x in ends])
        down = np.array([((x[1, -1] - x[1, 0]).mean() * 63 / 255).item() for x in ends])
        return across, down

    across, down = spans(clips_of([ramp], flip=True), 30)
    assert np.allclose(np.abs(across), 62, atol=2) and np.allclose(down, 62, atol=2)  # 64x64 of the source's 64x96
    jitter_across, jitter_down = spans(clips_of([ramp], flip=True, short_side=(32, 64)), 30)
    assert np.array_equal(np.sign(across), np.sign(jitter_across))
    assert np.allclose(np.abs(jitter_across), jitter_down, atol=2)  # the aspect is kept
    assert jitter_down.min() < 36 and jitter_down.max() > 56  # 32 of 64 lines to all of them
    _, fixed = spans(clips_of([ramp], short_side=(48, 48)), 5)
    assert np.allclose(fixed, 64 * 32 / 48 - 1, atol=2)


def test_boxes_are_the_models_frame_in_source_pixels():
    assert box((720, 1280), (224, 224), 336) == (480, 480)
    assert box((720, 1280), (224, 224), None) == box((720, 1280), (224, 224), 224) == (720, 720)
    assert box((100, 100), (32, 64), 32) == box((100, 100), (32, 64), None) == (50, 100)  # the model's frame would not fit
    rng = np.random.default_rng(0)
    for _ in range(500):
        (H, W), (h, w) = rng.integers(16, 2000, 2).tolist(), (2 * rng.integers(8, 200, 2)).tolist()
        short = int(rng.integers(min(h, w), 600))
        for height, width in (box((H, W), (h, w), short), box((H, W), (h, w), None)):
            assert 1 <= height <= H and 1 <= width <= W
            assert abs(height * w - width * h) <= max(h, w)  # the model's aspect, to a pixel


@pytest.mark.parametrize("short_side", [(31, 64), (64, 40)])
def test_a_short_side_that_cannot_be_is_refused(real, short_side):
    with pytest.raises(ValueError, match=f"short_side={short_side[0]},{short_side[1]}: must rise, from 32"):
        clips_of(real, short_side=short_side)


def test_validation_clips_are_the_first_of_the_first_recordings(grey):
    video = grey("a.mp4", 30)
    recordings = [
        Recording(Path("gone.mp4")),
        Recording(video, 5, 20),
        Recording(video, 3, 9),
        Recording(video),
        Recording(video, 9),
    ]
    clips, failures = validation_clips(recordings, CONFIG, 2)
    assert clips.shape == (2, *CONFIG.clip_shape)
    assert clips.dtype == torch.float32
    assert [numbers_of((x + 1) * 127.5) for x in clips] == [list(range(5, 13)), list(range(8))]
    assert failures == (("gone.mp4", "no such file; check the name"), (f"{video}[3:9]", "6 frames, a clip needs 8"))
    assert len(validation_clips(recordings, CONFIG, 9)[0]) == 3
    with pytest.raises(ValueError, match="none of 1 recordings holds a clip of 8 frames; .*gone.mp4"):
        validation_clips(recordings[:1], CONFIG, 2)


class Watched(TrainingClips):
    """Says, with every clip, the memory (MB) and the open files of the process that drew it."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        gc.collect() if index % 500 == 0 else None
        worker = get_worker_info()
        return sample._replace(failures=((str(worker.id), f"{index} {usage()[0]} {usage()[1]}"),))


def usage():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_three_thousand_clips_leak_nothing(grey, assets):
    recordings = [Recording(grey(f"{n}.mp4", 12)) for n in range(20)]
    recordings += [Recording(Path("gone.mp4")), Recording(assets / "audio_only.mp4"), Recording(assets / "tiny_2x2.mp4")]
    clips = Watched(recordings, CONFIG, 25.0, True, (32, 48), seed=0)
    memory, files = {}, {}
    for batch in DataLoader(clips, 10, sampler=range(3_000), num_workers=2, collate_fn=collate):
        index = int(batch.indices[-1])
        seen = {"main": usage()} | {w: tuple(map(float, text.split()[1:])) for w, text in batch.failures}
        for process, (megabytes, opened) in seen.items():
            when = "early" if index < 1_000 else "late"  # at most 3 kB a clip
            memory[process, when], files[process, when] = megabytes, opened
    assert set(memory) == {(process, when) for process in ("main", "0", "1") for when in ("early", "late")}
    for process in ("main", "0", "1"):
        print(process, memory[process, "early"], memory[process, "late"], files[process, "early"], files[process, "late"])
        assert memory[process, "late"] - memory[process, "early"] < 7
        assert files[process, "late"] <= files[process, "early"] + 4  # batches on their way are file descriptors
