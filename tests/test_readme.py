"""What the README says runs, runs."""

import re
from pathlib import Path

import pytest

from vidtwin.cli import COMMANDS
from vidtwin.model.config import PRESETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("Latents(structure=(1, 64, 2, 7, 7)")


def test_every_command_and_preset_that_is_named_exists():
    assert set(re.findall(r"^vidtwin (\S+)", README, flags=re.MULTILINE)) <= set(COMMANDS)
    assert {name for name in PRESETS if f"`{name}`" in README} == set(PRESETS)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:scripts|docs|recipes|src|benchmarks)/[\w./-]+\.\w+", README))))
def test_every_file_that_is_named_exists(path):
    assert (ROOT / path).is_file()
