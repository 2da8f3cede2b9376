import pytest
import torch

from vidtwin.training.schedule import StepBatches, clip_numbers, learning_rate, noise_generator, seed_step


def test_the_learning_rate_warms_up_and_follows_a_cosine():
    rates = [learning_rate(step, 1.0, 10, 100, 0.01) for step in range(100)]
    assert rates[0] == 0.1
    assert max(rates) == rates[9] == 1.0
    assert rates[55] == pytest.approx((1 + 0.01) / 2, abs=0.01)
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)


def test_a_later_start_shifts_the_warm_up_and_ends_alike():
    assert learning_rate(50, 1.0, 10, 100, 0.01, start=50) == 0.1
    assert learning_rate(99, 1.0, 10, 100, 0.0, start=50) < 0.01


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 2)])
def test_processes_and_passes_share_a_step_without_overlap(processes, accumulate):
    for step in range(3):
        parts = [numbers for rank in range(processes) for numbers in clip_numbers(step, 8, processes, rank, accumulate)]
        assert {len(part) for part in parts} == {8 // processes // accumulate}
        assert sorted(number for part in parts for number in part) == list(range(8 * step, 8 * step + 8))


def test_a_resumed_run_takes_up_the_numbers_where_they_ended():
    whole = list(StepBatches(0, 6, 8, 2, 1, 2))
    assert len(whole) == len(StepBatches(0, 6, 8, 2, 1, 2)) == 12
    assert whole[8:] == list(StepBatches(4, 6, 8, 2, 1, 2))


def test_noise_is_of_the_clip_and_dropout_of_step_and_process():
    def draw(generator):
        return torch.randn(4, generator=generator)

    assert torch.equal(draw(noise_generator(1, 5)), draw(noise_generator(1, 5)))
    assert not torch.equal(draw(noise_generator(1, 5)), draw(noise_generator(1, 6)))
    assert not torch.equal(draw(noise_generator(1, 5)), draw(noise_generator(2, 5)))
    masks = []
    for step, rank in ((0, 0), (0, 1), (1, 0), (0, 0)):
        seed_step(3, step, rank)
        masks.append(torch.rand(4))
    assert torch.equal(masks[0], masks[3])
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
