import copy
import json
import re
import warnings
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from einops import rearrange

from tests.conftest import SMALL, seeded_model
from vidtwin import Latents, MotionExtractor, VidTwin, export_released
from vidtwin.frames.clips import Geometry, fit, to_clip
from vidtwin.model.checkpoint import weights_hash
from vidtwin.motion import presets as presets_module
from vidtwin.motion.frames import Windows, frame_indices
from vidtwin.motion.inputs import FileFrames
from vidtwin.motion.layouts import LAYOUTS, Dynamics, motion_shape, pack, unpack

WIDE = replace(SMALL, width=64)


def video(*shape: int, seed: int = 0) -> torch.Tensor:
    """uint8 noise."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def extractor(model):
    return MotionExtractor(model)


def same(a, b) -> bool:
    if isinstance(a, tuple):
        return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))
    return torch.equal(a, b)


def refused(match: str):
    """A ValueError of one line."""
    return pytest.raises(ValueError, match=rf"\A[^\n]*{match}[^\n]*\Z")


# Layouts


def numbered(d: int, f: int, w: int, h: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x and y whose values tell their place: 10000 which + 1000 d + 10 f + n, and 100000 for the second of a batch of two."""

    def half(which: int, n: int) -> torch.Tensor:
        d_, f_, n_ = torch.meshgrid(torch.arange(d), torch.arange(f), torch.arange(n), indexing="ij")
        one = 10000 * which + 1000 * d_ + 10 * f_ + n_
        return torch.stack([one, 100000 + one])

    return half(0, w), half(1, h)


def test_cowvla_is_frame_then_place_then_channel():
    x, y = numbered(2, 3, 4, 4)
    out = pack(x, y, "cowvla")
    assert out.shape == (2, 48)
    assert out[0, :9].tolist() == [0, 1000, 10000, 11000, 1, 1001, 10001, 11001, 2]  # x's channels, then y's, place by place
    assert out[0, 16:18].tolist() == [10, 1010] and out[1, 0] == 100000  # the second frame; the second clip
    for c, t, i in np.ndindex(4, 3, 4):
        assert out[0, (t * 4 + i) * 4 + c] == (x[0, c, t, i] if c < 2 else y[0, c - 2, t, i])
    assert torch.equal(out, rearrange(torch.cat([x, y], dim=1), "b d f n -> b (f n d)"))


def test_per_frame_is_cowvla_with_a_vector_for_each_frame():
    x, y = numbered(2, 3, 4, 4)
    out = pack(x, y, "per_frame")
    assert out.shape == (2, 3, 16)
    assert out[0, 2, :5].tolist() == [20, 1020, 10020, 11020, 21]
    for c, t, i in np.ndindex(4, 3, 4):
        assert out[1, t, i * 4 + c] == (x[1, c, t, i] if c < 2 else y[1, c - 2, t, i])
    assert torch.equal(out.flatten(1), pack(x, y, "cowvla"))


def test_xy_is_the_tensors_own_order():
    x, y = numbered(2, 3, 4, 5)
    out = pack(x, y, "xy")
    assert out.shape == (2, 54)
    assert (
        out[0, :6].tolist() == [0, 1, 2, 3, 10, 11]
        and out[0, 12] == 1000
        and out[0, 24:30].tolist() == [*range(10000, 10005), 10010]
    )
    for c, t, i in np.ndindex(2, 3, 4):
        assert out[0, (c * 3 + t) * 4 + i] == x[0, c, t, i]
    for c, t, i in np.ndindex(2, 3, 5):
        assert out[1, 24 + (c * 3 + t) * 5 + i] == y[1, c, t, i]


def test_raw_is_the_pair():
    x, y = numbered(2, 3, 4, 5)
    out = pack(x, y, "raw")
    assert isinstance(out, Dynamics) and out.x is x and out.y is y


@pytest.mark.parametrize("config", [SMALL, WIDE])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_unpack_is_the_inverse(layout, config):
    (d, f, w), (_, _, h) = config.dynamics_x_shape, config.dynamics_y_shape
    x, y = numbered(d, f, w, h)
    if layout in ("cowvla", "per_frame") and config is WIDE:
        with refused(f"layout='{layout}': needs a square model, this one has w=4 and h=2; use 'xy' or 'raw'"):
            unpack(torch.zeros(1, 1), layout, config)
        with refused("needs a square model"):
            MotionExtractor(VidTwin(config), layout)
        return
    out = pack(x, y, layout)
    assert same(unpack(out, layout, config), (x, y))
    shape = motion_shape(layout, config)
    assert (tuple(out.shape[1:]) if layout != "raw" else tuple(tuple(half.shape[1:]) for half in out)) == shape
    with refused(f"layout='{layout}' of this model is"):
        unpack(torch.zeros(1, 7) if layout != "raw" else Dynamics(x, x[:, :, :1]), layout, config)


