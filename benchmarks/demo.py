"""How fast the page answers, in a real browser, and whether ten visitors at once are all served.

    python -m benchmarks.demo [--weights tiny] [--pictures docs]

A server of its own; seconds until the first visitor can play the example, which warms it up. Then `--repeats` times the seconds
from a click on the clip "Walking" to a player that can play the result, and once ten visitors who all click at the same time.
Writes benchmarks/results/demo-WEIGHTS.json. `--pictures`: a folder for two screenshots, wide and narrow; with `--repeats 0` these
alone are made.
"""

import argparse
import io
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.setting import setting, write_results

VISITORS = 10
CLIP = "#a-2"
ANSWERED = "document.querySelector('#status-a')?.innerText.includes('Walking: ')"
READY = f"{ANSWERED} && document.querySelector('#panels video')?.readyState >= 2"
EXAMPLE = "document.querySelector('#two') && document.querySelector('#panels video')?.readyState >= 2"
WAIT = 300_000  # ms


def visit(browser: Browser, url: str, size: tuple[int, int] = (1200, 900)) -> Page:
    page = browser.new_context(viewport={"width": size[0], "height": size[1]}).new_page()
    page.set_default_timeout(WAIT)
    page.goto(url)
    page.wait_for_function(EXAMPLE)
    return page


def answer(page: Page) -> float:
    """Seconds from the click to a result that can be played."""
    begun = time.perf_counter()
    page.click(CLIP)
    page.wait_for_function(READY)
    return time.perf_counter() - begun


def pictures(browser: Browser, url: str, folder: Path) -> None:
    """Of a page as it opens, its example in the middle."""
    for name, size in (("page-wide", (1000, 1120)), ("page-narrow", (390, 1180))):
        page = visit(browser, url, size)
        page.evaluate("const v = document.querySelector('#panels video'); v.pause(); v.currentTime = 0.8; v.controls = false")
        page.wait_for_timeout(1000)
        page.mouse.move(0, 0)
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        picture.quantize(128).save(folder / f"{name}.png", optimize=True)  # a third of the bytes
        page.context.close()


def measured(browser: Browser, url: str, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds that one visitor waits, in turn; seconds that each of ten waits, who click at once."""
    seconds = []
    for _ in range(repeats):
        page = visit(browser, url)
        seconds.append(answer(page))
        page.context.close()
    pages = [visit(browser, url) for _ in range(VISITORS)]
    begun = time.perf_counter()
    for page in pages:
        page.click(CLIP)
    waited = []
    for page in pages:
        page.wait_for_function(READY)
        waited.append(time.perf_counter() - begun)
    for page in pages:
        page.context.close()
    return seconds, waited


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args(arguments)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        parser.error("no Chromium here; apt-get install chromium")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "vidtwin", "demo", "--port", str(port), "--weights", options.weights]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            begun = time.perf_counter()
            page = visit(browser, url)
            example = time.perf_counter() - begun
            page.context.close()
            seconds, waited = measured(browser, url, options.repeats) if options.repeats else ([], [])
            if options.pictures is not None:
                pictures(browser, url, options.pictures)
            browser.close()
    finally:
        server.terminate()
        server.wait()
    if not options.repeats:
        return 0
    results: dict[str, Any] = {
        "setting": setting("cpu", arguments),
        "example_seconds": example,
        "seconds": seconds,
        "median_seconds": statistics.median(seconds),
        "visitors": VISITORS,
        "served": len(waited),
        "last_visitor_seconds": max(waited),
    }
    write_results(f"demo-{Path(options.weights).name}", results)
    print({name: value for name, value in results.items() if name != "setting"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
