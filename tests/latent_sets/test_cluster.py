"""A real Ray cluster on this machine: two nodes' worth of processes, some of them killed."""

import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.latent_sets.conftest import bytes_of, encode
from vidtwin.latent_sets.cluster import Cluster

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes():
    """Two nodes with a processor each, and none for the driver."""
    ray = pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def _workers() -> list[int]:
    """Processes in which Ray runs a `Worker` now."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::" in path.read_bytes() and b"Worker" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_the_same_files_though_workers_are_killed(assets, model, plan, tmp_path, nodes, monkeypatch):
    monkeypatch.setattr("vidtwin.latent_sets.job.PART_BYTES", 16_000)
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(24):
        shutil.copy(assets / "h264_aac.mp4", videos / f"{number:02d}.mp4")
    (videos / "broken.mp4").write_bytes(b"nothing")
    encode(videos, tmp_path / "local", model, plan)
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        draw = random.Random(0)
        while not over.wait(1.0) and len(killed) < 2:
            if pids := _workers():
                pid = draw.choice(pids)
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                time.sleep(2)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        summary = encode(videos, tmp_path / "ray", model, plan, encoder=Cluster(workers=2).encode)
    finally:
        over.set()
        killer.join()
    assert summary.encoded == 24 and [key for key, _ in summary.failures] == ["broken.mp4"]
    assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "local")
    assert killed