def test_shapes_of_the_released_size():
    config = replace(SMALL, height=224, width=224, patch=16, dynamics_channels=8)
    assert [motion_shape(layout, config) for layout in LAYOUTS] == [(1792,), (16, 112), (1792,), ((8, 16, 7), (8, 16, 7))]


def test_what_is_unpacked_decodes(model, extractor):
    clips = video(2, 16, 3, 32, 32)
    latents = extractor.posterior(clips).mean
    motion = extractor.unpack(extractor(clips))
    with torch.no_grad():
        assert torch.equal(model.decode(Latents(latents.structure, *motion)), model.decode(latents))


def test_layouts_and_models_that_do_not_exist_are_refused(model):
    with refused("layout='flat': choose one of cowvla, per_frame, xy, raw"):
        MotionExtractor(model, "flat")
    with refused("dynamics_branch='none': this model has no Dynamics latent"):
        MotionExtractor(VidTwin(replace(SMALL, dynamics_branch="none")))


# Frames


def test_floor_and_round_are_torchs():
    for length in range(1, 201):
        places = torch.linspace(0, length - 1, 16)
        assert frame_indices(length, 16, "floor") == places.long().tolist()
        assert frame_indices(length, 16, "round") == places.round().long().tolist()
        assert frame_indices(length, 16, "floor") == [index * (length - 1) // 15 for index in range(16)]
    assert frame_indices(56, 100, "floor")[54] == 29 != 54 * 55 // 99  # where float32 and whole numbers differ, it is torch's


def test_frames_by_hand():
    assert frame_indices(4, 8, "floor") == [0, 0, 0, 1, 1, 2, 2, 3]
    assert frame_indices(4, 8, "round") == [0, 0, 1, 1, 2, 2, 3, 3]
    assert frame_indices(2, 3, "round") == [0, 0, 1]  # halves to even
    assert frame_indices(20, 4, "stride") == [0, 6, 12, 18]
    assert frame_indices(20, 4, "stride", 2) == [0, 2, 4, 6]
    assert frame_indices(6, 4, "stride", 2) == [0, 2, 4, 5]
    assert frame_indices(2, 4, "stride") == [0, 1, 1, 1]
    assert [frame_indices(9, 1, rule) for rule in ("floor", "round", "stride")] == [[0], [0], [0]]


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 100])
@pytest.mark.parametrize("frames", ["floor", "round", "stride"])
def test_any_length_is_the_clip_of_its_chosen_frames(model, extractor, frames, length):
    clips = video(1, length, 3, 32, 32)
    chosen = clips[:, frame_indices(length, 16, frames)]
    assert torch.equal(MotionExtractor(model, frames=frames)(clips), extractor(chosen))


