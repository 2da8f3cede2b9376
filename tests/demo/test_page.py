"""The page in a real browser."""

import hashlib
import re
import struct
import zlib

import pytest

from vidtwin.latents.file import LatentVideo
from vidtwin.video import read_video

WAIT = 60_000  # ms


@pytest.fixture
def page(server, browser):
    """A visitor; what the page asked others than the server for, and what it complained of, is collected."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.strangers, page.faults = [], []
    known = (server.url, "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(known) else page.strangers.append(request.url))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(server.url)
    page.wait_for_selector("#a-0")
    yield page
    context.close()


def give(page, which, path):
    page.set_input_files(f"#file-{which} input[type=file]", str(path))


def player(page, name):
    """Facts of a video element, once it can play."""
    page.wait_for_selector(f"#{name} video")
    page.wait_for_function(f"document.querySelector('#{name} video')?.readyState >= 2")
    names = ("duration", "currentTime", "videoWidth", "videoHeight")
    return page.evaluate(f"{list(names)}.map(n => document.querySelector('#{name} video')[n])")


def status(page, which, text):
    """Wait until a status says something; while the page is drawn anew there is none."""
    page.wait_for_function(f"document.querySelector('#status-{which}')?.innerText.includes({text!r})")
    return page.inner_text(f"#status-{which}")


def test_a_video_is_rebuilt_played_scrubbed_measured_and_downloaded(page, clip, tmp_path):
    give(page, "a", clip)
    assert "dB, the mean over frames" in status(page, "a", "h264_aac.mp4")
    duration, _, width, height = player(page, "panels")
    assert duration == pytest.approx(2.0, abs=0.1) and (width, height) == (64, 2 * (32 + 20))
    facts = page.inner_text("#panels .facts")
    for text in ("50 frames at 25 a second, 320x180, shown as 32x32", "dB", "for 4 windows", "kB of latents", "s to decode"):
        assert text in facts
    assert page.get_attribute("#panels svg", "aria-label").startswith("PSNR of each frame, ")
    page.wait_for_function("document.querySelector('#panels video').currentTime > 0.1")  # it plays
    page.evaluate("const v = document.querySelector('#panels video'); v.pause(); v.currentTime = 1.5")
    page.wait_for_function("Math.abs(document.querySelector('#panels video').currentTime - 1.5) < 0.05")
    with page.expect_download() as download:
        page.click("#panels .get-latents")
    download.value.save_as(tmp_path / "x.vidtwin")
    assert LatentVideo.load(tmp_path / "x.vidtwin").window_count == 4
    with page.expect_download() as download:
        page.click("#panels .get-video")
    download.value.save_as(tmp_path / "x.mp4")
    assert len(read_video(tmp_path / "x.mp4").frames) == 50
    assert page.strangers == [] and page.faults == []


WATCH = """() => {
    window.lines = new Set(); window.bars = 0;
    const look = () => {
        for (const e of document.querySelectorAll('[aria-live], [role=status], [role=alert]')) lines.add(e.textContent.trim());
        const shown = [...document.querySelectorAll('[data-testid=status-tracker]')].filter(e => !e.classList.contains('hide'));
        bars = Math.max(bars, shown.filter(e => e.offsetParent && e.textContent.trim()).length);
    };
    new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true, attributes: true});
}"""


def tab_to(page, name):
    """Press Tab until an element, or one in it, has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate(f"document.activeElement.closest('#{name}') !== null"):
            return
    raise AssertionError(f"the keyboard does not come to {name}")


def test_it_opens_with_an_example_and_the_quality_to_expect(page):
    assert "dB, the mean over frames" in status(page, "a", "An example, made by these weights: Robot arm")
    assert player(page, "panels")[2:] == [64, 104]
    assert "weights. Quality to expect, as their card states it: PSNR 12.34 dB." in page.inner_text("#weights")
    assert page.locator("#edits").is_visible() and page.locator("#two").is_visible()
    assert page.locator("#way").count() == 0  # needs a second video


