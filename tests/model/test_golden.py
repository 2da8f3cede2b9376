import pytest
import torch

from tests.tools.golden import agreement, recipe_weight


def test_the_weight_recipe_gives_its_documented_values():
    weight = recipe_weight("public", "encoder.blocks.0.attn.qkv.weight", (192, 64))
    assert weight.flatten()[:3].tolist() == pytest.approx([-0.11749322, 0.025733568, 0.14858724], rel=1e-7)
    assert weight.double().sum().item() == pytest.approx(20.436352, rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", ["tiny", "tiny_q4", "tiny_crop"])
def test_every_tensor_agrees_with_the_released_computation(case, dtype):
    rows = agreement(case, dtype)
    assert len(rows) == 16
    assert [row for row in rows if not row.within] == []


@pytest.mark.slow
def test_the_released_size_agrees():
    assert [row for row in agreement("released", torch.float32) if not row.within] == []