def test_options_that_do_not_do_are_refused(model):
    for options, message in (
        ({"frames": "first"}, "frames='first': choose one of floor, round, stride"),
        ({"resize": "tile"}, "resize='tile': choose one of crop, squash, pad"),
        ({"dtype": "float64"}, "dtype='float64': choose one of"),
        ({"batch_size": 0}, "batch_size=0: must be a whole number of at least 1"),
        ({"stride": 2}, "stride=2: is of frames='stride', not of frames='floor'; leave it out"),
        ({"frames": "stride", "stride": 0}, "stride=0: must be a whole number"),
        ({"device": "abacus"}, "device='abacus': unknown"),
    ):
        with refused(message):
            MotionExtractor(model, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_a_device_that_is_not_here_is_refused(model):
    with refused("device='cuda': is not available here; use device='cpu'"):
        MotionExtractor(model, device="cuda")


# What goes in


def test_geometry_is_that_of_to_clip(model):
    for resize in ("crop", "squash", "pad"):
        for height, width in ((33, 57), (57, 33), (7, 5), (32, 32), (1, 9), (90, 160)):
            frames = video(16, height, width, 3)
            clip = to_clip(frames.numpy(), Geometry.plan(resize, (height, width), (32, 32)))
            with torch.no_grad():
                latents = model.encode(clip[None])
            motion = MotionExtractor(model, "raw", resize=resize)(frames.permute(0, 3, 1, 2)[None], "BTCHW")
            assert same(motion, (latents.dynamics_x, latents.dynamics_y))


def pipeline_by_hand(model, frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A pipeline written out: (B, T, 3, H, W) uint8, the shorter side to the model's, `size` being all of (height, width)."""
    frames = frames.float() / 255
    frames = frames[:, torch.linspace(0, frames.shape[1] - 1, 16).long()]
    frames = functional.interpolate(frames.flatten(0, 1), size=size, mode="bilinear", align_corners=False, antialias=True)
    top, left = round((size[0] - 32) / 2), round((size[1] - 32) / 2)
    frames = (frames[:, :, top : top + 32, left : left + 32] - 0.5) / 0.5
    x = frames.reshape(-1, 16, 3, 32, 32).permute(0, 2, 1, 3, 4).contiguous()
    with torch.no_grad():
        latents = model.encode(x)
    return rearrange(torch.cat([latents.dynamics_x, latents.dynamics_y], dim=1), "b d f n -> b (f n d)")


@pytest.mark.parametrize(
    ("length", "source", "resized"), [(40, (48, 96), (32, 64)), (9, (57, 33), (55, 32)), (16, (20, 20), (32, 32))]
)
def test_equals_a_pipeline_of_crop_floor_cowvla(model, extractor, length, source, resized):
    frames = video(1, length, 3, *source)
    assert torch.equal(extractor(frames), pipeline_by_hand(model, frames, resized))


def test_equals_a_pipeline_of_squash_round_xy(model):
    frames = video(1, 37, 3, 40, 70)
    x = frames[0, torch.linspace(0, 36, 16).round().long()].float() / 255
    x = functional.interpolate(x, size=(32, 32), mode="bilinear", antialias=True) * 2 - 1
    with torch.no_grad():
        latents = model.encode(x.transpose(0, 1)[None].contiguous())
    expected = torch.cat([latents.dynamics_x.flatten(1), latents.dynamics_y.flatten(1)], dim=1)
    assert torch.equal(MotionExtractor(model, "xy", "round", "squash")(frames), expected)


def test_orders_dtypes_and_arrays_agree_bit_for_bit(extractor):
    frames = video(2, 17, 3, 21, 34)
    expected = extractor(frames)
    assert expected.shape == (2, *extractor.shape) == (2, extractor.size) and expected.dtype == torch.float32
    assert not expected.requires_grad and not expected.is_inference()
    unit = frames.float() / 255
    for other in (
        unit,
        frames.double() / 255,
        frames.numpy(),
        unit.numpy(),
        frames.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3),
    ):
        assert torch.equal(extractor(other), expected)
        assert torch.equal(extractor(other.transpose(1, 2) if isinstance(other, torch.Tensor) else other.swapaxes(1, 2)), expected)
    assert torch.equal(extractor(frames, order="BTCHW"), expected)
    assert torch.equal(extractor(frames.numpy()[:, ::-1].copy()[:, ::-1]), expected)
    read_only = frames.numpy().copy()
    read_only.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(extractor(read_only), expected)
    assert torch.allclose(extractor(unit * 2 - 1, value_range="symmetric"), expected, atol=1e-5)  # the way back rounds


def test_the_colour_axis_is_never_guessed(extractor):
    three = video(1, 3, 3, 32, 32)
    with refused(r"order=None: shape \(1, 3, 3, 32, 32\) does not tell which axis .*give order='BTCHW' or order='BCTHW'"):
        extractor(three)
    assert torch.equal(extractor(three, "BTCHW"), extractor(three.transpose(1, 2), "BCTHW"))
    for shape in ((1, 16, 4, 32, 32), (1, 16, 3, 32, 3), (1, 3, 32, 32, 3)):
        with refused("order=None"):
            extractor(video(*shape))
    with refused(r"order='BCTHW': axis 1 of shape \(1, 16, 3, 32, 32\) must hold the 3 colours"):
        extractor(video(1, 16, 3, 32, 32), "BCTHW")
    with refused("order='BHWTC': choose one of BTCHW, BCTHW, BTHWC"):
        extractor(video(1, 16, 3, 32, 32), "BHWTC")
    with refused("order=None: .*give order='TCHW' or order='CTHW'"):
        extractor.episode(three[0])
    episode = video(3, 3, 32, 32)
    assert torch.equal(extractor.episode(episode, order="TCHW"), extractor.episode(episode.transpose(0, 1), order="CTHW"))


def test_other_videos_are_refused(extractor):
    unit = torch.rand(1, 16, 3, 32, 32)
    dark, broken = unit.clone(), unit.clone()
    dark[0, 3], broken[0, 5, 0, 0, 0] = -0.5, torch.nan
    for bad, options, message in (
        (
            unit[0],
            {},
            r"video of shape \(16, 3, 32, 32\): expected 5 axes, BTCHW or BCTHW or BTHWC; add the batch axis",
        ),
        (unit[:, :0], {"order": "BTCHW"}, "an axis is empty"),
        (unit[:0], {}, "an axis is empty"),
        (unit * 255, {}, "values from .* to 25.*value_range='unit' is \\[0, 1\\]; rescale, give uint8"),
        (dark, {}, "values from -0.5 to .*name value_range='symmetric'"),
        (broken, {}, "values from nan to nan"),
        (broken, {"value_range": "symmetric"}, "values from nan"),
        (unit.to(torch.int64), {}, "video of dtype torch.int64: give uint8 in 0..255"),
        (unit.numpy().astype(np.int64), {}, "video of dtype int64"),
        (unit, {"value_range": "tanh"}, "value_range='tanh': choose one of unit, symmetric"),
        (video(1, 16, 3, 32, 32), {"value_range": "unit"}, "value_range='unit': uint8 video is 0..255; leave value_range out"),
        (unit.tolist(), {}, "video of type list: give a torch tensor or a numpy array"),
    ):
        with refused(message):
            extractor(bad, **options)
    with refused("expected 4 axes, TCHW or CTHW or THWC; give one episode at a time"):
        extractor.episode(unit)


# What comes out


def test_a_clip_does_not_depend_on_its_batch(model, extractor):
    frames = video(5, 17, 3, 40, 50)
    together = extractor(frames)
    alone = [extractor(frames[index : index + 1]) for index in range(5)]
    assert torch.equal(together, torch.cat(alone))
    assert torch.allclose(MotionExtractor(model, batch_size=3)(frames), together, atol=1e-6)


def test_posterior_holds_the_same_means(model, extractor):
    frames = video(2, 20, 3, 32, 32)
    posterior = extractor.posterior(frames)
    assert torch.equal(pack(posterior.mean.dynamics_x, posterior.mean.dynamics_y, "cowvla"), extractor(frames))
    clips = frames[:, frame_indices(20, 16, "floor")].transpose(1, 2).float() / 127.5 - 1
    with torch.no_grad():
        expected = model.posterior(clips[1:])
    for ours, theirs in zip(posterior.logvar.tensors, expected.logvar.tensors, strict=True):
        assert ours.dtype == torch.float32 and torch.allclose(ours[1:], theirs, atol=1e-5)
    assert posterior.sample(torch.Generator().manual_seed(0)).dynamics_x.shape == (2, *SMALL.dynamics_x_shape)


def test_nothing_around_the_call_changes_the_numbers(model, extractor):
    frames = video(1, 16, 3, 32, 32)
    expected = extractor(frames)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extractor(frames), expected)
    trained = copy.deepcopy(model).train()
    other = MotionExtractor(trained)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.zero_()
    assert torch.equal(other(frames), expected) and trained.training and not other.model.training
    (torch.nn.Linear(extractor.size, 1)(expected)).sum().backward()  # a policy may train on it


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_lower_precision_inside_is_float32_outside(model, extractor, dtype):
    frames = video(3, 16, 3, 32, 32)
    low = MotionExtractor(model, dtype=dtype)
    motion = low(frames)
    assert motion.dtype == torch.float32 and low.posterior(frames).logvar.structure.dtype == torch.float32
    assert not torch.equal(motion, extractor(frames)) and torch.allclose(motion, extractor(frames), atol=0.02)
    assert torch.equal(motion, torch.cat([low(frames[index : index + 1]) for index in range(3)]))
    assert low.weights_hash == extractor.weights_hash == weights_hash(model)
    with refused(f"weights of torch.{dtype}: give the model in float32"):
        MotionExtractor(copy.deepcopy(model).to(getattr(torch, dtype)))


