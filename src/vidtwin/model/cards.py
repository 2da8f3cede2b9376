"""Model cards: the README.md of a folder of weights, of what is known of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

CARD_FILE = "README.md"
LONGEST = 2**16  # characters of a card that are read
PAPER = "[arXiv 2412.17726](https://arxiv.org/abs/2412.17726)"


def model_card(
    title: str, text: str, load: str, facts: Mapping[str, object], figures: Mapping[str, object] | None, tags: str
) -> str:
    """A card in Markdown: what it is, how it is loaded, facts and, if there are any, figures as tables, and what is not stated."""
    lines = ["---", "library_name: vidtwin", f"tags: [{tags}]", "---", "", f"# {title}", "", text, ""]
    lines += ["```python", *load.splitlines(), "```", "", *_table(facts)]
    if figures:
        lines += ["", "## Figures", "", *_table(figures)]
    missing = "data and its licence, recipe" + ("" if figures else ", figures")
    return "\n".join([*lines, "", f"Not stated yet by whoever trained it: {missing}.", ""])


def _table(rows: Mapping[str, object]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


@dataclass(frozen=True)
class Quality:
    """What a card says of how good weights are.

    Attributes:
        figures: by name, {"PSNR": "28.92 dB"}. on: of which videos, as the card's sentence begins. bad_at: a paragraph.
    """

    figures: dict[str, str] = field(default_factory=dict)
    on: str = ""
    bad_at: str = ""


def read_quality(weights: Path) -> Quality:
    """What the card of a folder of weights states: all empty where there is none, or where it states none.

    Figures are in the first table of the section "Figures": a row for each, as `model_card` writes it, or a column for each, whose
    first row is that of these weights.
    """
    file = weights / CARD_FILE
    if not file.is_file():
        return Quality()
    with file.open(encoding="utf-8", errors="replace") as opened:
        sections = opened.read(LONGEST).split("\n## ")
    by_title = {title.strip(): text.strip() for title, _, text in (section.partition("\n") for section in sections)}
    text, _, table = by_title.get("Figures", "").partition("|")
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in f"|{table}".split("\n\n")[0].splitlines()]
    figures: dict[str, str] = {}
    if len(rows) > 2 and len(set(map(len, rows))) == 1 and len(rows[0]) > 1:
        names, _, first = rows[:3]
        figures = dict(zip(names[1:], first[1:], strict=True)) if any(names) else {name: value for name, value, *_ in rows[2:]}
    bad_at = by_title.get("What it is bad at", "").split("\n\n")[0]
    return Quality(figures, " ".join(text.partition("(")[0].split()), " ".join(bad_at.split()))
