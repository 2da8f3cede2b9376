"""A folder of short real videos, and what a cache of it holds."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

from tests.conftest import SMALL
from vidtwin import VidTwin
from vidtwin.latent_sets.items import Item
from vidtwin.latent_sets.job import encode_dataset
from vidtwin.latent_sets.local import Setup, encode_chunk
from vidtwin.latent_sets.plan import Plan
from vidtwin.latent_sets.spool import Entry
from vidtwin.latents.stream import Identity


@pytest.fixture
def videos(assets: Path, tmp_path: Path) -> Path:
    """Five videos that can be read, and two that cannot."""
    folder = tmp_path / "videos"
    for name in ("h264_aac.mp4", "rot90.mp4", "vfr_jitter.mp4", "vp8_alpha.webm", "tiny_2x2.mp4"):
        (folder / name[:1]).mkdir(parents=True, exist_ok=True)
        shutil.copy(assets / name, folder / name[:1] / name)
    (folder / "broken.mp4").write_bytes(b"no video at all")
    (folder / "cut.mp4").write_bytes((assets / "h264_aac.mp4").read_bytes()[:20_000])
    return folder


@pytest.fixture
def plan(model: VidTwin) -> Plan:
    return Plan(SMALL, Identity.of(model, "small"))


def table_of(out: Path) -> Any:
    """All rows, in the order of the parts."""
    return pyarrow.parquet.read_table(sorted((out / "data").glob("part-*.parquet")))


def bytes_of(out: Path) -> dict[str, bytes]:
    """The parts, by name."""
    return {path.name: path.read_bytes() for path in (out / "data").iterdir()}


def in_this_process(setup: Setup, items: Sequence[Item]) -> Iterator[Entry]:
    """An encoder that begins no process, which would take seconds."""
    before = torch.get_num_threads()
    try:
        yield from encode_chunk(setup.engine(), setup, items)
    finally:
        torch.set_num_threads(before)


def encode(videos: Path | str, out: Path, model: VidTwin, plan: Plan, **options: Any) -> Any:
    """In this process, unless options say how many others, or how."""
    here = {} if options.keys() & {"processes", "encoder"} else {"encoder": in_this_process}
    return encode_dataset(str(videos), out, model, plan, **here, **options)
