"""Model cards: the README.md of a folder of weights, of what is known of them."""

from collections.abc import Mapping

CARD_FILE = "README.md"
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
