"""The two processes: what noise they add, and that their samplers take it away again where the estimate is exact."""

import pytest
import torch

from tests.generation.conftest import draw, seeded_dit, small_pipeline
from vidtwin.generation.diffusion import Process, add_noise, ddim_step, diffusion_loss, sample, trailing

BOTH = pytest.mark.parametrize("process", [Process(), Process("flow"), Process("flow", shift=3.0)], ids=["ddim", "flow", "shifted"])


class Oracle(torch.nn.Module):
    """Knows the clean volumes, and notes what it is asked."""

    dtype = torch.float32

    def __init__(self, like, clean):
        super().__init__()
        self.config, self.clean, self.asked = like.config, clean, []

    def forward(self, noisy, levels, labels, previous=None):
        self.asked.append((noisy, levels.clone(), labels.clone()))
        return self.clean


@BOTH
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_an_exact_estimate_is_sampled_exactly(process, steps):
    model = seeded_dit()
    clean, noise = draw(model, 2), draw(model, 2, seed=1)
    oracle = Oracle(model, clean)
    found = sample(oracle, process, noise, torch.zeros(2, dtype=torch.long), steps=steps)
    for a, b in zip(found, clean, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    levels = [float(levels[0, 0]) for _, levels, _ in oracle.asked]
    assert len(levels) == steps and levels[0] == 1.0 and levels == sorted(levels, reverse=True) and levels[-1] > 0


@BOTH
def test_what_the_sampler_shows_is_what_training_shows(process):
    """On the way the sampler's volumes are x_0 and noise in the shares that training has at that level."""
    model = seeded_dit()
    clean, noise = draw(model, 2), draw(model, 2, seed=1)
    oracle = Oracle(model, clean)
    sample(oracle, process, noise, torch.zeros(2, dtype=torch.long), steps=10)
    for noisy, levels, _ in oracle.asked:
        for a, b in zip(noisy, add_noise(process, clean, noise, levels), strict=True):
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


@BOTH
def test_levels_are_drawn_from_nearly_clean_to_noise(process):
    draw = torch.Generator().manual_seed(0)
    levels = torch.tensor([process.draw_level(draw) for _ in range(2000)])
    assert 0 < levels.min() < 0.05 * process.shift and 0.9 < levels.max() <= 1
    middle = levels.median().item()
    assert middle == pytest.approx(0.5 if process.shift == 1 else 0.75, abs=0.03)


@BOTH
def test_ends_are_clean_and_noise_alone(process):
    model = seeded_dit()
    clean, noise = draw(model, 2), draw(model, 2, seed=1)
    zero, one = (add_noise(process, clean, noise, torch.full((2, 2), level)) for level in (0.0, 1.0))
    assert all(torch.equal(a, b) for a, b in zip(zero, clean, strict=True))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, noise, strict=True))


def test_a_branch_can_be_given_clean():
    model = seeded_dit()
    clean, noise = draw(model, 2), draw(model, 2, seed=1)
    oracle = Oracle(model, clean)
    labels = torch.zeros(2, dtype=torch.long)
    structure, dynamics = sample(oracle, Process("flow"), noise, labels, steps=3, given=(clean[0], None))
    assert structure is clean[0]
    torch.testing.assert_close(dynamics, clean[1], atol=1e-5, rtol=1e-5)
    assert all(noisy[0] is clean[0] and not levels[:, 0].any() for noisy, levels, _ in oracle.asked)


def test_each_branch_is_a_mean_of_its_own_and_what_is_given_does_not_count():
    clean = torch.zeros(2, 3, 4, 2, 2), torch.zeros(2, 2, 1, 4, 6)
    estimate = clean[0] + 2, clean[1] + 3
    levels = torch.tensor([[0.5, 0.5], [0.0, 0.5]])
    losses = diffusion_loss(Process(), estimate, clean, levels, (1.0, 10.0))
    assert losses["structure"].item() == pytest.approx(4 / 2)  # one of two clips
    assert losses["dynamics"].item() == pytest.approx(9)
    assert losses["total"].item() == pytest.approx(2 + 90)
    flow = diffusion_loss(Process("flow"), estimate, clean, levels)
    assert flow["dynamics"].item() == pytest.approx(9 / 0.5**2)
    assert flow["dynamics_mse"].item() == pytest.approx(9)


def test_guidance_is_extrapolation_and_has_its_interval():
    model = small_pipeline().denoiser
    noise, labels = draw(model, 2), torch.tensor([0, 1])

    class Classes(Oracle):
        def forward(self, noisy, levels, labels, previous=None):
            super().forward(noisy, levels, labels)
            value = labels.float().reshape(-1, 1, 1, 1, 1)
            return torch.ones_like(noisy[0]) * value, torch.ones_like(noisy[1]) * value

    oracle = Classes(model, None)
    structure, _ = sample(oracle, Process("flow"), noise, labels, steps=4, guidance=3.0)
    assert len(oracle.asked) == 8
    assert structure[0].mean().item() == pytest.approx(2 + 3 * (0 - 2))  # class 2 is none
    oracle = Classes(model, None)
    sample(oracle, Process("flow"), noise, labels, steps=4, guidance=3.0, interval=(0.4, 0.8))
    assert [float(levels[0, 0]) for _, levels, asked in oracle.asked if asked[0] == 2] == [0.75, 0.5]
    assert len(oracle.asked) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "num_inference_steps=0: give 1 to 1000"),
        ({"interval": (0.5, 0.5)}, "guidance_interval="),
        ({"guidance": float("nan")}, "guidance_scale=nan"),
        ({"given": (torch.zeros(1), torch.zeros(1))}, "structure and dynamics are both given"),
    ],
)
def test_what_cannot_be_sampled_is_refused(options, message):
    model = seeded_dit()
    with pytest.raises(ValueError, match=message):
        sample(model, Process(), draw(model, 1), torch.zeros(1, dtype=torch.long), **options)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "ddpm"}, "method='ddpm': choose 'ddim' or 'flow'"),
        ({"method": "flow", "shift": 0.0}, "must be positive"),
        ({"shift": 2.0}, "shift, center and spread are of method: flow; leave them out"),
    ],
)
def test_bad_processes_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Process(**fields)


@pytest.mark.parametrize("steps", [1, 4, 50, 1000])
def test_the_ddim_step_is_that_of_diffusers_where_steps_divide_1000(steps):
    process = Process()
    scheduler = process.scheduler()
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == trailing(steps)
    torch.manual_seed(0)
    x, estimates = torch.randn(64), torch.randn(steps, 64)
    ours, levels = x, [(t + 1) / 1000 for t in trailing(steps)] + [0.0]
    for number, t in enumerate(scheduler.timesteps):
        x = scheduler.step(estimates[number], t, x).prev_sample
        ours = ddim_step(process, ours, estimates[number], levels[number], levels[number + 1])
    torch.testing.assert_close(ours, x, atol=1e-3, rtol=1e-3)
