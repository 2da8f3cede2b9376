"""One HTML file that shows an analysis, and an evaluation beside it: videos to play, pictures, figures, and findings in words.

Nothing is loaded from anywhere: videos and pictures are inside.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from html import escape
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidtwin.analysis.analyze import UNTRAINED, Analysis, quantity
from vidtwin.analysis.codes import Codes, decode, encode_clips
from vidtwin.analysis.pictures import dynamics_maps, interpolation_strips, structure_maps, swap_matrix, tiles
from vidtwin.evaluation.codecs import Point
from vidtwin.evaluation.plots import rate_distortion_plot, spectra_plot
from vidtwin.evaluation.results import digits, unit
from vidtwin.evaluation.scoring import LATENTS
from vidtwin.frames.clips import levels
from vidtwin.frames.panels import LABEL_HEIGHT, side_by_side
from vidtwin.model.latents import Latents
from vidtwin.model.vidtwin import VidTwin
from vidtwin.video.inline import picture, video

SHOWN = 4  # clips as videos and strips, and in the matrix of swaps
STRIP = 5  # frames of a strip
FPS = Fraction(12)  # slower than life, to see what moves
PANELS = ("original", "both", "structure only", "dynamics only")
TITLES = {
    "spectra": "Which frequencies each branch carries",
    "swaps": "What a swap keeps",
    "dependence": "What the latents say of each other",
    "dependence_of_sprites": "The same on sprites, whose factors are drawn independently",
    "probes": "Which factors of sprites each latent tells",
    "rates": "What each latent costs in bits",
}
CONTROL_TITLES = {
    "dct": "3-D DCT, low frequencies",
    "resize": "down- and upsampling",
    "pca": "principal components of patches",
    "grid": "a model with one ordinary latent",
}

STYLE = """
:root { color-scheme: light; }
body { font: 1rem/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem; }
img, video, svg { max-width: 100%; height: auto; display: block; margin: .5rem 0; }
img { image-rendering: pixelated; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.found { border-left: 4px solid #0072B2; padding-left: .8rem; }
.note { color: #555; font-size: .9rem; }
"""


def report(
    model: VidTwin,
    clips: Sequence[Tensor],
    names: Sequence[str],
    analysis: Analysis,
    weights: str,
    evaluation: Mapping[str, Any] | None = None,
) -> str:
    """The page.

    Args:
        model: as `analyze` took it. clips, names: some of its clips, (3, F, H, W) in [-1, 1]; the first of each of the first
            `SHOWN` videos are shown.
        weights: their name.
        evaluation: what `Result.to_dict` gave.
    """
    chosen = [names.index(name) for name in dict.fromkeys(names)][:SHOWN]
    shown, labels = [clips[index] for index in chosen], [names[index] for index in chosen]
    codes = encode_clips(model, shown, labels)
    parts = [
        f"<h1>What the latents of {escape(weights)} hold</h1>",
        f'<p class="found">{escape(analysis.verdict())}</p>',
        f'<p class="note">{escape(_protocol(analysis))}</p>',
        _videos(model, shown, labels, codes),
        _found(analysis),
        "<h2>Swaps</h2><p>Row i, column j: the Structure of clip i with the Dynamics of clip j. Above and at the left the clips "
        "themselves.</p>",
        picture(swap_matrix(model, shown, codes), "matrix of swaps"),
        "<h2>Interpolation</h2><p>From the first clip to the second: both latents, Structure alone, Dynamics alone.</p>",
        picture(interpolation_strips(model, codes, 0, min(1, len(shown) - 1)), "interpolation strips"),
        "<h2>The latents themselves</h2><p>Of the first clip; blue below 0, orange above.</p>",
        "<h3>Structure: the maps of each query, 16 channels a row</h3>",
        picture(structure_maps(codes.latents), "maps of Structure"),
        "<h3>Dynamics: each channel over time (down), along the width above, along the height below</h3>",
        picture(dynamics_maps(codes.latents), "maps of Dynamics") if codes.latents.dynamics_x.shape[1] else "<p>None.</p>",
    ]
    if evaluation is not None:
        parts.append(_evaluation(evaluation))
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f"{meta}<title>{escape(weights)}</title><style>{STYLE}</style>"
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Of text cells; scrolls by itself where it is too wide."""
    cells = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    cells += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f'<div class="wide"><table>{"".join(cells)}</table></div>'


def _levels(clip: Tensor) -> np.ndarray:
    """(3, F, H, W) in [-1, 1] -> uint8 (F, H, W, 3)."""
    return levels(clip).permute(1, 2, 3, 0).cpu().numpy()


def _decodings(model: VidTwin, latents: Latents) -> list[Tensor]:
    """Both, Structure alone, Dynamics alone: (3, F, H, W) each."""
    with torch.inference_mode():
        one = latents.to(model.device)
        return [decode(model, latents)[0], *(model.decode(one, only=part)[0].cpu() for part in ("structure", "dynamics"))]


def _videos(model: VidTwin, clips: Sequence[Tensor], names: Sequence[str], codes: Codes) -> str:
    parts = [
        "<h2>Clips</h2><p>Original, decoded from both latents, from u_S alone, from u_D alone; below, some of their frames.</p>"
    ]
    for number, (clip, name) in enumerate(zip(clips, names, strict=True)):
        panels = [_levels(clip), *map(_levels, _decodings(model, codes.latents[number : number + 1]))]
        at = np.linspace(0, len(panels[0]) - 1, STRIP).round().astype(int)
        strip = tiles([[panel[index] for index in at] for panel in panels])
        parts += [f"<h3>{escape(name)}</h3>", video(side_by_side(dict(zip(PANELS, panels, strict=True))), FPS, f"{name}: {PANELS}")]
        parts.append(f"<details><summary>Frames</summary>{picture(strip, f'frames of {name}')}</details>")
    assert LABEL_HEIGHT % 2 == 0
    return "\n".join(parts)


def _found(analysis: Analysis) -> str:
    """Sentences, figures and tables of the analyses."""
    rows, findings = analysis.table(), analysis.findings["model"]
    parts = ["<h2>What was found</h2>"]
    for name, sentence in analysis.sentences().items():
        parts += [f"<h3>{escape(TITLES.get(name, name))}</h3>", f'<p class="found">{escape(sentence)}</p>']
        if name == "spectra":
            parts.append(spectra_plot(findings.spectra.frequencies, findings.spectra.shares))
        if name == "probes":
            scores = findings.probes.scores
            factors = list(next(iter(scores.values())))
            cells = [[factor, *(f"{scores[source][factor]:.2f}" for source in scores)] for factor in factors]
            parts.append(table(["factor", *scores], cells))
        own = [row for row in rows if row["analysis"] == name]
        others = [other for other in analysis.findings if other not in ("model", UNTRAINED)]
        cells = [
            [
                row["words"],
                *(quantity(row, one) for one in ("model", UNTRAINED)),
                {True: "yes", False: "no", None: "-"}[row["apart"]],
                *(quantity(row, other) for other in others),
            ]
            for row in own
        ]
        parts.append(table(["figure", "these weights", "untrained", "told apart", *others], cells))
    return "\n".join(parts)


def _evaluation(record: Mapping[str, Any]) -> str:
    """Table of an evaluation, with its protocol."""
    rows = [
        [name, f"{i['mean']:.{digits(name)}f}", f"{i['low']:.{digits(name)}f} to {i['high']:.{digits(name)}f}", unit(name).strip()]
        for name, i in record["intervals"].items()
    ]
    rows += [[name, f"{value:.4f}", "", ""] for name, value in record["distances"].items()]
    videos = [
        [name, str(scores["clips"]), f"{scores['psnr']:.2f}", f"{scores['ssim']:.4f}"] for name, scores in record["videos"].items()
    ]
    missing = "".join(f"<li>{escape(name)}: not measured, {escape(why)}</li>" for name, why in record["missing"].items())
    protocol = ", ".join(f"{key} {value}" for key, value in record["protocol"].items() if not isinstance(value, dict))
    return "\n".join(
        [
            "<h2>Evaluation</h2>",
            f'<p class="note">{escape(protocol)}</p>',
            table(["metric", "mean", "95 % interval", "unit"], rows),
            f"<ul>{missing}</ul>" if missing else "",
            _controls(record),
            _rate_distortion(record.get("rate_distortion", {})),
            "<h3>Videos</h3>",
            table(["video", "clips", "PSNR in dB", "SSIM"], videos),
        ]
    )


def _controls(record: Mapping[str, Any]) -> str:
    """A sentence and a table: what others make of as many values."""
    facts = record["protocol"].get("controls", {})
    if not facts:
        return ""
    ours = record["overall"]["psnr"]
    psnr = {name: record["overall"][f"psnr_{name}"] for name in facts}
    worse, better = ([name for name in psnr if (psnr[name] < ours) is less] for less in (True, False))
    parts = [f"{how} than {', '.join(names)}" for how, names in (("better", worse), ("no better", better)) if names]
    sentence = f"At as many values these weights are {' and '.join(parts)}."
    rows = [["these weights", str(record["protocol"]["latent_values"]), f"{ours:.2f}"]]
    rows += [[CONTROL_TITLES[name], str(facts[name]["values"]), f"{psnr[name]:.2f}"] for name in facts]
    return "\n".join(
        [
            "<h3>Controls: as many values without the model</h3>",
            f'<p class="found">{escape(sentence)}</p>',
            table(["", "values a clip", "PSNR in dB"], rows),
        ]
    )


def _rate_distortion(curves: Mapping[str, Any]) -> str:
    """A sentence, the curves and their points."""
    if not curves:
        return ""
    points = {name: [Point(**point) for point in listed] for name, listed in curves.items()}
    rows = [
        [name, f"{point.quality:.4g}", f"{point.bits / 1000:.2f}", f"{point.psnr:.2f}"] for name in points for point in points[name]
    ]
    text = "Real bits of a clip, as written: latents quantised in steps of their sigma and entropy-coded; encoders at their best."
    return "\n".join(
        [
            "<h3>Rate and distortion</h3>",
            f"<p>{text}</p>",
            f'<p class="found">{escape(compared(points))}</p>',
            rate_distortion_plot(points),
            f"<details><summary>Points</summary>{table(['', 'step or CRF', 'kbit', 'PSNR in dB'], rows)}</details>",
        ]
    )


def compared(points: Mapping[str, Sequence[Point]]) -> str:
    """What each codec reaches with as many bits as the latents' cheapest point within 0.5 dB of their best."""
    ours = sorted(points[LATENTS], key=lambda point: point.bits)
    best = max(point.psnr for point in ours)
    ours_at = next(point for point in ours if point.psnr > best - 0.5)
    said = []
    for name in points:
        if name != LATENTS:
            curve = sorted(points[name], key=lambda point: point.bits)
            rates, psnr = [np.log(point.bits) for point in curve], [point.psnr for point in curve]
            text = f"{name} {np.interp(np.log(ours_at.bits), rates, psnr):.1f} dB"  # beyond its ends that of the end
            for end, how, beyond in ((0, "fewest", ours_at.bits < curve[0].bits), (-1, "most", ours_at.bits > curve[-1].bits)):
                text += f" at its {how}, {curve[end].bits / 1000:.1f} kbit" if beyond else ""
            said.append(text)
    return f"The latents have {ours_at.psnr:.1f} dB at {ours_at.bits / 1000:.1f} kbit a clip; with as many bits {', '.join(said)}."


def _protocol(analysis: Analysis) -> str:
    p = analysis.protocol
    return (
        f"{p['clips']} clips of {p['videos']} videos, {p['sprites']} sprites, seed {p['seed']}, {p['dtype']} on {p['device']}, "
        f"weights {p['weights_hash']['model'][:12]}, torch {p['versions']['torch']}, vidtwin {p['versions']['vidtwin']}"
    )
