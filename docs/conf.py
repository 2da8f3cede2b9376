"""How the manual is built: sphinx-build -W docs OUT. The page of commands is made of their own help."""

import io
import os
import re
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from vidtwin import __version__
from vidtwin.cli import COMMANDS, main

HERE = Path(__file__).parent

project, author, copyright = "vidtwin", "the vidtwin authors", "the vidtwin authors; MIT licence"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
myst_links_external_new_tab = False
html_theme = "furo"
html_title = f"vidtwin {release}"
html_theme_options = {"light_css_variables": {"code-font-size": "0.75rem"}}  # 98 characters at 1200 pixels
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
exclude_patterns = ["_build"]
linkcheck_ignore = [r"http://127\.0\.0\.1.*"]


def commands_page() -> str:
    """Every command's options, from its help."""
    about = "This page lists every command with its `--help`. Options such as `--weights` mean the same wherever they occur."
    lines = ["# Commands", "", about, ""]
    os.environ |= {"NO_COLOR": "1", "COLUMNS": "98", "TERM": "dumb"}
    for name in COMMANDS:
        with io.TextIOWrapper(io.BytesIO(), "utf-8") as shown:  # with an encoding, by which boxes are drawn
            with redirect_stdout(shown), suppress(SystemExit):
                main([name, "--help"])
            shown.seek(0)
            lines += [f"## {name}", "", "```text", shown.read().strip(), "```", ""]
    return "\n".join(lines)


def outside_pages_as_files(app: Any, name: str, source: list[str]) -> None:
    """Markdown files outside of the manual are linked as files."""
    source[0] = re.sub(r"\]\((\.\./[^)#]+\.md)\)", r"](path:\1)", source[0])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", outside_pages_as_files)
    page = HERE / "commands.md"
    text = commands_page()
    if not page.exists() or page.read_text() != text:
        page.write_text(text)