def test_clips_edits_and_two_videos_by_keyboard_alone(page):
    page.wait_for_selector("#edits")
    page.evaluate(WATCH)
    tab_to(page, "a-1")
    page.keyboard.press("Enter")
    status(page, "a", "Butterfly: ")
    page.wait_for_selector("#edits")
    tab_to(page, "motion input[type=range]")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    status(page, "edit", "motion 1.3")
    assert player(page, "edited")[2:] == [64, 52]
    tab_to(page, "slow input[type=range]")
    page.keyboard.press("ArrowRight")
    status(page, "edit", "motion 1.3, 2 times as long")
    assert player(page, "edited")[0] == pytest.approx(2 * 64 / 25, abs=0.1)
    tab_to(page, "freeze")
    page.keyboard.press("Enter")
    status(page, "edit", "frozen, 2 times as long")
    tab_to(page, "b-3")
    page.keyboard.press("Enter")
    status(page, "b", "Drawn bar: both swaps")
    assert player(page, "swaps")[2:] == [64, 104]
    tab_to(page, "structure input[type=range]")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    status(page, "mix", "Structure 0.15, Dynamics 0.00")
    tab_to(page, "dynamics input[type=range]")
    page.keyboard.press("End")
    status(page, "mix", "Structure 0.15, Dynamics 1.00")
    assert player(page, "between")[2:] == [32, 32]
    lines = page.evaluate("[...lines]")
    assert [line for line in lines if re.match(r"[a-z_]+\.[a-z_]+$", line)] == []  # Gradio's own names
    assert page.evaluate("bars") == 1
    assert page.strangers == [] and page.faults == []


def test_another_first_video_clears_what_belonged_to_the_one_before(page):
    page.wait_for_selector("#edits")
    page.click("#freeze")
    status(page, "edit", "frozen")
    page.click("#b-1")
    page.wait_for_selector("#way")
    page.click("#a-3")
    status(page, "edit", "Move a slider.")
    page.wait_for_selector("#way", state="detached")
    assert page.locator("#edited video, #swaps video").count() == 0
    assert page.input_value("#motion input[type=range]") == "1"


def test_a_class_is_generated(page):
    page.click("#make")
    status(page, "make", "cat, seed 0")
    assert player(page, "made")[2:] == [32, 32]


def test_narrow_and_wide_pages_do_not_scroll_sideways(page, clip):
    give(page, "a", clip)
    status(page, "a", "h264_aac.mp4: ")
    for width in (1200, 390):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for name in ("file-a", "panels video", "panels .facts", "motion", "freeze", "file-b", "b-3"):
            box = page.locator(f"#{name}").bounding_box()
            assert box["width"] >= (60 if name == "b-3" else 270) and box["x"] + box["width"] <= width, (width, name, box)
        assert page.locator("#panels video").bounding_box()["y"] < 800  # seen without scrolling


def test_reloading_in_mid_work_leaves_a_page_that_works(page, assets, clip):
    for _ in range(2):
        give(page, "a", assets / "vfr_jitter.mp4")
        page.reload()
        page.wait_for_selector("#a-0")
    give(page, "a", clip)
    assert "dB" in status(page, "a", "h264_aac.mp4: ")


def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IEND", b"")


