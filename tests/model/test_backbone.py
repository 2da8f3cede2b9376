"""What inference mode does in place is what the plain blocks compute."""

import pytest
import torch

from vidtwin.model.backbone import TOKENS, SpaceTimeTransformer


def transformer(causal=True, f=4, h=3, w=5, dtype=torch.float32):
    torch.manual_seed(0)
    model = SpaceTimeTransformer(f, h, w, c=32, depth=2, heads=4, causal=causal).to(dtype).eval()
    for block in model.blocks:
        torch.nn.init.xavier_uniform_(block.temporal_attention.proj.weight)  # released weights start at zero
    return model


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)], ids=str)
def test_in_place_is_as_plain(causal, batch, dtype, bound):
    model = transformer(causal, dtype=dtype)
    x = torch.randn(batch, 4, 15, 32, dtype=dtype)
    kept = x.clone()
    with torch.no_grad():
        plain = model(x)
    with torch.inference_mode():
        in_place = model(x)
    assert torch.equal(x, kept)
    assert ((in_place - plain).norm() / plain.norm()).item() < bound


def test_tokens_are_taken_in_parts():
    model = transformer(f=16, h=8, w=9)
    x = torch.randn(1, 16, 72, 32)
    assert TOKENS < 16 * 72
    with torch.no_grad():
        plain = model(x)
    with torch.inference_mode():
        assert torch.allclose(model(x), plain, atol=1e-5)


def test_a_batch_is_its_clips():
    model = transformer()
    x = torch.randn(3, 4, 15, 32)
    with torch.inference_mode():
        assert torch.allclose(model(x), torch.cat([model(clip[None]) for clip in x]), atol=1e-6)


def test_gradients_flow_outside_inference_mode():
    model = transformer()
    x = torch.randn(2, 4, 15, 32, requires_grad=True)
    model(x).sum().backward()
    assert x.grad is not None and all(p.grad is not None for p in model.parameters())
