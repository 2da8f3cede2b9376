"""The notebooks in examples/ run, cell after cell, in a fresh process and a folder of their own."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
RUN = """
import json, sys
names = {"__name__": "__main__"}
for number, cell in enumerate(json.load(open(sys.argv[1], encoding="utf-8"))["cells"]):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
"""


def run(name: str, folder: Path) -> str:
    """What the cells print."""
    shutil.copytree(ROOT / "examples" / "assets", folder / "assets")
    command = [sys.executable, "-c", RUN, str(ROOT / "examples" / name)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_no_outputs_and_their_cells_compile(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    assert (book["nbformat"], len({cell["id"] for cell in book["cells"]})) == (4, len(book["cells"]))
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            compile("".join(cell["source"]), path.name, "exec")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_and_pages_of_the_manual_lead_to_each_other(path):
    text = "".join("".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"])
    links = re.findall(r"\]\((\.\./docs/[\w-]+\.md)\)", text)
    assert len(links) >= 3 and all((path.parent / link).is_file() for link in links)
    assert f"(../examples/{path.name})" in (ROOT / "docs" / "index.md").read_text()


def test_every_video_of_the_examples_is_attributed():
    assets = ROOT / "examples" / "assets"
    named = re.findall(r"^\| (\S+\.mp4) \|", (assets / "ATTRIBUTION.md").read_text(), flags=re.MULTILINE)
    videos = sorted(assets.glob("*.mp4"))
    assert [path.name for path in videos] == sorted(named)
    assert sum(path.stat().st_size for path in videos) < 1.5e6


@pytest.mark.slow
def test_two_latents_of_a_video(tmp_path):
    assert "Latents(structure=(2, " in run("two_latents.ipynb", tmp_path)
    assert (tmp_path / "row.mp4").is_file()


@pytest.mark.slow
def test_motion_of_robot_episodes(tmp_path):
    said = run("robot_motion.ipynb", tmp_path)
    assert "8 episodes" in said
    scores = [float(score) for score in re.findall(r"R2 ([+-]\S+)", said)]
    assert len(scores) == 3 and all(-1 < score < 1 for score in scores)


@pytest.mark.slow
def test_a_data_set_of_latents_and_its_generator(tmp_path):
    said = run("latents_and_generator.ipynb", tmp_path)
    assert int(re.search(r"(\d+) of 32 decoded clips", said)[1]) >= 30
    assert (tmp_path / "generated.mp4").is_file()
