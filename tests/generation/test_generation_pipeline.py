import json

import pytest
import torch

from tests.conftest import SMALL, seeded_model
from tests.generation.conftest import small_pipeline
from vidtwin import Latents
from vidtwin.generation.diffusion import Process
from vidtwin.generation.files import FACTS_FILE, TENSORS_FILE
from vidtwin.generation.pipeline import VidTwinPipeline


def seeds(*numbers):
    return [torch.Generator().manual_seed(number) for number in numbers]


def latents_of(count):
    torch.manual_seed(9)
    return Latents(*(torch.randn(count, *shape) for shape in SMALL.latent_shapes))


def same(a, b) -> bool:
    return torch.equal(a.videos, b.videos) and all(
        torch.equal(x, y) for p, q in zip(a.latents, b.latents, strict=True) for x, y in zip(p.tensors, q.tensors, strict=True)
    )


@pytest.mark.parametrize("process", [Process(), Process("flow", shift=2.0)], ids=["ddim", "flow"])
def test_sampling_is_a_function_of_the_seed(process):
    pipeline = small_pipeline(process)
    first, again, other = (pipeline("cat", num_inference_steps=3, generator=seeds(seed)[0]) for seed in (0, 0, 1))
    assert same(first, again) and not same(first, other)
    assert first.videos.shape == (1, 16, 32, 32, 3) and first.videos.dtype == torch.uint8


def test_a_video_with_its_own_generator_does_not_depend_on_the_others(pipeline):
    both = pipeline(["cat", "dog"], num_inference_steps=3, generator=seeds(5, 6))
    alone = pipeline("dog", num_inference_steps=3, generator=seeds(6))
    for a, b in zip(both.latents[0].tensors, alone.latents[0].tensors, strict=True):
        torch.testing.assert_close(a[1:], b, atol=1e-5, rtol=1e-4)


def test_labels_are_names_or_numbers_and_matter(pipeline):
    made = [pipeline(label, num_inference_steps=3, generator=seeds(0)[0]) for label in ("dog", 1, ["dog"], "cat", None)]
    assert same(made[0], made[1]) and same(made[0], made[2])
    assert not same(made[0], made[3]) and not same(made[0], made[4])
    free = pipeline(None, num_inference_steps=3, generator=seeds(0)[0], guidance_scale=1.0)
    assert same(made[4], free)  # without a class there is nothing to guide by
    for label in ("bird", 2, -1, 1.5):
        with pytest.raises(ValueError, match="the generator does not know it; its classes are cat, dog"):
            pipeline([label], num_inference_steps=3)


def test_latents_alone_decode_to_the_videos(pipeline):
    made = pipeline(["cat", "dog"], num_inference_steps=2, num_frames=40, generator=seeds(1)[0])
    assert made.videos.shape == (2, 40, 32, 32, 3) and len(made.latents) == 3
    again = torch.cat([pipeline.decode(latents) for latents in made.latents], dim=1)[:, :40]
    assert torch.equal(again, made.videos)


def test_later_windows_see_the_one_before(pipeline):
    draws = [torch.Generator().manual_seed(2) for _ in range(2)]
    long = pipeline("cat", num_inference_steps=2, num_frames=32, generator=draws[0])
    first = pipeline("cat", num_inference_steps=2, generator=draws[1])
    second = pipeline("cat", num_inference_steps=2, generator=draws[1])
    assert torch.equal(long.videos[:, :16], first.videos)
    assert not torch.equal(long.latents[1].structure, second.latents[0].structure)  # of the same noise


@pytest.mark.parametrize("kept", ["structure", "dynamics"])
def test_a_given_latent_is_kept_and_the_other_one_sampled(pipeline, kept):
    given = latents_of(2)
    made = pipeline(["cat", "dog"], num_inference_steps=2, generator=seeds(0)[0], **{kept: given}).latents[0]
    same_structure = torch.allclose(made.structure, given.structure, atol=1e-5)
    same_dynamics = torch.allclose(made.dynamics_x, given.dynamics_x, atol=1e-5)
    assert (same_structure, same_dynamics) == ((True, False) if kept == "structure" else (False, True))
    assert torch.allclose(made.dynamics_y, given.dynamics_y, atol=1e-5) == same_dynamics
    assert len(pipeline(num_inference_steps=1, **{kept: given}).videos) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "num_frames=0: give at least 1"),
        ({"structure": latents_of(2), "num_frames": 20}, "a given structure or dynamics is of one window of 16 frames"),
        ({"class_labels": ["cat"], "structure": latents_of(2)}, "structure of 2 clips for 1 videos"),
        ({"structure": latents_of(1), "dynamics": latents_of(1)}, "structure and dynamics are both given"),
        ({"class_labels": "cat", "generator": seeds(0, 1)}, "2 generators for 1 videos"),
    ],
)
def test_what_cannot_be_made_is_refused(pipeline, options, message):
    with pytest.raises(ValueError, match=message):
        pipeline(**options)


@pytest.mark.parametrize("kept", ["structure", "dynamics"])
def test_a_given_latent_needs_a_generator_with_levels_of_their_own(pipeline, tmp_path, kept):
    pipeline.separate_levels = 0.0
    pipeline.save_pretrained(tmp_path / "p")
    with pytest.raises(ValueError, match=f"{kept}: this generator cannot sample .* trained with separate_levels: 0; .* above 0"):
        VidTwinPipeline.from_pretrained(tmp_path / "p")(num_inference_steps=1, **{kept: latents_of(1)})
    facts = json.loads((tmp_path / "p" / FACTS_FILE).read_text())
    del facts["separate_levels"]  # as in folders written before there was such a key
    (tmp_path / "p" / FACTS_FILE).write_text(json.dumps(facts))
    again = VidTwinPipeline.from_pretrained(tmp_path / "p")
    assert again.separate_levels is None
    assert len(again(num_inference_steps=1, **{kept: latents_of(1)}).videos) == 1


