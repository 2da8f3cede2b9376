"""A folded block computes what the plain block computes, and the same gradients."""

import pytest
import torch

from vidtwin.model.backbone import SpaceTimeBlock
from vidtwin.training.folded import FoldedBlock

C, HEADS, SHAPE = 32, 4, (5, 2, 6)  # frames, clips, places


def both(causal: bool, dtype: torch.dtype) -> tuple[SpaceTimeBlock, FoldedBlock]:
    torch.manual_seed(0)
    plain, folded = SpaceTimeBlock(C, HEADS, causal), FoldedBlock(C, HEADS, causal)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    folded.load_state_dict(plain.state_dict())
    return plain.to(dtype), folded.to(dtype)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("timed", [True, False], ids=["first", "later"])
def test_values_and_gradients_are_those_of_the_plain_block(causal, timed):
    plain, folded = both(causal, torch.float64)
    x = torch.randn(*SHAPE, C, dtype=torch.float64)
    time = torch.randn(SHAPE[0], C, dtype=torch.float64) if timed else None
    found = []
    for block in (plain, folded):
        tokens = x.clone().requires_grad_()
        y = block(tokens, time)
        (y * torch.linspace(0, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
        found.append({"y": y.detach(), "x": tokens.grad} | {name: p.grad for name, p in block.named_parameters()})
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, atol=1e-12, rtol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def test_in_bfloat16_it_is_as_close_to_float32_as_the_plain_block():
    plain, folded = both(False, torch.float32)
    x = torch.randn(*SHAPE, C)
    expected = plain(x)
    with torch.autocast("cpu", torch.bfloat16):
        errors = [(block(x) - expected).norm() / expected.norm() for block in (plain, folded)]
    assert folded(x).dtype == torch.float32
    assert errors[1] < 1.3 * errors[0]


def test_without_gradients_it_is_the_plain_block():
    plain, folded = both(False, torch.float32)
    x = torch.randn(*SHAPE, C)
    with torch.no_grad():
        assert torch.equal(folded(x), plain(x))
