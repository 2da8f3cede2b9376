"""Videos whose frames say their number, in every kind of source."""

import json
import tarfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vidtwin.video.write.encoding import Encoding
from vidtwin.video.write.writer import VideoWriter

STEP = 4  # grey levels from frame to frame


def grey_video(path: Path, numbers: Sequence[int], fps: int = 25, size: tuple[int, int] = (32, 48)) -> Path:
    """A video whose frame of number n (below 64) is uniform grey, 4 n."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, Fraction(fps), size, Encoding(crf=1)) as writer:
        writer.write(np.stack([np.full((*size, 3), STEP * n, np.uint8) for n in numbers]))
    return path


def numbers_in(frames: np.ndarray) -> list[int]:
    """Frames (F, ...) of `grey_video` -> their numbers."""
    return [round(float(frame.mean()) / STEP) for frame in frames]


@pytest.fixture
def grey(tmp_path: Path) -> Callable[..., Path]:
    """grey(name, frames) -> path of a video in tmp_path with frames 0, 1, ..."""
    return lambda name, frames=40, **options: grey_video(tmp_path / name, range(frames), **options)


CAMERAS = ("observation.images.top", "observation.images.wrist")
LENGTHS = (12, 20, 9)  # of the episodes


def lerobot(folder: Path, version: str, template: str | None = None) -> Path:
    """A data set of three episodes and two cameras; episode e starts at frame number 10 e, + 20 for the second camera."""
    v3 = version.startswith("v3")
    name = "{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}"
    if not v3:
        name = "chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}"
    info = {
        "codebase_version": version,
        "fps": 10,
        "chunks_size": 2,
        "video_path": template or f"videos/{name}.mp4",
        "features": {key: {"dtype": "video"} for key in CAMERAS} | {"action": {"dtype": "float32"}},
    }
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    (_v3 if v3 else _v2)(folder)
    return folder


def episode_numbers(episode: int, camera: int) -> list[int]:
    return [10 * episode + 20 * camera + n for n in range(LENGTHS[episode])]


def _v2(folder: Path) -> None:
    for episode in range(3):
        for camera, key in enumerate(CAMERAS):
            path = folder / "videos" / f"chunk-{episode // 2:03d}" / key / f"episode_{episode:06d}.mp4"
            grey_video(path, episode_numbers(episode, camera), fps=10)
    lines = [json.dumps({"episode_index": e, "tasks": ["x"], "length": n}) for e, n in enumerate(LENGTHS)]
    (folder / "meta" / "episodes.jsonl").write_text("\n".join(lines) + "\n")


def _v3(folder: Path) -> None:
    """Episodes 0 and 1 share a file, episode 2 has its own; the index is in two files."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for camera, key in enumerate(CAMERAS):
        base = folder / "videos" / key / "chunk-000"
        grey_video(base / "file-000.mp4", episode_numbers(0, camera) + episode_numbers(1, camera), fps=10)
        grey_video(base / "file-001.mp4", episode_numbers(2, camera), fps=10)
    for part, episodes in enumerate(((0, 1), (2,))):
        columns: dict[str, list[float]] = {"episode_index": list(episodes), "length": [LENGTHS[e] for e in episodes]}
        for key in CAMERAS:
            columns[f"videos/{key}/chunk_index"] = [0 for _ in episodes]
            columns[f"videos/{key}/file_index"] = [part for _ in episodes]
            columns[f"videos/{key}/from_timestamp"] = [LENGTHS[0] / 10 if e == 1 else 0.0 for e in episodes]
            columns[f"videos/{key}/to_timestamp"] = [(LENGTHS[e] + (LENGTHS[0] if e == 1 else 0)) / 10 for e in episodes]
        path = folder / "meta" / "episodes" / "chunk-000" / f"file-{part:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.table(columns), path)


def pack(path, *members):
    with tarfile.open(path, "w") as tar:
        for file, name in members:
            tar.add(file, arcname=name)
    return path
