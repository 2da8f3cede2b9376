"""Pieces of the page, as HTML: lines, players, tables, a curve. Text is escaped."""

from html import escape
from pathlib import Path
from urllib.parse import quote

from vidtwin.demo.studio import Facts, Shown
from vidtwin.files import html_table, in_line

MEASURES = ("PSNR", "SSIM")  # of a card

WIDTH, HEIGHT, BEST = 600, 120, 100.0  # of the curve; dB, above which frames count as equal


def said(text: str, wrong: bool = False) -> str:
    """A line that screen readers speak when it changes."""
    role, kind = ("alert", "said wrong") if wrong else ("status", "said")
    return f'<div class="{kind}" role="{role}">{escape(in_line(text))}</div>'


def address(file: Path) -> str:
    """Of a file that is served."""
    return escape(f"gradio_api/file={quote(str(file))}")


def player(video: Path, what: str) -> str:
    """A video in the browser's own player, which keyboards and screen readers know."""
    return f'<video src="{address(video)}" aria-label="{escape(what)}" controls autoplay loop muted playsinline></video>'


def downloads(video: Path, latents: Path | None = None) -> str:
    files = {"video": video} | ({"latents": latents} if latents is not None else {})
    links = (
        f'<a class="get get-{name}" href="{address(file)}" download="{escape(file.name)}">Download the {name}</a>'
        for name, file in files.items()
    )
    return f'<p class="downloads">{" ".join(links)}</p>'


def measured(shown: Shown, video: Path) -> str:
    """A video that was rebuilt, beside what was measured of it."""
    return (
        f'<div class="measured"><div>{player(video, "Original, reconstruction, Structure only and Dynamics only")}</div>'
        f"<div>{html_table(shown.facts, 'facts')}{curve(shown.psnr)}{downloads(video, shown.clip.latents)}</div></div>"
    )


def curve(psnr: tuple[float, ...]) -> str:
    """PSNR in dB over frames."""
    values = [min(value, BEST) for value in psnr]
    low, high = min(values), max(values)
    step, scale = WIDTH / max(1, len(values) - 1), HEIGHT / max(0.1, high - low)
    points = " ".join(f"{step * number:.1f},{(high - value) * scale:.1f}" for number, value in enumerate(values))
    text = f"PSNR of each frame, {low:.1f} to {high:.1f} dB"
    return (
        f'<figure class="curve"><svg viewBox="-4 -4 {WIDTH + 8} {HEIGHT + 8}" role="img" aria-label="{text}">'
        f'<polyline points="{points}" fill="none" stroke="#0072b2" stroke-width="2.5"/></svg>'
        f"<figcaption>{text}</figcaption></figure>"
    )


def expected(facts: Facts) -> str:
    """Which weights these are, and what their card says of them."""
    quality, lines = facts.quality, [f"Weights: <b>{escape(in_line(facts.weights.name))}</b>."]
    if figures := [f"{name} {value}" for name, value in quality.figures.items() if name in MEASURES]:
        on = f" {quality.on[0].lower()}{quality.on[1:]}" if quality.on else ""
        lines.append(f"Quality to expect, as their card states it: {escape(in_line(' and '.join(figures) + on))}.")
    else:
        lines.append("They have no card that states a quality to expect.")
    if quality.bad_at:
        lines.append(f"Bad at: {escape(in_line(quality.bad_at[0].lower() + quality.bad_at[1:]))}")
    return f'<p class="expected">{" ".join(lines)}</p>'
