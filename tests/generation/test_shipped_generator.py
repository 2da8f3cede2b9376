"""The generator that comes with the package."""

import json

import torch

from vidtwin import VidTwinPipeline
from vidtwin.data.moving_sprites import CLASSES, read_sprite
from vidtwin.generation.files import shipped_generators
from vidtwin.model.checkpoint import SHIPPED
from vidtwin.training.generator_recipe import GeneratorRecipe
from vidtwin.training.recipe import Recipe, read_recipe


def test_sprites_makes_what_it_is_asked_for():
    assert shipped_generators() == ["sprites"]
    pipeline = VidTwinPipeline.from_pretrained("sprites")
    assert pipeline.classes == tuple(sorted(CLASSES))
    labels = ["red-east", "lime-southwest", "cyan-north", "violet-west"]
    draws = [torch.Generator().manual_seed(i) for i in range(4)]
    made = pipeline(labels, guidance_scale=2.0, num_inference_steps=10, generator=draws)
    found = [read_sprite(video.permute(3, 0, 1, 2).float() / 127.5 - 1).label for video in made.videos]
    assert sum(a == b for a, b in zip(found, labels, strict=True)) >= 3


def test_its_recipes_and_logs_are_beside_it():
    folder = SHIPPED / "sprites"
    recipe = read_recipe(folder / "recipe-generator.yaml", GeneratorRecipe)
    assert read_recipe(folder / "recipe-autoencoder.yaml", Recipe, train_videos="x", validation_videos="x").steps == 1500
    logs = [(folder / f"log-{part}.jsonl").read_text().splitlines() for part in ("generator", "autoencoder")]
    assert [json.loads(log[-1])["step"] for log in logs] == [recipe.steps, 1500]
    pipeline = VidTwinPipeline.from_pretrained("sprites")
    assert (pipeline.process, pipeline.separate_levels) == (recipe.process, recipe.separate_levels)
