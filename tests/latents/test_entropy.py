import hashlib
import math
import sys
from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch

from tests.latents.test_file import header
from vidtwin.latents.bins import CENTRES, SCALES, BinModel, bin_masses, needs_constriction
from vidtwin.latents.entropy import MOST_STEPS, LatentCoder, Moments
from vidtwin.latents.stream import Window
from vidtwin.model.latents import Latents, Posterior

SHAPES = ((1, 8, 16, 7, 7), (1, 8, 16, 7), (1, 8, 16, 7))  # of the released size


def window(mean: Latents, sigma: Latents | None, index: int = 0) -> Window:
    logvar = None if sigma is None else sigma.map(lambda tensor: 2 * tensor.log())
    return Window(index, mean, logvar, (0,), (False,), False)


def posteriors(sigma: float, count: int, seed: int = 0) -> list[Window]:
    """Means of N(0, 1 - sigma^2), so that what is sampled is N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return [
        window(
            Latents(*(math.sqrt(1 - sigma**2) * torch.randn(shape, generator=generator) for shape in SHAPES)),
            Latents(*(torch.full(shape, sigma) for shape in SHAPES)),
        )
        for _ in range(count)
    ]


def collected(windows) -> Moments:
    moments = Moments()
    for one in windows:
        moments.add(one.latents, one.logvar)
    return moments


def coded_bits(coder: LatentCoder, windows) -> int:
    return sum(8 * len(part) for one in windows for part in coder.encode(one.latents))


def same(a: Latents, b: Latents) -> bool:
    return all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(a.tensors, b.tensors, strict=True))


def normal_bits(values: torch.Tensor, delta: float) -> float:
    """-log2 of the masses of N(0, 1) in bins of delta around the multiples nearest to the values."""
    q = (values.double() / delta).round()
    return float(-(torch.special.ndtr((q + 0.5) * delta) - torch.special.ndtr((q - 0.5) * delta)).log2().sum())


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("step", [0.25, 1.0, math.sqrt(12)])
@pytest.mark.parametrize("prior", ["fitted", "normal"])
def test_bits_are_those_of_normal_bin_masses(sigma, step, prior):
    windows = posteriors(sigma, 4)
    coder = LatentCoder.fit(collected(windows), step, prior=prior)
    expected = sum(normal_bits(tensor, step * sigma) for one in windows for tensor in one.latents.tensors)
    assert coded_bits(coder, windows) == pytest.approx(expected, rel=0.02)
    assert not any(channels.differences.any() for channels in coder.channels)


@pytest.mark.parametrize("sigma", [0.02, 0.05, 0.1])
def test_a_step_of_root_12_sigma_costs_the_kl_and_a_quarter_bit_a_value(sigma):
    windows = posteriors(sigma, 4)
    moments = collected(windows)
    coder = LatentCoder.fit(moments, math.sqrt(12), prior="normal")
    values = 4 * sum(prod(shape) for shape in SHAPES)
    above = (coded_bits(coder, windows) - sum(moments.kl)) / values
    assert above == pytest.approx(0.5 * math.log2(2 * math.pi * math.e / 12), abs=0.03)  # 0.254


def test_values_come_back_as_float32_multiples_of_their_step():
    one = posteriors(0.1, 1)[0]
    coder = LatentCoder.fit(collected([one]), 0.7)
    back = coder.decode(*coder.encode(one.latents), SHAPES)
    assert same(back, coder.quantized(one.latents))
    for channels, mean, values in zip(coder.channels, one.latents.tensors, back.tensors, strict=True):
        delta = (np.float32(0.7) * channels.sigma).reshape(-1, *[1] * (mean.ndim - 2))
        q = np.rint(mean.numpy().astype(np.float64) / delta)
        assert (values.numpy() == q.astype(np.float32) * delta).all()
        assert np.abs(values.numpy() - mean.numpy()).max() <= delta.max() * 0.50001


def test_latents_that_change_little_are_coded_as_differences():
    """A random walk over the frames costs its steps, not its spread."""
    generator = torch.Generator().manual_seed(0)
    windows = [
        window(
            Latents(*(torch.randn(shape, generator=generator).cumsum(2) for shape in SHAPES)),
            Latents(*(torch.full(shape, 0.02) for shape in SHAPES)),
        )
        for _ in range(4)
    ]
    coder = LatentCoder.fit(collected(windows), 1.0)
    assert all(channels.differences.all() for channels in coder.channels)
    values = 4 * sum(prod(shape) for shape in SHAPES)
    innovation = math.log2(math.sqrt(2 * math.pi * math.e) / 0.02)  # bits of N(0, 1) in bins of 0.02
    assert coded_bits(coder, windows) / values == pytest.approx(innovation, rel=0.02)
    assert all(same(coder.decode(*coder.encode(one.latents), SHAPES), coder.quantized(one.latents)) for one in windows)


def test_channels_of_any_mean_and_width_are_coded_for_what_they_are():
    generator = torch.Generator().manual_seed(1)
    spread = [10.0 ** ((i % 8) - 4) for i in range(8)]
    means = [torch.randn(shape, generator=generator) for shape in SHAPES]
    for tensor in means:
        for channel, width in enumerate(spread):
            tensor[:, channel] = tensor[:, channel] * width + 100 * width
    one = window(Latents(*means), Latents(*(torch.full(shape, 0.01) for shape in SHAPES)))
    coder = LatentCoder.fit(collected([one]), 1.0)
    assert same(coder.decode(*coder.encode(one.latents), SHAPES), coder.quantized(one.latents))
    expected = sum(max(0.0, math.log2(math.sqrt(2 * math.pi * math.e) * width / 0.01)) for width in spread) / 8
    assert coded_bits(coder, [one]) / sum(prod(shape) for shape in SHAPES) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("large", [50.0, -50.0, 1e3, -1e5, 9e6])
def test_values_far_from_their_model_are_kept(large):
    """The models are fitted before; they go through the escape, exactly."""
    windows = posteriors(0.01, 2)
    coder = LatentCoder.fit(collected(windows), 1.0)
    before = coded_bits(coder, windows[:1])
    odd = windows[0].latents.map(torch.clone)
    for tensor in odd.tensors:
        tensor[0, 3, 2] = large
        tensor[0, 5, :] = -large
    back = coder.decode(*coder.encode(odd), SHAPES)
    assert same(back, coder.quantized(odd))
    assert all(float(tensor[0, 3, 2].flatten()[0]) == pytest.approx(large, rel=1e-4) for tensor in back.tensors)
    assert coded_bits(coder, [window(odd, None)]) > before


def test_values_beyond_all_steps_are_refused():
    windows = posteriors(0.01, 1)
    coder = LatentCoder.fit(collected(windows), 1.0)
    windows[0].latents.structure[0, 0, 0, 0, 0] = 2e7
    with pytest.raises(ValueError, match=f"values of 2e.09 steps; at most {MOST_STEPS} can be coded: give a larger step"):
        coder.encode(windows[0].latents)


@pytest.mark.parametrize("scale", [-32, -9, 0, 5, 39, 40, 77, 150, 223])
@pytest.mark.parametrize("centre", [0, -4, 3, 801, -123456])
def test_each_model_codes_all_integers(scale, centre):
    width = 2 ** (scale / SCALES)
    generator = np.random.default_rng(0)
    values = np.rint(centre / CENTRES + width * generator.standard_normal(2000)).astype(np.int64)
    values[:9] = [0, 1, -1, 2**31 - 1, -(2**31), 12345, -12345, 2**30, -(2**30)]
    model = BinModel.of(centre, scale)
    ans = needs_constriction().stream.stack.AnsCoder()
    for symbols, part in reversed(list(model.operations(values))):
        ans.encode_reverse(symbols.astype(np.int32), part)
    assert (model.decode(ans, len(values)) == values).all()
    assert ans.is_empty()


def test_bin_masses_are_those_of_a_gaussian():
    for scale in (-32, -5, 0, 19, 39):
        for offset in (-4, 0, 3):
            reach, masses = bin_masses(scale, offset)
            edges = (torch.arange(-reach, reach + 2, dtype=torch.float64) - 0.5 - offset / CENTRES) / 2 ** (scale / SCALES)
            expected = torch.special.ndtr(edges).diff()
            assert np.abs(masses[1:] / 2**30 - expected.numpy()).max() < 4e-6
            assert masses.min() >= 0


def test_tables_and_bytes_are_the_same_everywhere():
    """Files are read by other machines and versions: what is here must not change without another name of the coder."""
    tables = hashlib.sha256()
    for scale in range(-32, 40):
        for offset in range(-4, 4):
            tables.update(bin_masses(scale, offset)[1].astype("<i8").tobytes())
    drawn = [(torch.arange(prod(shape)) * 7919 % 8191 - 4095) / 1024 for shape in SHAPES]
    one = window(Latents(*(values.reshape(shape) for values, shape in zip(drawn, SHAPES, strict=True))), None)
    coder = LatentCoder.fit(collected([one]), 1.0, [np.full(8, 0.03125, np.float32)] * 3)
    structure, dynamics = coder.encode(one.latents)
    assert tables.hexdigest()[:16] == "43951a4a98b1cde3"
    assert hashlib.sha256(structure + dynamics).hexdigest()[:16] == "70c125f66071520c"


def test_the_table_of_a_coder_survives_text():
    one = posteriors(0.1, 1)[0]
    coder = LatentCoder.fit(collected([one]), 1 / 3)
    again = LatentCoder.from_dict(coder.to_dict(), SHAPES)
    assert again.encode(one.latents) == coder.encode(one.latents)
    for a, b in zip(coder.channels, again.channels, strict=True):
        assert all((getattr(a, name) == getattr(b, name)).all() for name in ("sigma", "differences", "centre", "scale"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("coder", "another"),
        ("step", 0),
        ("step", math.nan),
        ("step", "x"),
        ("latents", {}),
        ("latents", []),
        ("sigma", [1.0]),
        ("sigma", [0.0] * 8),
        ("sigma", [math.inf] * 8),
        ("sigma", [1e-44] * 8),
        ("sigma", [10**400] * 8),
        ("differences", [2] * 8),
        ("scale", [[-33, 0]] * 8),
        ("scale", [[224, 0]] * 8),
        ("centre", [[2**40, 0]] * 8),
        ("centre", [[-(2**63), 0]] * 8),
        ("centre", [[2**70, 0]] * 8),
        ("centre", [0] * 16),
    ],
)
def test_tables_that_cannot_be_are_refused(key, value):
    facts = LatentCoder.fit(collected(posteriors(0.1, 1)), 0.01).to_dict()
    if key in facts:
        facts[key] = value
    else:
        facts["latents"]["dynamics_x"][key] = value
    with pytest.raises((KeyError, TypeError, ValueError, ArithmeticError)):
        LatentCoder.from_dict(facts, SHAPES)


def test_windows_of_too_many_values_are_refused():
    facts = LatentCoder.fit(collected(posteriors(0.1, 1)), 1.0).to_dict()
    with pytest.raises(ValueError, match="windows of more than 16777216 values"):
        LatentCoder.from_dict(facts, tuple((10000, *shape[1:]) for shape in SHAPES))


def test_coded_values_of_other_latents_are_refused():
    one = posteriors(0.1, 1)[0]
    coder = LatentCoder.fit(collected([one]), 1.0)
    structure, dynamics = coder.encode(one.latents)
    for wrong in ((structure[:-4], dynamics), (structure, dynamics + dynamics), (structure[:-1], dynamics), (b"\0" * 8, dynamics)):
        with pytest.raises(ValueError, match="coded values|Invalid compressed data"):
            coder.decode(*wrong, SHAPES)


def test_sigma_is_averaged_and_kl_summed():
    windows = posteriors(0.1, 1) + posteriors(0.3, 1)
    moments = collected(windows)
    assert all(sigma == pytest.approx(0.2) for sigma in moments.sigma)
    kl = [Posterior(one.latents, one.logvar).kl() for one in windows]
    assert sum(moments.kl) == pytest.approx(float(sum(kl)) / math.log(2), rel=1e-5)
    with pytest.raises(ValueError, match="no log-variances .*; encode with logvar=True, or give sigma"):
        LatentCoder.fit(collected([replace(windows[0], logvar=None)]), 1.0)


def test_shapes_are_those_of_a_header():
    shapes = header("tile").shapes
    means = Latents(*(torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes))
    one = window(means, means.map(lambda tensor: torch.full_like(tensor, 0.1)))
    coder = LatentCoder.fit(collected([one]), 1.0)
    assert same(coder.decode(*coder.encode(means), shapes), coder.quantized(means))


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(ValueError, match=r"need the package constriction: pip install 'vidtwin\[compress\]'"):
        needs_constriction()