def test_more_than_a_window_needs_a_generator_that_goes_on():
    with pytest.raises(ValueError, match="num_frames=17: this generator makes 16; train one with previous: true for more"):
        small_pipeline()("cat", num_frames=17)


def test_an_unconditional_generator():
    pipeline = small_pipeline(classes=())
    assert pipeline(num_videos=2, num_inference_steps=1).videos.shape[0] == 2
    with pytest.raises(ValueError, match="its classes are none; it is unconditional"):
        pipeline(0)


def test_a_folder_gives_back_the_same_pipeline(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "p")
    again = VidTwinPipeline.from_pretrained(tmp_path / "p")
    assert (again.classes, again.fps, again.process) == (pipeline.classes, pipeline.fps, pipeline.process)
    assert again.denoiser.config == pipeline.denoiser.config
    made = [p("cat", num_inference_steps=2, generator=seeds(0)[0]) for p in (pipeline, again)]
    assert same(*made)
    autoencoder = (tmp_path / "p" / "autoencoder" / "model.safetensors").stat().st_mtime_ns
    pipeline.save_pretrained(tmp_path / "p")  # the autoencoder is there already
    assert (tmp_path / "p" / "autoencoder" / "model.safetensors").stat().st_mtime_ns == autoencoder


def test_weights_can_be_stored_in_half_the_bytes(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "half", dtype=torch.float16)
    again = VidTwinPipeline.from_pretrained(tmp_path / "half")
    for a, b in ((pipeline.denoiser, again.denoiser), (pipeline.autoencoder, again.autoencoder)):
        for x, y in zip(a.parameters(), b.parameters(), strict=True):
            assert torch.equal(x.half().float() if x.ndim > 1 else x, y)  # biases are kept
    assert all(map(torch.equal, again.normalizer.mean, pipeline.normalizer.mean))


def test_damaged_folders_are_refused_in_one_line(pipeline, tmp_path):
    folder = tmp_path / "p"
    with pytest.raises(FileNotFoundError, match=r"generator.json: missing; give the folder `model` of a run"):
        VidTwinPipeline.from_pretrained(folder)
    pipeline.save_pretrained(folder)
    facts = json.loads((folder / FACTS_FILE).read_text())
    for change in ({"format": 2}, {"process": {"method": "magic"}}, {"denoiser": {"hidden": 3}}, {"classes": 7}, {"fps": None}):
        (folder / FACTS_FILE).write_text(json.dumps(facts | change))
        with pytest.raises(ValueError, match="not the description of a generator"):
            VidTwinPipeline.from_pretrained(folder)
    (folder / FACTS_FILE).write_text(json.dumps(facts | {"denoiser": facts["denoiser"] | {"depth": 3}}))
    with pytest.raises(ValueError, match="tensors do not fit the config; .* missing"):
        VidTwinPipeline.from_pretrained(folder)
    (folder / FACTS_FILE).write_text(json.dumps(facts))
    (folder / TENSORS_FILE).write_bytes((folder / TENSORS_FILE).read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a safetensors file, or cut short"):
        VidTwinPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"fps": "8"},
        {"fps": 0},
        {"fps": -1.0},
        {"fps": 1e30},
        {"fps": None},
        {"classes": "cat"},
        {"classes": ["cat", "cat"]},
        {"classes": [1, 2]},
        {"separate_levels": "0"},
        {"separate_levels": 2},
        {"format": 1.0},
        {"process": []},
        {"process": {"method": ["ddim"]}},
        {"process": {"shift": True}},
        {"denoiser": None},
        {"other": 1},
        {"fps": 10**40},
        {"fps": float("nan")},
        {"fps": float("inf")},
        {"denoiser.previous": "yes"},
        {"denoiser.depth": 2**20},
        {"denoiser.structure": 4},
        {"denoiser.hidden": 10**40},
    ],
    ids=str,
)
def test_descriptions_that_are_well_formed_and_wrong_are_refused_in_one_line(described, change):
    facts = json.loads(described.read_text())
    for key, value in change.items():
        *outer, name = key.split(".")
        (facts[outer[0]] if outer else facts)[name] = value
    path = described.parent / "wrong"
    path.mkdir(exist_ok=True)
    (path / FACTS_FILE).write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="generator.json: not the description of a generator") as caught:
        VidTwinPipeline.from_pretrained(path)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    small_pipeline(previous=True).save_pretrained(folder)
    return folder / FACTS_FILE


def test_parts_that_do_not_fit_are_refused(pipeline):
    config = type(SMALL).from_dict(SMALL.to_dict() | {"structure_channels": 8})
    rest = (pipeline.denoiser, pipeline.process, pipeline.normalizer)
    with pytest.raises(ValueError, match="give the one whose latents it was trained on"):
        VidTwinPipeline(seeded_model(config), *rest, ("cat", "dog"))
    with pytest.raises(ValueError, match="1 names for 2 classes"):
        VidTwinPipeline(pipeline.autoencoder, *rest, ("cat",))