def hostile(assets):
    """Names and contents that must be refused, each with a word of the message."""
    video = (assets / "h264_aac.mp4").read_bytes()
    return {
        "empty.mp4": b"",
        "text.mp4": b"this is no video\n" * 100,
        "zeros.mp4": bytes(100_000),
        "random.mkv": hashlib.shake_256(b"x").digest(100_000),
        "head.mp4": video[:1000],
        "cut.mp4": video[: len(video) // 3],
        "scrambled.mp4": video[:200] + bytes(reversed(video[200:])),
        "playlist.m3u8": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "playlist.mp4": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n#EXT-X-ENDLIST\n",
        "concat.txt": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "session.sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
        "page.html": b"<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>.mp4": b"no video, but a name",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "archive.zip": b"PK\x03\x04" + bytes(60),
        "pickle.pt": b"cposix\nsystem\n(S'id'\ntR.",
        "huge.png": png(2**31 - 1, 2**31 - 1),
        "wide.png": png(60_000, 2),
        "sound.mp4": (assets / "audio_only.mp4").read_bytes(),
        "cover.m4a": (assets / "cover_art_only.m4a").read_bytes(),
        "n" * 200 + ".mp4": b"a long name",
        "script.py": b"import os; os.system('id')",
        "subtitles.srt": b"1\n00:00:00,000 --> 00:00:09,000\nhello\n",
        "many.y4m": b"YUV4MPEG2 W99999 H99999 F25:1 Ip A1:1 C420\nFRAME\n",
    }  # fmt: skip


def test_hostile_files_each_get_a_message_and_the_server_goes_on(page, server, assets, clip, tmp_path):
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    files = hostile(assets)
    assert len(files) >= 20
    for name, content in files.items():
        try:
            (tmp_path / name).write_bytes(content)
        except OSError:
            continue
        page.evaluate("document.querySelector('#status-a').querySelector('div[role]').innerText = 'waiting'")
        give(page, "a", tmp_path / name)
        said = status(page, "a", "did not work")
        assert "fault of this program" not in said, name
        assert str(server.folder) not in said and "/tmp" not in said, (name, said)
        page.wait_for_selector("#file-a button[aria-label=Clear], #file-a button[aria-label=Remove]", state="attached")
        page.click("#file-a button[aria-label=Clear], #file-a button[aria-label=Remove]")
        page.wait_for_selector("#file-a input[type=file]", state="attached")
    assert asked == [] and server.process.poll() is None
    give(page, "a", clip)
    assert "dB" in status(page, "a", "h264_aac.mp4: ")


def test_a_video_beyond_a_limit_is_told_so(page, assets, tmp_path):
    from fractions import Fraction

    import numpy as np

    from vidtwin.video.write.writer import VideoWriter

    with VideoWriter(tmp_path / "long.mp4", Fraction(2), (32, 32)) as writer:
        writer.write(np.zeros((14, 32, 32, 3), np.uint8))
    give(page, "a", tmp_path / "long.mp4")
    said = status(page, "a", "did not work")
    assert "the video is 7 seconds long, the limit here is 5; cut it, or use the command line" in said


def test_two_visitors_at_once_get_their_own(server, browser, assets):
    """And what the one has been given cannot be had by the other by guessing."""
    pages = []
    for name in ("h264_aac.mp4", "rot90.mp4"):
        page = browser.new_context().new_page()
        page.set_default_timeout(WAIT)
        page.goto(server.url)
        page.wait_for_selector("#a-0")
        pages.append((page, name))
    for page, name in pages:
        give(page, "a", assets / name)
    sources = []
    for page, name in pages:
        assert "dB" in status(page, "a", f"{name}: ")
        player(page, "panels")
        sources.append(page.get_attribute("#panels video", "src"))
    assert sources[0] != sources[1]
    digest = hashlib.sha256((assets / "h264_aac.mp4").read_bytes()).hexdigest()
    served = next(path for path in server.files() if path.name == "h264_aac.mp4")
    give(pages[0][0], "b", assets / "rot90.mp4")
    status(pages[0][0], "b", "both swaps")
    mine = [path for path in server.files() if path.name == "latents.vidtwin" and path.parents[1] == served.parents[2]]
    assert digest not in str(served)  # the address is not made of what can be known
    for guess in (
        f"{served.parents[1]}/{digest}/h264_aac.mp4",
        str(mine[0]),
        "/etc/passwd",
        f"{served.parents[1]}/../../../etc/passwd",
    ):
        assert server.get(f"gradio_api/file={guess}") in (403, 404), guess
    for page, _ in pages:
        page.context.close()


@pytest.mark.slow
def test_five_visitors_are_queued_and_none_is_lost(server, browser, clip):
    pages = []
    for _ in range(5):
        page = browser.new_context().new_page()
        page.set_default_timeout(2 * WAIT)
        page.goto(server.url)
        page.wait_for_selector("#a-0")
        pages.append(page)
    for page in pages:
        give(page, "a", clip)
    for page in pages:
        assert "dB" in status(page, "a", "h264_aac.mp4: ")
        page.context.close()


def test_a_forged_value_is_answered_in_a_line_and_the_server_prints_no_traceback(server):
    config, before = server.config(), len(server.said())
    for handler, values, answer in (
        ("show_between", [None, "forged", 7], "Structure is not a number from 0 to 1"),
        ("show_generated", [["forged"], "x", {}], "the seed is not a number"),
        ("show_clip", [None, ["forged"]], "there is no such clip"),
        ("show_edit", [None, 5, 1], "Motion is not a number from 0 to 4"),
        ("show_edit", [None, 1, 1], "there is no first video yet"),
        ("show_second_clip", [None, "Walking"], "there is no first video yet"),
    ):
        number = next(one["id"] for one in config["dependencies"] if one["api_name"] == handler)
        said = server.event(number, values)
        assert "process_completed" in said and answer in said
    assert "Traceback" not in server.said()[before:]
