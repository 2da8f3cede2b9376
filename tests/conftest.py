"""Shared fixtures: carried real videos, a small model with seeded weights, and its checkpoint folder."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from vidtwin import VidTwin, VidTwinConfig

SMALL = VidTwinConfig(
    frames=16,
    height=32,
    width=32,
    patch=8,
    hidden=16,
    depth=1,
    heads=2,
    num_queries=4,
    query_dim=8,
    query_layers=2,
    query_heads=2,
    query_mlp=16,
    structure_channels=4,
    structure_width=8,
    dynamics_channels=4,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.fixture(autouse=hasattr(os, "sched_getscheduler"))
def scheduled_as_usual() -> Iterator[None]:
    """A real-time process, which SVT-AV1 makes of one of root, starves all others; the tests after it would hang."""
    yield
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def seeded_model(config: VidTwinConfig = SMALL, seed: int = 0) -> VidTwin:
    """Random weights, temporal attention included (it starts at zero otherwise)."""
    torch.manual_seed(seed)
    model = VidTwin(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "temporal_attention" in name:
                parameter.normal_(std=0.3)
    return model.eval()


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that one of the processes of a test run makes, for all of them; tests only read it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            partial = folder.with_suffix(".partial")
            partial.mkdir()  # fails where another process has failed
            make(partial)
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def assets() -> Path:
    return Path(__file__).parent / "assets"


@pytest.fixture
def clip(assets: Path) -> Path:
    """A real H.264 file with sound: 50 frames of 320x180 at 25 per second."""
    return assets / "h264_aac.mp4"


@pytest.fixture(scope="session")
def model() -> VidTwin:
    return seeded_model()


@pytest.fixture(scope="session")
def weights(model: VidTwin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's checkpoint folder."""
    folder = tmp_path_factory.mktemp("weights") / "small"
    model.save_pretrained(folder)
    return folder
