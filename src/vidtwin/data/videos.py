"""Training clips from a folder of videos. Clip number i is a function of the seed and i alone, so that any run can be
resumed, with any number of workers, by saying which number comes next."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vidtwin.model.config import VidTwinConfig
from vidtwin.video.clips import Geometry, frame_interval, to_clip
from vidtwin.video.read import frame_count, probe, read_clip

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".ogv", ".gif")


def find_videos(folder: str | Path) -> list[Path]:
    """The video files of a folder and its subfolders, by suffix, sorted.

    Raises:
        FileNotFoundError: no such folder, or no video in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give a folder of videos")
    videos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not videos:
        raise FileNotFoundError(f"{folder}: no videos ({', '.join(SUFFIXES)}) in it or its subfolders")
    return videos


def usable_videos(videos: list[Path], frames: int, sample_fps: float | None) -> tuple[list[Path], dict[Path, str]]:
    """Split into videos with at least one clip of `frames` frames, and a failure list: path -> why it is left out."""
    usable, failures = [], {}
    for path in videos:
        try:
            needed = (frames - 1) * _stride(path, sample_fps) + 1
            count = frame_count(path)
            if count >= needed:
                usable.append(path)
            else:
                failures[path] = f"{count} frames, a clip needs {needed}"
        except (ValueError, OSError) as error:
            failures[path] = str(error)
    return usable, failures


class TrainingClips(Dataset[Tensor]):
    """Random clips: item i is uint8 (3, F, H, W).

    Each round of len(videos) items visits every video once, in an order of its own; the start, the crop (the largest box of
    the model's aspect, at a random place) and a horizontal flip are drawn per item.
    """

    def __init__(self, videos: list[Path], config: VidTwinConfig, sample_fps: float | None, flip: bool, seed: int):
        self.videos, self.config, self.sample_fps, self.flip, self.seed = videos, config, sample_fps, flip, seed

    def __getitem__(self, index: int) -> Tensor:
        round_, place = divmod(index, len(self.videos))
        path = self.videos[np.random.default_rng((self.seed, 0, round_)).permutation(len(self.videos))[place]]
        draw = np.random.default_rng((self.seed, 1, index))
        frames, height, width = self.config.frames, self.config.height, self.config.width

        stride = _stride(path, self.sample_fps)
        start = draw.integers(frame_count(path) - (frames - 1) * stride)
        clip = read_clip(path, int(start), frames, stride)  # (F, H, W, 3)

        source_height, source_width = clip.shape[1:3]
        box_height = min(source_height, max(1, source_width * height // width))
        box_width = min(source_width, max(1, source_height * width // height))
        top, left = draw.integers(source_height - box_height + 1), draw.integers(source_width - box_width + 1)
        clip = clip[:, top : top + box_height, left : left + box_width]
        if self.flip and draw.random() < 0.5:
            clip = clip[:, :, ::-1]
        x = to_clip(np.ascontiguousarray(clip), Geometry.plan("crop", (box_height, box_width), (height, width)))
        return ((x + 1) * 127.5).round().to(torch.uint8)


def _stride(path: Path, sample_fps: float | None) -> int:
    return 1 if sample_fps is None else frame_interval(probe(path).fps, sample_fps)