def test_what_overflows_is_encoded_in_float32_with_one_warning(model):
    bright = copy.deepcopy(model)
    with torch.no_grad():
        bright.encoder.patch_embedding.weight *= 1e5  # black clips stay in the range of float16, others do not
        bright.encoder.patch_embedding.weight[:, 1:] = -bright.encoder.patch_embedding.weight[:, :1] / 2
    frames = video(3, 16, 3, 32, 32)
    frames[1] = 0
    expected = MotionExtractor(bright)(frames)
    for batch_size in (1, 3):
        low = MotionExtractor(bright, dtype="float16", batch_size=batch_size)
        with pytest.warns(
            UserWarning, match="dtype='float16': a latent is not finite; such clips are encoded in float32"
        ) as caught:
            motion = low(frames)
            low(frames)
        assert len(caught) == 1
        assert torch.equal(motion[::2], expected[::2])
        assert not torch.equal(motion[1], expected[1]) and torch.allclose(motion[1], expected[1], atol=0.02)  # stayed in float16
    with torch.no_grad():
        bright.dynamics_encoder.moments.bias.fill_(torch.nan)
    with refused("NaN or infinite values in float32: the weights are broken"):
        MotionExtractor(bright)(frames)


# Known users, each computed from what their code does, and with none of ours but the model


