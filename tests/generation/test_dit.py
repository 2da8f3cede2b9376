import pytest
import torch

from tests.generation.conftest import SIZES, draw, seeded_dit
from vidtwin.generation.config import DiTConfig, generator_preset
from vidtwin.generation.dit import DiT

LEVELS = torch.tensor([[0.3, 0.3], [1.0, 0.0]])
LABELS = torch.tensor([0, 1])


def with_(**fields):
    return seeded_dit(DiTConfig.from_dict(SIZES.to_dict() | {"classes": 2} | fields))


def same(a, b) -> bool:
    return all(torch.allclose(x, y, atol=1e-5) for x, y in zip(a, b, strict=True))


def test_it_begins_as_the_mean_of_normalised_latents():
    model = DiT(SIZES)
    estimate = model(draw(model, 2), LEVELS, LABELS * 0)
    assert all(not part.any() for part in estimate)


@torch.no_grad()
def test_estimates_have_the_shapes_of_the_volumes_and_depend_on_everything_they_are_given():
    model = with_(previous=True)
    noisy, before = draw(model, 2), draw(model, 2, seed=1)
    plain = model(noisy, LEVELS, LABELS, before)
    assert [part.shape for part in plain] == [part.shape for part in noisy]
    assert not same(plain, model(noisy, LEVELS.flip(1), LABELS, before))
    assert not same(plain, model(noisy, LEVELS, LABELS.flip(0), before))
    assert not same(plain, model(noisy, LEVELS, LABELS, (before[0], before[1] + 1)))
    for other in ((noisy[0] + 1, noisy[1]), (noisy[0], noisy[1] + 1)):  # both branches see both
        assert all(not torch.allclose(a, b) for a, b in zip(plain, model(other, LEVELS, LABELS, before), strict=True))


@torch.no_grad()
def test_a_window_before_that_is_not_there_is_not_seen():
    model = with_(previous=True)
    noisy, before = draw(model, 2), draw(model, 2, seed=1)
    there = torch.tensor([True, False])
    mixed = model(noisy, LEVELS, LABELS, before, there)
    alone, given = model(noisy, LEVELS, LABELS), model(noisy, LEVELS, LABELS, before)
    for a, b, c in zip(mixed, given, alone, strict=True):
        torch.testing.assert_close(a[0], b[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(a[1], c[1], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="was not trained to continue from a window"):
        with_()(noisy, LEVELS, LABELS, before)


@torch.no_grad()
def test_clips_of_a_batch_do_not_see_each_other():
    model = with_()
    noisy = draw(model, 2)
    both = model(noisy, LEVELS, LABELS)
    for i in range(2):
        one = model((noisy[0][i : i + 1], noisy[1][i : i + 1]), LEVELS[i : i + 1], LABELS[i : i + 1])
        assert same(one, (both[0][i : i + 1], both[1][i : i + 1]))


def test_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = with_().train()
        model.checkpointing = checkpointing
        torch.stack([part.square().sum() for part in model(draw(model, 2), LEVELS, LABELS)]).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(gradient is not None for gradient in gradients[0])


def test_the_paper_s_denoiser_has_its_sizes():
    config = generator_preset("paper")
    assert (config.depth, config.hidden, config.class_width) == (18, 1152, 256)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in DiT(config).parameters())
    assert count == 395_590_736
