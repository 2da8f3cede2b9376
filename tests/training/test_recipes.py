"""The recipes of the repository are what their names and their page (docs/training.md) say; keys do what it says of them."""

import re
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import seeded_model
from vidtwin import VidTwinConfig, preset
from vidtwin.cli import main
from vidtwin.losses.objective import LossWeights
from vidtwin.model.ablations import ablations
from vidtwin.training.autoencoder_state import AutoencoderState
from vidtwin.training.initialize import trained_weights
from vidtwin.training.optimization import make_accelerator
from vidtwin.training.recipe import DiscriminatorRecipe, Recipe, read_recipe
from vidtwin.training.shipped import RECIPES, shipped_recipes

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "src/vidtwin/recipes").iterdir() if not path.stem.startswith("generator-"))
PAGE = (ROOT / "docs/training.md").read_text()
RATES = {  # percent; the paper calls 0.2152 "0.21"
    "paper": "0.2046", "paper-0.21": "0.2152", "paper-0.17": "0.1721", "rate-0.11": "0.1116", "rate-0.16": "0.1628",
    "rate-0.48": "0.4790", "small": "0.2046", "base": "0.2046", "large": "0.2046", "ablation-a": "0.1953", "ablation-b": "0.2046",
    "ablation-c": "0.2046", "ablation-d": "0.2046", "released": "0.3348", "finetune": "0.3348", "tiny": "0.3348",
}  # fmt: skip
OF_THE_PAPER = [name for name in NAMES if name.startswith(("paper", "rate", "ablation")) or name in ("small", "base", "large")]


def recipe(name: str) -> Recipe:
    return read_recipe(ROOT / f"src/vidtwin/recipes/{name}.yaml", train_videos="a", validation_videos="b")


@pytest.mark.parametrize("name", NAMES)
def test_each_reads_and_its_head_gives_its_command(name):
    assert recipe(name).config.height == (64 if name == "sprites" else 224)
    head = (ROOT / f"src/vidtwin/recipes/{name}.yaml").read_text().split("\nmodel:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert f"vidtwin train {name} " in head
    assert f"--out runs/{name}\n" in head + "\n"


@pytest.mark.parametrize(("name", "percent"), RATES.items())
def test_the_rate_is_the_one_of_the_name(name, percent):
    config = recipe(name).config
    assert f"{config.compression_rate:.4%}" == f"{percent}%"
    text = (ROOT / f"src/vidtwin/recipes/{name}.yaml").read_text()
    values = re.findall(r"(\d+) latent values", text)
    assert str(config.latent_values) in (values or [str(config.latent_values)])
    if name.startswith("rate-"):
        assert f"{config.compression_rate:.2%}" == f"{name.removeprefix('rate-')}%"


@pytest.mark.parametrize(
    ("name", "structure", "dynamics"),
    [
        ("paper", (4, 16, 7, 7), (8, 16, 7)),
        ("paper-0.21", (4, 16, 7, 7), (16, 16, 4)),
        ("paper-0.17", (4, 12, 7, 7), (8, 16, 7)),
        ("released", (8, 16, 7, 7), (8, 16, 7)),
    ],
)
def test_latent_shapes_are_those_of_the_papers_table(name, structure, dynamics):
    config = recipe(name).config
    assert (config.structure_shape, config.dynamics_x_shape, config.dynamics_y_shape) == (structure, dynamics, dynamics)


@pytest.mark.parametrize(
    ("name", "depth", "heads", "hidden"), [("small", 12, 8, 512), ("base", 16, 12, 768), ("large", 16, 12, 1536)]
)
def test_sizes_are_the_papers(name, depth, heads, hidden):
    config = recipe(name).config
    assert (config.depth, config.heads, config.hidden) == (depth, heads, hidden)
    assert config == replace(preset("paper-0.20"), depth=depth, heads=heads, hidden=hidden)


@pytest.mark.parametrize("letter", "abcd")
def test_ablations_are_those_of_the_main_model(letter):
    assert recipe(f"ablation-{letter}").config == ablations(preset("paper-0.20"))[letter]
    assert replace(recipe(f"ablation-{letter}"), model="base") == recipe("base")


@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_recipes_of_the_paper_train_alike(name):
    found = recipe(name)
    assert (found.sample_fps, found.batch_size, found.learning_rate, found.warmup_steps) == (8, 24, 1.6e-4, 5000)
    assert (found.betas, found.weight_decay, found.perceptual) == ((0.9, 0.99), 1e-4, "lpips")
    assert found.loss == LossWeights(l1=1.0, perceptual=0.05, kl=0.001, scaling="released")
    assert found.discriminator is not None
    assert found.discriminator.weight == 0.05
    own = {"model": "paper-0.20", "steps": 416_667, "gradient_checkpointing": False}
    assert replace(found, **own) == recipe("paper")


def test_whole_numbers_in_betas_are_floats():
    betas = recipe("released").betas
    assert betas == (0.0, 0.9)
    assert {type(beta) for beta in betas} == {float}


def test_the_finetuned_checkpoint_gives_its_perceptual_weights_too():
    found = recipe("finetune")
    assert found.init_from == found.perceptual_weights == "released"
    assert found.config == VidTwinConfig()


def test_the_list_says_what_each_trains_on_what_how_long_and_how_well(capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    found = {recipe.name for recipe in shipped_recipes()}
    assert found == {path.stem for path in RECIPES.iterdir()}
    for name in found:
        assert re.search(rf"^{re.escape(name)}: .+\n    data   .+\n    time   .+\n    score  .+\n", listed, flags=re.MULTILINE)
    assert main(["recipes", "tiny"]) == 0
    assert capsys.readouterr().out == (RECIPES / "tiny.yaml").read_text()


def test_the_small_fine_tuning_starts_from_the_shipped_weights():
    found = recipe("finetune-small")
    assert found.init_from == "tiny"
    assert found.config == trained_weights("tiny", found.config).config


def test_the_page_lists_every_key_with_its_default():
    kinds = {"": Recipe, "loss.": LossWeights, "discriminator.": DiscriminatorRecipe}
    expected = {prefix + field.name: field for prefix, kind in kinds.items() for field in fields(kind)}
    section = PAGE.split("## Recipe keys")[1].split("\n## ")[0]
    listed = dict(re.findall(r"^\| `([\w.]+)` \| (.*?) \|", section, flags=re.MULTILINE))
    assert sorted(listed) == sorted(expected)
    for key, text in listed.items():
        field = expected[key]
        if field.default is MISSING:
            assert text == ("see below" if field.default_factory is not MISSING else "required"), key
        else:
            value = yaml.safe_load(text)
            assert (tuple(value) if isinstance(value, list) else value) == field.default, key


def test_the_page_lists_what_may_change_in_a_resumed_run():
    (listed,) = re.findall(r"These may change: (.*?)\.", PAGE, flags=re.DOTALL)
    assert set(re.findall(r"`(\w+)`", listed)) == Recipe.RESUMABLE


def test_the_page_names_recipes_and_tests_that_exist():
    named = set(re.findall(r"recipes/([\w.-]+)\.yaml", PAGE))
    assert set(NAMES) - named <= {"ablation-b", "ablation-c"}
    assert named <= set(NAMES)
    tests = re.findall(r"`((?:\w+/)?test_\w+\.py)(?:::(\w+))?`", PAGE)
    assert len(tests) > 20
    for path, function in tests:
        assert f"def {function}" in (ROOT / "tests" / path).read_text(), f"{path}::{function}"


@pytest.fixture
def run(everything) -> AutoencoderState:
    return AutoencoderState(everything, seeded_model(), make_accelerator(everything, "cpu"))


def norm(module: torch.nn.Module) -> float:
    return float(torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]))


