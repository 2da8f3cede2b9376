import shutil
from dataclasses import replace

import pytest
import torch

from tests.conftest import SMALL, seeded_model
from vidtwin.inference.engine import (
    DECODER,
    ENCODER,
    Engine,
    PrecisionWarning,
    clip_memory,
    free_memory,
    is_out_of_memory,
    only,
)
from vidtwin.model.latents import Latents


@pytest.fixture
def clips():
    return torch.rand(5, 3, 16, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("batch", [1, 2, 5, 9])
def test_batches_give_what_the_model_gives(model, clips, batch):
    engine = Engine(model, batch=batch)
    posterior = engine.encode(5, lambda index: clips[index])
    with torch.inference_mode():
        expected = model.posterior(clips)
        x_hat = model.decode(expected.mean).clamp(-1, 1)
    torch.testing.assert_close(posterior.mean.structure, expected.mean.structure, atol=1e-6, rtol=0)
    torch.testing.assert_close(posterior.logvar.dynamics_y, expected.logvar.dynamics_y, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.stack(list(engine.decode(posterior.mean))), x_hat, atol=1e-5, rtol=0)
    assert engine.notes == []


def test_each_half_has_its_own_precision(model, clips):
    engine = Engine(model, encode_dtype=torch.bfloat16, dtype=torch.float32)
    assert "encode bfloat16, decode float32" in engine.plan.describe()
    latents = engine.encode(1, lambda index: clips[index]).mean
    assert latents.structure.dtype == torch.float32
    with torch.inference_mode():
        low = seeded_model().to(torch.bfloat16).encode(clips[:1].bfloat16()).to(torch.float32)
        exact = model.encode(clips[:1])
        assert torch.equal(latents.structure, low.structure)
        assert not torch.equal(latents.structure, exact.structure)
        assert torch.equal(next(engine.decode(exact)), model.decode(exact)[0].clamp(-1, 1))
    (note,) = engine.notes
    assert note.startswith("the first clip encoded in bfloat16 is")
    assert next(model.parameters()).dtype == torch.float32


def test_a_precision_far_from_float32_is_refused(model, clips):
    with pytest.raises(ValueError, match="decoded in bfloat16 is .* dB from float32, below check_db=79; use dtype=torch.float32"):
        latents = model.encode(clips[:1])
        list(Engine(model, dtype=torch.bfloat16, check_db=79).decode(latents))
    engine = Engine(model, dtype=torch.bfloat16, check_db=0)
    list(engine.decode(latents))
    assert engine.notes == []
    for wrong in ({"check_db": -1.0}, {"batch": 0}):
        with pytest.raises(ValueError, match="check_db=-1: |batch=0: "):
            Engine(model, **wrong)


def test_what_is_not_finite_is_computed_again_in_float32(clips):
    model = seeded_model()
    with torch.no_grad():  # beyond 65504, the end of float16, in the middle of both halves; back again after it
        model.encoder.patch_embedding.weight.mul_(1e6)
        model.encoder.patch_embedding.bias.mul_(1e6)
    exact = Engine(model).encode(5, lambda index: clips[index])
    engine = Engine(model, encode_dtype=torch.float16, dtype=torch.float32)
    with pytest.warns(PrecisionWarning, match="encoding in float16 gave values that are not finite; computed again in float32"):
        posterior = engine.encode(5, lambda index: clips[index])
    assert torch.equal(posterior.mean.structure, exact.mean.structure)
    with torch.no_grad():
        model.decoder.head.linear.weight.mul_(1e6)
    low = Engine(model, dtype=torch.float16)
    with pytest.warns(PrecisionWarning, match="decoding in float16"):
        assert torch.equal(next(low.decode(posterior.mean[:1])), next(Engine(model).decode(posterior.mean[:1])))


def test_latents_beyond_the_range_of_float16_decode_in_it():
    shapes = SMALL.structure_shape, SMALL.dynamics_x_shape, SMALL.dynamics_y_shape
    big = Latents(*(torch.full((1, *shape), 1e5) for shape in shapes))
    low, exact = (next(Engine(seeded_model(), dtype=dtype).decode(big)) for dtype in (torch.float16, torch.float32))
    assert (low - exact).norm() < 2e-3 * exact.norm()


def test_auto_is_the_fastest_precision_that_is_near_enough(model, clips, monkeypatch):
    monkeypatch.setattr("vidtwin.inference.engine.fastest_dtype", lambda device: torch.bfloat16)
    engine = Engine(model, encode_dtype="auto", dtype="auto")
    assert engine.plan.encode_dtype == engine.plan.dtype == torch.bfloat16
    latents = engine.encode(5, lambda index: clips[index]).mean
    assert engine.plan.encode_dtype == torch.bfloat16 and len(engine.notes) == 1
    strict = Engine(model, encode_dtype="auto", dtype="auto", check_db=200)
    exact = Engine(model)
    encoded = strict.encode(5, lambda index: clips[index]).mean
    assert torch.equal(encoded.structure, exact.encode(5, lambda index: clips[index]).mean.structure)
    assert all(torch.equal(a, b) for a, b in zip(strict.decode(latents), exact.decode(latents), strict=True))
    assert strict.plan.encode_dtype == strict.plan.dtype == torch.float32
    assert all(note.endswith("below 200: float32 is used") for note in strict.notes) and len(strict.notes) == 2


def test_both_checks_decode_the_same_latents_in_float32_once(model, clips):
    engine, decoded = Engine(model, encode_dtype=torch.bfloat16, dtype=torch.bfloat16, check_db=1), []
    model.decoder.register_forward_hook(lambda *arguments: decoded.append(arguments[0]))
    try:
        latents = engine.encode(1, lambda index: clips[index]).mean
        (one,) = engine.decode(latents)
    finally:
        model.decoder._forward_hooks.clear()
    assert len(decoded) == 2 and len(engine.notes) == 2  # the latents of bfloat16 and those of float32, which is enough for both
    fresh = Engine(model, dtype=torch.bfloat16, check_db=1)
    (other,) = fresh.decode(latents)
    assert torch.equal(one, other) and fresh.notes == engine.notes[1:]


def test_auto_keeps_the_precision_of_weights_in_a_lower_one():
    assert Engine(seeded_model().half(), encode_dtype="auto", dtype="auto").plan.dtype == torch.float16


def test_nan_weights_are_an_error(clips):
    model = seeded_model()
    with torch.no_grad():
        model.structure_encoder.moments.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="latents have NaN or infinite values; use dtype=torch.float32, or other weights"):
        Engine(model).encode(1, lambda index: clips[index])


