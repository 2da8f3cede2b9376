from pathlib import Path

import pytest
import yaml

from vidtwin import VidTwinConfig
from vidtwin.training.generator_recipe import GeneratorRecipe
from vidtwin.training.recipe import Recipe, read_recipe


@pytest.fixture
def write(tmp_path):
    def write(**values):
        path = tmp_path / "recipe.yaml"
        path.write_text(
            yaml.safe_dump({"model": "tiny", "train_videos": "a", "validation_videos": "b", "perceptual": "none"} | values)
        )
        return path

    return write


def test_every_key_is_read_and_overrides_win(write):
    recipe = read_recipe(write(steps=7, loss={"kl": 1}, betas=[0.5, 0.6], sample_fps=8), steps=9, seed=None)
    assert (recipe.steps, recipe.loss.kl, recipe.loss.l1, recipe.betas, recipe.sample_fps) == (9, 1.0, 1.0, (0.5, 0.6), 8)
    assert read_recipe(write(**(recipe.to_dict() | {"loss": {"kl": 1.0}}))) == recipe


@pytest.mark.parametrize("given", ["tiny", "tiny.yaml", "recipes/tiny.yaml", Path("tiny")])
def test_a_shipped_recipe_has_a_name(given):
    recipe = read_recipe(given, train_videos="a", validation_videos="b")
    assert isinstance(recipe, Recipe)
    assert recipe.config.compression_rate < 0.005


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text("model: tiny\ntrain_videos: a\nvalidation_videos: b\nperceptual: none\nsteps: 3\n")
    assert read_recipe("tiny.yaml").steps == 3
    assert read_recipe("tiny", train_videos="a", validation_videos="b").steps == 520


def test_settings_replace_keys_and_are_checked_as_them(write):
    settings = ["steps=7", "loss.kl=1e-3", "betas=[0.5, 0.6]", "sample_fps=null", "discriminator.start=5"]
    recipe = read_recipe(write(sample_fps=8, loss={"l2": 2.0}), Recipe, settings)
    assert (recipe.steps, recipe.loss.kl, recipe.loss.l2, recipe.betas, recipe.sample_fps) == (7, 1e-3, 2.0, (0.5, 0.6), None)
    assert recipe.discriminator is not None and recipe.discriminator.start == 5
    assert read_recipe(write(), Recipe, ["rate_factors.encoder.head=2.0"]).rate_factors == {"encoder.head": 2.0}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps", "settings='steps': expected key=value"),
        ("=3", "settings='=3': expected key=value"),
        ("loss.=3", "settings='loss.=3': expected key=value"),
        ("steps=[", "settings='steps=.': not valid YAML"),
        ("model.depth=3", "model is 'tiny', not a mapping; set model as a whole"),
        ("seed=5", "seed is given twice"),
        ("stepss=3", "unknown key stepss; the nearest known one is steps"),
        ("loss.kk=3", "unknown key loss.kk; the nearest known one is loss.kl"),
        ("steps=many", "steps='many': expected"),
        ("steps=0", "steps=0: must be at least 1"),
    ],
)
def test_settings_that_cannot_be_meant_are_named(write, setting, message):
    with pytest.raises(ValueError, match=message):
        read_recipe(write(model="tiny"), Recipe, [setting], seed=3)


@pytest.mark.parametrize(
    ("given", "near"), [("tinny", "tiny"), ("recipes/finetun.yaml", "finetune"), ("other/paper.yaml", "paper")]
)
def test_an_unknown_name_gives_the_nearest(given, near):
    with pytest.raises(FileNotFoundError, match=rf"{given}: no such recipe \(did you mean {near}\?\)"):
        read_recipe(given)


def test_a_recipe_of_the_other_kind_is_named():
    with pytest.raises(ValueError, match="generator-tiny: unknown key .*; generator-tiny is a recipe of generators"):
        read_recipe("generator-tiny")
    with pytest.raises(ValueError, match="tiny: unknown key .*; tiny is a recipe of autoencoders"):
        read_recipe("tiny", GeneratorRecipe)


def test_a_model_can_be_given_by_its_fields(write):
    assert read_recipe(write(model={"hidden": 32, "heads": 2})).config == VidTwinConfig(hidden=32, heads=2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepss": 3}, "unknown key stepss; the nearest known one is steps"),
        ({"loss": {"l3": 1}}, "unknown key loss.l3; the nearest known one is loss.l"),
        ({"discriminator": {"begin": 1}}, "unknown key discriminator.begin; the nearest known one is discriminator."),
        ({"discriminator": {"dims": 4}}, "discriminator.dims=4: choose one of 2, 3"),
        ({"discriminator": {"start": -1}}, "discriminator.start=-1: must be at least 0"),
        ({"perceptual": "lpips"}, "perceptual: lpips with loss.perceptual=0.0: give the term a weight"),
        ({"perceptual": "vgg"}, "perceptual='vgg': choose one of lpips, ms-ssim, none"),
        ({"loss": {"perceptual": 0.1}}, "perceptual: none with loss.perceptual=0.1"),
        ({"perceptual_weights": "a"}, "only perceptual: lpips reads them"),
        ({"short_side": [224]}, "expected a list of 2 numbers"),
        ({"ema_decay": 1.0}, "ema_decay=1.0: must be in"),
        ({"precision": "int8"}, "choose one of float32, bfloat16, float16"),
        ({"steps": "many"}, "steps='many': expected int"),
        ({"steps": 0}, "steps=0: must be at least 1"),
        ({"flip": 1}, "flip=1: expected bool"),
        ({"learning_rate": -1.0}, "must be positive"),
        ({"betas": 0.9}, "betas=0.9"),
        ({"sample_fps": -8}, "sample_fps=-8.0: must be positive"),
        ({"sample_fps": "fast"}, "sample_fps='fast': expected a number"),
        ({"model": "huge"}, "choose one of"),
        ({"model": 5}, "expected text or a mapping"),
        ({"model": {"query_dropout": "a"}}, ""),
        ({"loss": 3}, "loss=3: expected a mapping, as in {l1: 1.0}"),
        ({"seed": -1}, "seed=-1"),
        ({"init_from": 3}, "init_from=3: expected text"),
        ({"model": {"depht": 1}}, "unknown field.*depht"),
    ],
)
def test_mistakes_are_named(write, values, message):
    with pytest.raises(ValueError, match=f"recipe.yaml: .*{message}"):
        read_recipe(write(**values))


def test_files_that_are_no_recipes(tmp_path):
    path = tmp_path / "recipe.yaml"
    for text in ("a: [", "just text", ""):
        path.write_text(text)
        with pytest.raises(ValueError, match="recipe.yaml: not"):
            read_recipe(path)
    path.write_text("model: tiny\n")
    with pytest.raises(ValueError, match="key train_videos is missing"):
        read_recipe(path)
    path.write_text("model: tiny\ntrain_videos: a\nvalidation_videos: b\n")
    with pytest.raises(ValueError, match=r"key perceptual \(lpips, ms-ssim, none\) is missing"):
        read_recipe(path)


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: tiny\ntrain_videos: a\nvalidation_videos: b\nperceptual: none\nlearning_rate: 1e-4\n")
    assert read_recipe(path).learning_rate == 1e-4


def test_aliases_are_refused_before_they_grow(tmp_path):
    path = tmp_path / "bomb.yaml"
    path.write_text("a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60)))
    with pytest.raises(ValueError, match="bomb.yaml: not valid YAML .*it has an alias"):
        read_recipe(path)
