"""The page of an analysis, of a small real model."""

import base64
import io
import re

import av
import pytest
import torch

from tests.conftest import SMALL
from vidtwin.analysis.analyze import analyze
from vidtwin.analysis.report import PANELS, picture, report
from vidtwin.data.sprites import SpriteClips, draw_factors

CLIPS = SpriteClips(draw_factors(10, seed=5), SMALL.frames, SMALL.height, SMALL.width)
NAMES = [f"<b>{number}</b>.mp4" for number in range(10)]
EVALUATION = {
    "protocol": {
        "weights": "<i>odd</i>",
        "tail": "repeat",
        "latent_values": 100,
        "controls": {"dct": {"values": 99}, "resize": {"values": 96}},
        "model": {},
        "versions": {},
    },
    "intervals": {"psnr": {"mean": 20.0, "low": 19.0, "high": 21.0}},
    "distances": {},
    "missing": {"fvd": "the network was not given"},
    "videos": {"<u>a</u>.mp4": {"clips": 3, "psnr": 20.0, "ssim": 0.5}},
    "overall": {"psnr": 20.0, "psnr_dct": 21.0, "psnr_resize": 19.0},
    "rate_distortion": {
        "latents": [
            {"quality": 1.0, "bits": 40_000.0, "psnr": 20.0},
            {"quality": 8.0, "bits": 10_000.0, "psnr": 19.8},
            {"quality": 64.0, "bits": 1_000.0, "psnr": 12.0},
        ],
        "x264": [{"quality": 24.0, "bits": 90_000.0, "psnr": 30.0}, {"quality": 44.0, "bits": 1_000.0, "psnr": 15.0}],
        "x265": [{"quality": 24.0, "bits": 90_000.0, "psnr": 30.0}, {"quality": 44.0, "bits": 20_000.0, "psnr": 25.0}],
    },
}


@pytest.fixture(scope="module")
def page(model) -> str:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # products this small only wait for each other in several
    try:
        clips = [CLIPS[index] for index in range(10)]
        return report(model, clips, NAMES, analyze(model, clips, NAMES, sprites=40), "<s>weights</s>", EVALUATION)
    finally:
        torch.set_num_threads(threads)


def test_everything_is_inside(page):
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page) and "@import" not in page
    assert page.count("<video") == 4 and page.count("<svg") == 2 and page.count("<img") == 4 + 4
    for title in ("What was found", "Swaps", "Interpolation", "Structure: the maps", "Dynamics: each channel", "Evaluation"):
        assert title in page
    assert page.count('class="found"') == 1 + 6 + 2
    assert "better than resize and no better than dct." in page
    assert "20.0 dB at 10.0 kbit" not in page  # within half a dB of the best is enough
    assert (
        "The latents have 19.8 dB at 10.0 kbit a clip; with as many bits x264 22.7 dB, x265 25.0 dB at its fewest, 20.0 kbit."
        in page
    )
    assert "fvd: not measured, the network was not given" in page


def test_names_are_text(page):
    assert "<b>" not in page and "<i>" not in page and "<u>" not in page and "<s>" not in page
    assert "&lt;b&gt;0&lt;/b&gt;.mp4" in page and "&lt;s&gt;weights&lt;/s&gt;" in page


def test_videos_play(page):
    data = base64.b64decode(re.search(r'src="data:video/mp4;base64,([^"]+)"', page).group(1))
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == SMALL.frames and frames[0].width == len(PANELS) * SMALL.width


def test_photographs_are_jpeg_and_drawings_png():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (64, 64, 3), generator=generator, dtype=torch.uint8).numpy()
    assert "image/png" in picture(noise * 0, "black") and picture(noise, 'a"b').startswith('<img alt="a&quot;b" src="data:image/')
