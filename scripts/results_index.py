"""The index of benchmarks/results: each result, when, at which commit and by which command it was made, and the pages that cite it.

    python scripts/results_index.py  # writes benchmarks/results/README.md

tests/test_results.py holds the index to the folder.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
INDEX = RESULTS / "README.md"
KINDS = ("json", "md", "svg", "txt")
PAGES = ["README.md", "docs/*.md", "src/vidtwin/weights/*/README.md"]
# Written by commands of the package, which do not state how they were called.
COMMANDS = {
    "analysis-tiny": "vidtwin analyze TEST_VIDEOS",
    "dataset-tiny": "python -m benchmarks.dataset",
    "evaluation-mini": "vidtwin evaluate TEST_VIDEOS --weights mini --controls dct resize pca --fit TRAINING_VIDEOS",
    "evaluation-tiny": "vidtwin evaluate TEST_VIDEOS --weights tiny --controls dct resize pca --fit TRAINING_VIDEOS",
    "golden": "python tests/tools/golden.py",
    "rate-distortion-tiny": "vidtwin evaluate TEST_VIDEOS --clips 1 --codecs x264 x265 svtav1 --plot",
}


def results() -> dict[str, list[Path]]:
    """Files by the name of their result."""
    found = defaultdict(list)
    for path in sorted(RESULTS.iterdir()):
        if path != INDEX:
            found[path.stem].append(path)
    return found


def facts(files: list[Path]) -> dict[str, Any]:
    """Command, date and commit, as far as the files state them."""
    stated: dict[str, Any] = {}
    for path in files:
        if path.suffix == ".json":
            values = json.loads(path.read_text())
            stated = values.get("setting", values)
    known = {key: stated[key] for key in ("command", "date", "commit") if isinstance(stated.get(key), str)}
    return {"command": COMMANDS.get(files[0].stem)} | {key: text.strip() for key, text in known.items()}


def cited_by(name: str) -> list[str]:
    """Pages that name a result's file."""
    pages = [page for pattern in PAGES for page in sorted(ROOT.glob(pattern))]
    return [str(page.relative_to(ROOT)) for page in pages if any(f"{name}.{kind}" in page.read_text() for kind in KINDS)]


def index() -> str:
    """The index as Markdown."""
    lines = [
        "# Results",
        "",
        "What was measured, by which command, when, and at which commit of the project (a dash: before files stated it).",
        "`python scripts/results_index.py` writes this page.",
        "",
        "| result | command | date | commit | cited by |",
        "|---|---|---|---|---|",
    ]
    for name, files in results().items():
        found = facts(files)
        links = ", ".join(f"[{path.suffix[1:]}]({path.name})" for path in files)
        pages = ", ".join(f"[{page}](../../{page})" for page in cited_by(name)) or "-"
        date, commit = found.get("date", "-")[:10], found.get("commit", "-")
        lines.append(f"| {name} ({links}) | `{found['command'] or '-'}` | {date} | {commit} | {pages} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    INDEX.write_text(index())
