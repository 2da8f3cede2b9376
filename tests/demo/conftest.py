"""A real server of a small model, a real browser."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import seeded_model
from tests.generation.conftest import small_pipeline

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Server:
    """`vidtwin demo` in a process of its own, its temporary files in a folder that can be looked into."""

    def __init__(self, folder: Path, *options: str):
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "vidtwin", "demo", "--device", "cpu", "--port", str(self.port), *options]
        environment = os.environ | {"TMPDIR": str(folder), "no_proxy": "127.0.0.1"}
        self.log = (folder.parent / f"{folder.name}.log").open("w+")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, env=environment)
        deadline = time.monotonic() + 300  # two processes import torch, on a machine that may do other things
        while "open http" not in self.said():
            assert self.process.poll() is None and time.monotonic() < deadline, self.said()
            time.sleep(0.1)

    def said(self) -> str:
        self.log.flush()
        return Path(self.log.name).read_text()

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def stop(self) -> int:
        self.process.terminate() if self.process.poll() is None else None
        return self.process.wait(30)

    def config(self) -> dict[str, Any]:
        """What the page is made of."""
        with urllib.request.urlopen(self.url + "config", timeout=30) as answer:
            return dict(json.load(answer))

    def event(self, number: int, values: list[Any]) -> str:
        """What the server says of an event with these values, whatever page they come from."""
        body = json.dumps({"fn_index": number, "data": values, "session_hash": "forged"}).encode()
        post = urllib.request.Request(self.url + "gradio_api/queue/join", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(post, timeout=30).close()
        said = ""
        with urllib.request.urlopen(self.url + "gradio_api/queue/data?session_hash=forged", timeout=60) as answer:
            while "process_completed" not in said and (line := answer.readline()):
                said += line.decode()
        return said

    def get(self, path: str) -> int:
        """The status of a request."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return int(error.code)


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "weights"
    seeded_model().save_pretrained(folder, figures={"PSNR": "12.34 dB"})
    return folder


@pytest.fixture(scope="session")
def server(weights, tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    small_pipeline().save_pretrained(folder / "generator")
    running = Server(folder / "files", "--weights", str(weights), "--generator", str(folder / "generator"), "--max-seconds", "5")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here; apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()
