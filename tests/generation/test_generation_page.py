"""docs/generation.md says what there is."""

import re
from dataclasses import MISSING, fields
from pathlib import Path

import yaml

from tests.generation.conftest import small_pipeline
from vidtwin.training.generator_recipe import GeneratorRecipe
from vidtwin.training.recipe import RunRecipe, read_recipe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "generation.md").read_text()
RECIPES = sorted((ROOT / "src/vidtwin/recipes").glob("generator-*.yaml"))


def test_every_key_is_listed_with_its_default():
    known = {field.name for field in fields(RunRecipe)}
    expected = {field.name: field.default for field in fields(GeneratorRecipe) if field.name not in known}
    listed = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE.split("## Recipe keys")[1], flags=re.MULTILINE))
    assert sorted(listed) == sorted(expected)
    for key, text in listed.items():
        assert (text == "required") if expected[key] is MISSING else (yaml.safe_load(text) == expected[key]), key


def test_the_recipes_are_read_and_named():
    assert len(RECIPES) == 4
    for path in RECIPES:
        read_recipe(path, GeneratorRecipe)
        assert path.stem in PAGE or "flow" in path.name


def test_the_paper_s_recipe_has_what_the_paper_says():
    recipe = read_recipe(ROOT / "src/vidtwin/recipes" / "generator-paper.yaml", GeneratorRecipe)
    assert (recipe.method, recipe.class_dropout, recipe.warmup_steps, recipe.betas) == ("ddim", 0.2, 10_000, (0.9, 0.999))


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    small_pipeline(previous=True).save_pretrained(tmp_path / "runs" / "mine" / "model")
    monkeypatch.chdir(tmp_path)
    first, second = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(first.replace("num_inference_steps=50", "num_inference_steps=2"), "generation.md", "exec"), names)
    assert capsys.readouterr().out.startswith("torch.Size([2, 32, 32, 32, 3])")
    exec(compile(second.replace("num_inference_steps=10", "num_inference_steps=1"), "generation.md", "exec"), names)
    assert capsys.readouterr().out == "(2, 16, 64, 64, 3)\n"
