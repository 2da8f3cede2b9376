"""Figures of results as SVG text, readable in print and by the colour-blind: lines differ in mark and dash, not in colour alone."""

import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from vidtwin.evaluation.codecs import Point

# Okabe and Ito's colours, with a mark and a dash each.
STYLES = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#CC79A7", "D", ":"),
    ("#E69F00", "v", "-"),
    ("#56B4E9", "P", "--"),
)


def rate_distortion_plot(curves: Mapping[str, Sequence[Point]], levels: Mapping[str, float] | None = None) -> str:
    """Curves by name, over a logarithmic rate; `levels` are PSNRs without a rate, as thin lines."""
    figure = Figure(figsize=(6.4, 4.2))
    axes = figure.add_subplot()
    for (name, points), (colour, mark, dash) in zip(curves.items(), STYLES, strict=False):
        kbits, psnr = zip(*sorted((point.bits / 1000, point.psnr) for point in points), strict=True)
        axes.plot(kbits, psnr, dash, color=colour, marker=mark, markersize=5, label=name)
    for name, value in (levels or {}).items():
        axes.axhline(value, color="0.5", linewidth=0.8)
        axes.annotate(name, (0.99, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8, color="0.3")
    axes.set_xscale("log")
    axes.set(xlabel="kbit a clip", ylabel="PSNR in dB")
    axes.grid(alpha=0.3)
    axes.legend()
    return svg(figure)


def spectra_plot(frequencies: Sequence[float], shares: Mapping[str, Sequence[float | None]]) -> str:
    """Shares of the input's power that each decoding reproduces, over frequencies in cycles per frame; below 0 is cut off."""
    figure = Figure(figsize=(6.4, 3.6))
    axes = figure.add_subplot()
    for (name, values), (colour, mark, dash) in zip(shares.items(), STYLES, strict=False):
        heights = [float("nan") if value is None else value for value in values]
        axes.plot(frequencies, heights, dash, color=colour, marker=mark, markersize=4, label=name)
    axes.set(xlabel="cycles per frame", ylabel="share of power", ylim=(-0.25, 1.05))
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.grid(alpha=0.3)
    axes.legend()
    return svg(figure)


def svg(figure: Figure) -> str:
    """The same text for the same figure."""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context({"svg.hashsalt": "vidtwin", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return out.getvalue()[out.getvalue().index("<svg") :]  # without the declaration, which has no place inside a page