def test_the_discriminator_is_not_called_before_its_start(run):
    start = run.recipe.discriminator.start
    assert [run.adversarial_at(step) for step in (0, start - 1, start, start + 1)] == [False, False, True, True]
    calls = []
    run.critic.register_forward_hook(lambda *_: calls.append(1))
    x = torch.rand(1, *run.twin.config.clip_shape) * 2 - 1
    x_hat, posterior = run.twin(x)
    before, after = (run.generator_losses(x, x_hat, posterior, adversarial) for adversarial in (False, True))
    assert len(calls) == 1
    assert set(after) - set(before) == {"adversarial", "adversarial_weight"}


def test_gradients_are_clipped_and_the_norms_before_are_told(run):
    for module in (run.twin, run.critic):
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
    before = {"gradient_norm": norm(run.twin), "discriminator_gradient_norm": norm(run.critic)}
    assert run.clip_gradients(run.recipe.discriminator.start) == pytest.approx(before)
    assert min(before.values()) > 10 * run.recipe.clip_norm
    assert (norm(run.twin), norm(run.critic)) == pytest.approx((run.recipe.clip_norm, run.recipe.clip_norm), rel=1e-4)


@pytest.mark.parametrize("value", [-100.0, 100.0])
def test_the_log_variance_stays_within_its_bound(run, value):
    with torch.no_grad():
        run.logvar.fill_(value)
    run.update(0, {})
    assert abs(run.logvar.item()) == run.recipe.logvar_bound


def test_matrices_and_kernels_decay(run):
    names = {id(parameter): name for name, parameter in run.twin.named_parameters()}
    decayed, others = ({names[id(p)] for p in group["params"]} for group in run.optimizers["model"].param_groups)
    assert [group["weight_decay"] for group in run.optimizers["model"].param_groups] == [run.recipe.weight_decay, 0.0]
    assert decayed | others == set(names.values())
    tables = {name for name in names.values() if name.endswith((".modulation", ".queries"))}
    assert tables
    assert others == {name for name, parameter in run.twin.named_parameters() if parameter.ndim == 1} | tables
    assert run.optimizers["logvar"].param_groups[0]["weight_decay"] == 0


@pytest.mark.parametrize("name", ["tiny", "mini"])
def test_an_h200_trains_by_the_same_recipe_but_for_batch_rate_and_length(name):
    here, there = recipe(name).to_dict(), recipe(f"{name}-h200").to_dict()
    sizes = {"batch_size", "accumulate", "steps", "warmup_steps", "ema_decay", "views", "workers"}
    sizes |= {"learning_rate", "muon_learning_rate"}  # go with the batch
    assert {key for key in here if here[key] != there[key]} <= sizes | {"log_every", "validate_every", "checkpoint_every"}
