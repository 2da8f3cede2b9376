"""A small generator with seeded weights that are not those of its start."""

from typing import Any

import pytest
import torch

from tests.conftest import SMALL, seeded_model
from vidtwin.generation.config import DiTConfig
from vidtwin.generation.diffusion import Process
from vidtwin.generation.dit import DiT
from vidtwin.generation.pipeline import VidTwinPipeline
from vidtwin.generation.tokens import Volumes
from vidtwin.model.normalizer import Normalizer

SIZES = DiTConfig(hidden=32, depth=2, heads=2, structure_patch=(2, 1, 1), dynamics_patch=(1, 2, 3)).of_latents(SMALL)


def seeded_dit(config: DiTConfig = SIZES) -> DiT:
    torch.manual_seed(3)
    model = DiT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def draw(model: DiT, count: int, seed: int = 0) -> Volumes:
    generator = torch.Generator().manual_seed(seed)
    structure, dynamics = (torch.randn(count, p.channels, *p.sides, generator=generator) for p in model.patches)
    return structure, dynamics


def small_pipeline(process: Process | None = None, classes: tuple[str, ...] = ("cat", "dog"), **fields: Any) -> VidTwinPipeline:
    config = DiTConfig.from_dict(SIZES.to_dict() | {"classes": len(classes)} | fields)
    d_S, d_D = config.structure[0], config.dynamics[0]
    generator = torch.Generator().manual_seed(1)
    mean, std = ([torch.rand(size, generator=generator) + 0.5 for size in (d_S, d_D, d_D)] for _ in range(2))
    normalizer = Normalizer((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))
    return VidTwinPipeline(seeded_model(), seeded_dit(config), process or Process(), normalizer, classes, 25.0)


@pytest.fixture
def pipeline() -> VidTwinPipeline:
    return small_pipeline(previous=True)