def encoded(model: VidTwin, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        latents = model.encode(clips.permute(0, 2, 1, 3, 4).contiguous())
    return latents.dynamics_x, latents.dynamics_y


def smolw(model: VidTwin, video: torch.Tensor) -> torch.Tensor:
    """Even steps cut down; short side to the model's, long side to nearest, antialias; offsets of the crop rounded down."""
    chosen = video[:, torch.linspace(0, video.shape[1] - 1, 16).long()].float() / 255
    side, height, width = model.config.height, *video.shape[-2:]
    size = (side, max(side, round(width * side / height))) if height <= width else (max(side, round(height * side / width)), side)
    frames = functional.interpolate(chosen.flatten(0, 1), size, mode="bilinear", align_corners=False, antialias=True)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    frames = (frames[..., top : top + side, left : left + side] - 0.5) / 0.5
    both = torch.cat(encoded(model, frames.unflatten(0, chosen.shape[:2])), 1)
    return both.permute(0, 2, 3, 1).flatten(1)


def cowvla(model: VidTwin, video: torch.Tensor) -> torch.Tensor:
    """As smolw, but with torchvision's Resize, whose long side is cut down, and CenterCrop, whose offsets are rounded."""
    chosen = video[:, torch.linspace(0, video.shape[1] - 1, 16).long()].float() / 255
    side, height, width = model.config.height, *video.shape[-2:]
    size = (side, int(side * width / height)) if height <= width else (int(side * height / width), side)
    frames = functional.interpolate(chosen.flatten(0, 1), size, mode="bilinear", align_corners=False, antialias=True)
    top, left = round((size[0] - side) / 2), round((size[1] - side) / 2)
    frames = (frames[..., top : top + side, left : left + side] - 0.5) / 0.5
    both = torch.cat(encoded(model, frames.unflatten(0, chosen.shape[:2])), 1)
    return rearrange(both, "b d f n -> b (f n d)")


def dialga(model: VidTwin, video: torch.Tensor) -> torch.Tensor:
    """Even steps rounded; stretched to the model's size without antialias; x, then y, as they are."""
    chosen = video[:, torch.linspace(0, video.shape[1] - 1, 16).round().long()].float() / 255 * 2 - 1
    size = (model.config.height, model.config.width)
    frames = functional.interpolate(chosen.flatten(0, 1), size, mode="bilinear", align_corners=False)
    x, y = encoded(model, frames.unflatten(0, chosen.shape[:2]))
    return torch.cat([x.flatten(1), y.flatten(1)], 1)


@pytest.mark.parametrize("user", [smolw, cowvla, dialga], ids=lambda user: user.__name__)
@pytest.mark.parametrize(
    ("length", "height", "width"), [(20, 48, 64), (9, 67, 45), (16, 32, 32), (37, 20, 31), (2, 480, 640), (2, 700, 500)]
)
def test_a_preset_gives_the_numbers_of_its_user(model, user, length, height, width):
    frames = video(1, length, 3, height, width)
    expected = user(model, frames)
    motion = MotionExtractor.preset(user.__name__, model)(frames)
    assert (motion - expected).norm() < 1e-5 * expected.norm()


def test_the_presets_differ(model):
    frames = video(1, 24, 3, 48, 65)
    one, two, three = (MotionExtractor.preset(name, model)(frames) for name in ("cowvla", "smolw", "dialga"))
    assert (one - two).norm() > 1e-3 * two.norm() and (two - three).norm() > 0.1 * two.norm()
    assert MotionExtractor.preset("smolw", model, layout="per_frame").shape == (16, MotionExtractor(model).size // 16)
    with refused("name='smolvla': choose one of cowvla, smolw, dialga"):
        MotionExtractor.preset("smolvla", model)


def test_smolws_future_are_the_frames_after_a_step_and_its_last_steps_are_left_out(model):
    frames, horizon = video(14, 3, 48, 64), 5
    future = MotionExtractor.preset("smolw", model).episode(frames, horizon, align="next", padding="drop")
    expected = torch.cat([smolw(model, frames[None, t + 1 : t + horizon + 1]) for t in range(14 - horizon)])
    assert len(future) == len(expected) and (future - expected).norm() < 1e-5 * expected.norm()


def test_a_record_of_a_preset_rebuilds_it(model):
    extractor = MotionExtractor.preset("dialga", model)
    record = json.loads(json.dumps(extractor.record(window=5, align="next", padding="drop")))
    again, frames = MotionExtractor.from_record(record, weights=model), video(12, 3, 40, 52)
    assert torch.equal(again.episode(frames, **record["episode"]), extractor.episode(frames, 5, align="next", padding="drop"))


# Files


def test_a_path_and_a_recording_are_their_frames(extractor, tmp_path):
    from vidtwin.data.recording import Recording
    from vidtwin.video import VideoWriter, read_video

    path, pictures = tmp_path / "a.mp4", video(30, 40, 56, 3).numpy()
    with VideoWriter(path, Fraction(25), (40, 56)) as writer:
        writer.write(pictures)
    frames = read_video(path).frames
    assert torch.equal(extractor(path), extractor(frames[None])) and torch.equal(extractor(str(path)), extractor(path))
    assert torch.equal(extractor.posterior(path).mean.structure, extractor.posterior(frames[None]).mean.structure)
    for options in ({}, {"window": 20, "stride": 7, "align": "center"}, {"window": 3, "stride": 9, "align": "next"}):
        assert torch.equal(extractor.episode(path, **options), extractor.episode(frames, **options))
    part = Recording(path, 7, 25)
    assert torch.equal(extractor.episode(part, stride=4), extractor.episode(frames[7:25], stride=4))
    assert torch.equal(extractor(part), extractor(frames[None, 7:25]))
    kept = FileFrames(part, 4)
    assert len(kept) == 18 and torch.equal(kept[9], torch.from_numpy(frames[16]).permute(2, 0, 1)) and len(kept._seen) == 4
    with pytest.raises(FileNotFoundError, match=r"\A[^\n]*none.mp4: no such file[^\n]*\Z"):
        extractor.episode(tmp_path / "none.mp4")
    with refused("a.mp4.*has no frames"):
        extractor(Recording(path, 0, 5, problem="has no frames from 5 to 6 s; get the data set again"))
    with refused("a.mp4.*: only 30 of 40 frames could be read; get it again"):
        extractor(Recording(path, 0, 40))
    with refused("order='TCHW': is of tensors and arrays; leave it out for a file"):
        extractor.episode(path, order="TCHW")


def test_colours_last_are_recognised(extractor):
    frames = video(20, 24, 40, 3)
    moved = frames.permute(0, 3, 1, 2)
    for given in (frames, frames.numpy(), moved.permute(0, 2, 3, 1)):
        assert torch.equal(extractor.episode(given, stride=5), extractor.episode(moved, stride=5))
    assert torch.equal(extractor(frames[None]), extractor(moved[None], "BTCHW"))
    stream = extractor.live(padding="drop")
    assert torch.equal([stream.push(frame) for frame in frames.numpy()][15], extractor.episode(moved, padding="drop")[0])


# Episodes


def test_windows_by_hand():
    assert Windows(3, stride=2, align="next").over(5) == {0: [1, 2, 3], 2: [3, 4, 4], 4: [4, 4, 4]}
    assert Windows(3, padding="drop", align="next").over(5) == {0: [1, 2, 3], 1: [2, 3, 4]}
    assert Windows(3, stride=2).over(5) == {0: [0, 0, 0], 2: [0, 1, 2], 4: [2, 3, 4]}
    assert Windows(3, stride=2, padding="drop").over(5) == {2: [0, 1, 2], 4: [2, 3, 4]}
    assert Windows(3, stride=2, align="future").over(5) == {0: [0, 1, 2], 2: [2, 3, 4], 4: [4, 4, 4]}
    assert Windows(3, stride=2, align="center").over(5) == {0: [0, 0, 1], 2: [1, 2, 3], 4: [3, 4, 4]}
    assert Windows(4, align="center", padding="drop").over(6) == {2: [0, 1, 2, 3], 3: [1, 2, 3, 4], 4: [2, 3, 4, 5]}
    assert Windows(1).over(2) == {0: [0], 1: [1]}
    assert Windows(4, padding="drop").over(3) == {}
    for options, message in (
        ({"window": 0}, "window=0: must be a whole number of at least 1"),
        ({"window": 2, "stride": 1.5}, "stride=1.5: must be"),
        ({"window": 2, "padding": "zero"}, "padding='zero': choose one of edge, drop"),
        ({"window": 2, "align": "now"}, "align='now': choose one of past, center, future, next"),
    ):
        with refused(message):
            Windows(**options)


@pytest.mark.parametrize("align", ["past", "center", "future", "next"])
@pytest.mark.parametrize("padding", ["edge", "drop"])
@pytest.mark.parametrize("window", [None, 5, 20])
def test_an_episode_is_its_windows_as_videos(extractor, align, padding, window):
    frames = video(23, 3, 20, 41)
    motion = extractor.episode(frames, window, 4, padding, align)
    windows = Windows(window or 16, 4, padding, align).over(23)
    assert len(motion) == len(windows)
    assert torch.equal(motion, torch.cat([extractor(frames[places][None]) for places in windows.values()]))


def test_an_episode_resizes_each_frame_once(extractor, monkeypatch):
    resized = []
    monkeypatch.setattr(presets_module, "fit", lambda frame, geometry: resized.append(frame) or fit(frame, geometry))
    extractor.episode(video(20, 3, 20, 41), align="center")
    assert len(resized) == 20


def test_an_episode_shorter_than_its_windows(extractor):
    frames = video(5, 3, 32, 32)
    assert extractor.episode(frames).shape == (5, extractor.size)
    with refused("window=16: the episode has 5 frames; shorten it or use padding='edge'"):
        extractor.episode(frames, padding="drop")


@pytest.mark.parametrize(
    ("layout", "window", "stride", "padding"), [("cowvla", 6, 1, "edge"), ("raw", 20, 3, "drop"), ("xy", None, 5, "edge")]
)
def test_live_is_the_episode_number_for_number(model, layout, window, stride, padding):
    extractor = MotionExtractor(model, layout)
    stream = extractor.live(window, stride, padding)
    for seed in (0, 1):  # the second after a reset, of another size, as float arrays
        frames = video(26, 3, 30 + 9 * seed, 44, seed=seed)
        offline = extractor.episode(frames, window, stride, padding, "past")
        given = frames if seed == 0 else (frames.float() / 255).numpy()
        pushed = [stream.push(frame) for frame in given]
        steps = Windows(window or 16, stride, padding).over(26)
        assert [step for step, motion in enumerate(pushed) if motion is not None] == list(steps)
        live = [motion for motion in pushed if motion is not None]
        if layout == "raw":
            assert same(Dynamics(*(torch.stack(halves) for halves in zip(*live, strict=True))), offline)
            assert tuple(tuple(half.shape) for half in live[0]) == extractor.shape
        else:
            assert torch.equal(torch.stack(live), offline) and tuple(live[0].shape) == extractor.shape
        stream.reset()


def test_a_live_stream_refuses_what_it_cannot_know(extractor):
    with refused("align='future': a live stream has not seen the future; use 'past'"):
        extractor.live(align="future")
    stream = extractor.live()
    first = stream.push(video(3, 32, 40))
    assert first is not None
    with refused("frame of size 32x32: the frames before it have another; call reset\\(\\) between episodes"):
        stream.push(video(3, 32, 32))
    with refused("expected 3 axes, CHW"):
        stream.push(video(1, 3, 32, 40))
    with refused("order=None: shape .32, 40, 4. does not tell which axis holds the 3 colours"):
        stream.push(video(32, 40, 4))


# Records


def test_a_record_rebuilds_its_extractor(model, weights):
    options = {"layout": "xy", "frames": "stride", "resize": "pad", "stride": 2, "dtype": "bfloat16", "batch_size": 2}
    extractor = MotionExtractor(weights, **options)
    record = extractor.record(window=20, stride=3)
    assert record == json.loads(json.dumps(record)) and len(json.dumps(record)) < 2000
    assert record["weights"] == {"name": "small", "hash": weights_hash(model)}  # no folder, and not changed by the dtype
    assert record["config"] == SMALL.to_dict() and record["shape"] == [extractor.size] and record["device"] == "cpu"
    assert record["torch"] == torch.__version__ and record["values"].startswith("uint8")
    assert record["episode"] == {"window": 20, "stride": 3, "padding": "edge", "align": "past"}
    assert MotionExtractor(model, "raw").record()["shape"] == [list(SMALL.dynamics_x_shape), list(SMALL.dynamics_y_shape)]

    again = MotionExtractor.from_record(json.loads(json.dumps(record)), weights=model)
    again.check(record, window=20, stride=3)
    frames = video(1, 30, 3, 40, 32)
    assert torch.equal(again(frames), extractor(frames))
    assert torch.equal(again.episode(frames[0], **record["episode"]), extractor.episode(frames[0], 20, 3))
    again.live(**record["episode"])


def test_check_names_what_differs(model):
    record = MotionExtractor(model).record()
    for options, match in (
        ({"layout": "xy"}, "layout is 'cowvla', here 'xy'; encode again"),
        ({"frames": "stride", "stride": 2}, "frames is 'floor', here 'stride'; stride is None, here 2"),
        ({"resize": "squash", "dtype": "float16"}, "resize is 'crop', here 'squash'; dtype is 'float32', here 'float16'"),
    ):
        with refused(match):
            MotionExtractor(model, **options).check(record)
    MotionExtractor(model).check(record)
    with refused("weights is 'unnamed' .*, here 'unnamed'"):
        MotionExtractor(seeded_model(seed=1)).check(record)
    with refused("episode is None, here {'window': 16, 'stride': 1"):
        MotionExtractor(model).check(record, stride=1)
    faster = MotionExtractor(model, batch_size=2)
    with refused(r"batch_size is 1, here 2 \(no more than rounding; check\(record, exact=False\) lets it pass\)"):
        faster.check(record)
    faster.check(record | {"torch": "1.0", "device": "cuda"}, exact=False)


def test_records_that_are_not_ours_are_refused(model, weights):
    extractor = MotionExtractor(weights)
    record = extractor.record()
    for bad, message in (
        ({}, "record without vidtwin_motion=1"),
        ([], "record without vidtwin_motion=1"),
        (record | {"vidtwin_motion": 2}, "record without vidtwin_motion=1"),
        ({name: value for name, value in record.items() if name != "dtype"}, "fields dtype are missing or unknown"),
        (record | {"colour": "BGR"}, "fields colour are missing or unknown"),
        (record | {"weights": "tiny"}, "weights='tiny' is not a name and a hash"),
    ):
        with refused(message):
            MotionExtractor.from_record(bad)
        with refused(message):
            extractor.check(bad)
    for name in ("small", str(weights), "owner/name"):  # a folder that is there is not read either
        with refused(f"weights='{name}': a record loads shipped weights only; give from_record"):
            MotionExtractor.from_record(record | {"weights": {"name": name, "hash": "0"}})
    with refused("the record is of 'small' .*; give weights= of that hash"):
        MotionExtractor.from_record(record, weights=seeded_model(seed=1))
    with refused("layout='flat'"):
        MotionExtractor.from_record(record | {"layout": "flat"}, weights=model)
    with refused("device='abacus'"):
        MotionExtractor.from_record(record | {"device": "abacus"}, weights=model)


def test_shipped_weights_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    extractor = MotionExtractor("tiny", "per_frame")
    assert extractor.shape == (16, 112) and extractor.size == 1792
    frames = video(3, 3, 90, 160)
    motion = extractor(frames[None], "BTCHW")
    again = MotionExtractor.from_record(json.loads(json.dumps(extractor.record())))
    assert torch.equal(again(frames[None], "BTCHW"), motion) and again.weights_name == "tiny"
    model = VidTwin.from_pretrained("tiny")
    clip = to_clip(frames.permute(0, 2, 3, 1).numpy(), Geometry.plan("crop", (90, 160), (224, 224)))
    with torch.no_grad():
        latents = model.encode(clip[None, :, frame_indices(3, 16, "floor")])
    assert torch.equal(motion, pack(latents.dynamics_x, latents.dynamics_y, "per_frame"))


def test_weights_in_microsofts_layout(model, tmp_path):
    export_released(model, tmp_path / "small.ckpt")
    extractor = MotionExtractor(str(tmp_path / "small.ckpt"), config=SMALL)
    assert extractor.record()["weights"] == {"name": "small.ckpt", "hash": weights_hash(model)}
    frames = video(1, 16, 3, 32, 32)
    assert torch.equal(extractor(frames), MotionExtractor(model)(frames))
    with pytest.raises(FileNotFoundError, match="no such file"):
        MotionExtractor(tmp_path / "none.ckpt")


def test_the_manual_runs():
    page = (Path(__file__).parents[2] / "docs" / "motion.md").read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(block, names)
    assert names["motion"].shape == (2, 1792) and names["offline"].shape == (4, 1792)


@pytest.mark.gpu
def test_on_cuda_offline_is_live_and_the_input_s_device_does_not_matter(model):
    extractor = MotionExtractor(model, device="cuda", dtype="bfloat16")
    frames = video(20, 3, 40, 50)
    offline = extractor.episode(frames, stride=3)
    assert offline.device.type == "cpu" and extractor.episode(frames.cuda(), stride=3).device.type == "cuda"
    assert torch.equal(extractor.episode(frames.cuda(), stride=3).cpu(), offline)
    stream = extractor.live(stride=3)
    assert torch.equal(torch.stack([m for m in map(stream.push, frames.cuda()) if m is not None]).cpu(), offline)
    assert torch.allclose(offline, MotionExtractor(model).episode(frames, stride=3), atol=0.02)


def test_an_episode_is_plotted_beside_its_frames(model):
    extractor, frames = MotionExtractor(model, layout="raw"), video(20, 3, 32, 32)
    motion = extractor.episode(frames, stride=5)
    figure = extractor.plot(frames, motion, frames=3, stride=5)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["0", "10", "19"] and len(figure.axes) == 5
    norms = figure.axes[3].lines[0].get_ydata()
    assert np.allclose(norms, torch.cat([half.flatten(1) for half in motion], 1).norm(dim=1))
    assert figure._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="motion of 4 steps: the episode has 20"):
        extractor.plot(frames, motion)
    assert "values" in repr(extractor) and repr(motion) == f"Dynamics(x={tuple(motion.x.shape)}, y={tuple(motion.y.shape)})"