def test_running_out_of_memory_halves_the_batch_and_says_so_once(model, clips, monkeypatch):
    engine = Engine(model, batch=4)
    sizes = []
    posterior = type(model).posterior

    def small_machine(self, x):
        sizes.append(len(x))
        if len(x) > 1:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        return posterior(self, x)

    expected = Engine(model, batch=1).encode(5, lambda index: clips[index])
    monkeypatch.setattr(type(model), "posterior", small_machine)
    with pytest.warns(PrecisionWarning, match="memory ran out; from here on 2 clips at a time") as caught:
        result = engine.encode(5, lambda index: clips[index])
    assert sizes == [4, 2, 1, 1, 1, 1, 1]
    assert [str(w.message) for w in caught] == [f"memory ran out; from here on {n} clips at a time" for n in (2, 1)]
    assert torch.equal(result.mean.structure, expected.mean.structure)


def test_a_single_clip_too_large_is_an_error_that_says_so(model, clips, monkeypatch):
    def no_memory(self, x):
        raise MemoryError

    monkeypatch.setattr(type(model), "posterior", no_memory)
    with pytest.raises(
        MemoryError, match="a clip of 16x32x32 does not fit in memory; use dtype=torch.bfloat16, or smaller weights"
    ):
        Engine(model, batch=2).encode(2, lambda index: clips[index])


def test_other_errors_are_not_taken_for_memory():
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))


def test_the_plan_goes_by_free_memory(model):
    free = free_memory(torch.device("cpu"))
    assert free is not None and free > 1 << 20
    plan = Engine(model).plan
    assert plan.batch == 1
    assert [Engine(model, batch=6).windows_at_once(tiles) for tiles in (1, 4, 6, 9)] == [6, 1, 1, 1]
    assert plan.encode_dtype == plan.dtype == torch.float32
    assert "of" in plan.describe() and "free" in plan.describe()
    sizes = [clip_memory(SMALL, dtype) for dtype in (torch.float32, torch.bfloat16)]
    assert sizes[0] == 2 * sizes[1]


def test_weights_of_a_lower_precision_stay_in_it(clips):
    low = seeded_model().to(torch.bfloat16)
    engine = Engine(low)
    assert engine.plan.dtype == torch.bfloat16
    with torch.inference_mode():
        expected = low.encode(clips.bfloat16()[:1]).to(torch.float32)
    assert torch.equal(engine.encode(1, lambda index: clips[index]).mean.structure, expected.structure)
    assert engine.notes == []  # nothing better to be checked against
    assert next(engine.decode(expected)).dtype == torch.float32


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
def test_compiled_is_as_plain(clips):
    few = replace(SMALL, query_layers=1, structure_downsamples=0, dynamics_downsamples=0)
    plain, compiled = (Engine(seeded_model(few), batch=2, compile=compile) for compile in (False, True))
    expected, posterior = (engine.encode(5, lambda index: clips[index]) for engine in (plain, compiled))  # batches of 2 and 1
    for a, b in zip(posterior.mean.tensors, expected.mean.tensors, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    for a, b in zip(compiled.decode(expected.mean), plain.decode(expected.mean), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_a_half_alone_shares_its_weights(model, clips):
    encoder, decoder = only(model, ENCODER), only(model, DECODER)
    assert {*encoder._modules} == {*ENCODER} and {*decoder._modules} == {*DECODER}
    assert encoder.encoder is model.encoder and "decoder" in model._modules
    latents = Engine(encoder).encode(2, lambda index: clips[index]).mean
    expected = Engine(model).encode(2, lambda index: clips[index]).mean
    assert all(torch.equal(a, b) for a, b in zip(latents.tensors, expected.tensors, strict=True))
    for a, b in zip(Engine(decoder).decode(latents), Engine(model).decode(latents), strict=True):
        assert torch.equal(a, b)
