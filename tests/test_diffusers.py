"""Scripts from diffusers' documentation for its video autoencoders run with the class's name changed."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from tests.conftest import SMALL, seeded_model
from tests.generation.conftest import small_pipeline
from tests.tools.golden import CONFIGS
from vidtwin import VidTwin, export_released
from vidtwin.diffusers import AutoencoderKLVidTwin
from vidtwin.model.checkpoint import weights_hash

SIZES = [(16, 32, 32), (1, 20, 30), (17, 32, 40), (20, 40, 33)]


@pytest.fixture
def vae(model) -> AutoencoderKLVidTwin:
    return AutoencoderKLVidTwin.of(model)


def video_of(frames: int, height: int, width: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, 3, 4, 4, generator=generator) * 1.6 - 0.8
    return torch.nn.functional.interpolate(coarse, (frames, height, width), mode="trilinear")


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_a_script_for_any_autoencoder_of_diffusers_runs(vae, size):
    video = video_of(*size, batch=2)
    latents = vae.encode(video).latent_dist.sample(torch.Generator().manual_seed(0)) * vae.config.scaling_factor
    assert latents.ndim == 5 and latents.shape[:2] == (2, vae.config.latent_channels) and latents.dtype == vae.dtype
    noise = torch.randn_like(latents)
    noisy = DDPMScheduler().add_noise(latents, noise, torch.tensor([10, 500]))
    assert vae.decode(noisy / vae.config.scaling_factor).sample.shape == video.shape
    assert vae(video).sample.shape == video.shape
    assert torch.equal(vae(video, return_dict=False)[0], vae.decode(vae.encode(video)[0].mode(), return_dict=False)[0])


@torch.no_grad()
def test_a_clip_goes_the_way_of_the_model(vae, model):
    video = video_of(16, 32, 32, batch=2)
    posterior, distribution = model.posterior(video), vae.encode(video).latent_dist
    latents = vae.split(distribution.mode())
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(latents.tensors, posterior.mean.tensors, strict=True))
    assert torch.equal(vae.join(latents, distribution.mode()), distribution.mode())
    torch.testing.assert_close(distribution.kl(), posterior.kl())
    assert distribution.kl(distribution).shape == distribution.nll(distribution.mode()).shape == (2,)
    torch.testing.assert_close(vae.decode(distribution.mode()).sample, model.decode(posterior.mean).clamp(-1, 1))


@torch.no_grad()
def test_windows_and_tiles_are_where_they_were_in_the_video(vae, model):
    video = video_of(20, 56, 32)
    latents = vae.encode(video).latent_dist.mode()
    assert latents.shape[2:] == (2, 2, 1)
    made = vae.decode(latents).sample
    alone = model(video[:, :, :16, :32]).x_hat.clamp(-1, 1)
    torch.testing.assert_close(made[:, :, :16, :24], alone[:, :, :, :24])  # below, the next tile is blended in
    alone = model(video[:, :, :16, 24:]).x_hat.clamp(-1, 1)
    torch.testing.assert_close(made[:, :, :16, 32:], alone[:, :, :, 8:])
    assert vae.decode(latents, num_frames=3, height=40, width=8).sample.shape == (1, 3, 3, 40, 8)
    assert AutoencoderKLVidTwin.of(model).decode(latents).sample.shape == (1, 3, 32, 56, 32)  # which has not seen the video


def test_saving_memory_changes_no_number(vae):
    video = video_of(20, 32, 40)
    with torch.no_grad():
        plain = vae(video).sample
        vae.enable_tiling()
        vae.enable_slicing()
        torch.testing.assert_close(vae(video).sample, plain)
    vae.disable_tiling()
    vae.disable_slicing()
    vae.enable_gradient_checkpointing()
    assert vae.is_gradient_checkpointing and vae.model.encoder.transformer.checkpointing
    vae.disable_gradient_checkpointing()
    assert not vae.is_gradient_checkpointing


def test_gradients_flow_where_they_are_wanted_and_latents_can_be_trained_on():
    vae = AutoencoderKLVidTwin.of(seeded_model())
    video = video_of(20, 40, 32)
    made = vae(video).sample
    made.square().mean().backward()
    assert all(parameter.grad is not None for parameter in vae.model.decoder.parameters())
    vae.requires_grad_(False)
    torch.testing.assert_close(vae(video).sample, made.detach())
    latents = vae.encode(video).latent_dist.mode()
    weight = torch.ones(1, requires_grad=True)
    (latents * weight).sum().backward()
    given = latents.clone().requires_grad_()
    vae.decode(given).sample.sum().backward()
    assert weight.grad is not None and given.grad is not None


def test_it_is_saved_and_loaded_as_models_of_diffusers_and_of_ours(vae, weights, tmp_path):
    vae.save_pretrained(tmp_path / "pipeline" / "vae")
    again = AutoencoderKLVidTwin.from_pretrained(tmp_path / "pipeline", subfolder="vae", torch_dtype=torch.bfloat16)
    assert again.dtype == torch.bfloat16 and dict(again.config)["vidtwin"] == SMALL.to_dict()
    assert weights_hash(AutoencoderKLVidTwin.from_pretrained(tmp_path / "pipeline" / "vae").model) == weights_hash(vae.model)
    video = video_of(16, 32, 32)
    with torch.no_grad():
        made = again(video.bfloat16()).sample
        assert made.dtype == torch.bfloat16 and (made.float() - vae(video).sample).abs().mean() < 0.05
    ours = AutoencoderKLVidTwin.from_pretrained(weights, use_safetensors=True)
    assert weights_hash(ours.model) == weights_hash(vae.model) and not ours.training
    with pytest.raises(TypeError, match="unknown option colour"):
        AutoencoderKLVidTwin.from_pretrained(weights, colour="red")


def test_a_file_in_microsofts_layout_loads(tmp_path):
    model = VidTwin(CONFIGS["tiny"])
    export_released(model, tmp_path / "x.ckpt")
    loaded = AutoencoderKLVidTwin.from_single_file(tmp_path / "x.ckpt", config=model.config)
    assert weights_hash(loaded.model) == weights_hash(model)
    with pytest.raises(FileNotFoundError, match="weights 'me/repo/a/x.ckpt'"):
        AutoencoderKLVidTwin.from_single_file("https://huggingface.co/me/repo/blob/main/a/x.ckpt", local_files_only=True)


@pytest.mark.parametrize("shape", [(3, 16, 32, 32), (1, 4, 16, 32, 32), (1, 3, 0, 32, 32)])
def test_other_shapes_are_refused_in_a_line(vae, shape):
    with pytest.raises(ValueError, match=r"video of shape .* expected \(B, 3, F, H, W\)"):
        vae.encode(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"latents of shape .* expected \(B, "):
        vae.decode(torch.zeros(shape))


def test_the_pipeline_has_the_habits_of_diffusers():
    pipeline = small_pipeline()
    seen = []

    def callback(pipe, step, timestep, values):
        seen.append((pipe is pipeline, step, round(timestep), tuple(values)))
        return {"latents": torch.zeros_like(values["latents"])} if step == 1 else None

    draw = {"num_inference_steps": 2, "num_videos_per_prompt": 2, "generator": torch.Generator().manual_seed(0)}
    made = pipeline(["cat", "dog"], callback_on_step_end=callback, **draw)
    assert seen == [(True, 0, 1000, ("latents",)), (True, 1, 500, ("latents",))]
    assert torch.equal(made.videos[0], made.videos[3])  # all of the same latents at the end
    assert (
        made.frames.shape == (4, 16, 32, 32, 3)
        and made.frames.dtype == "float32"
        and 0 <= made.frames.min() <= made.frames.max() <= 1
    )
    tensor, pictures = (pipeline("cat", output_type=kind, num_inference_steps=1).frames for kind in ("pt", "pil"))
    assert tensor.shape == (1, 16, 3, 32, 32) and len(pictures[0]) == 16 and pictures[0][0].size == (32, 32)
    again = type(pipeline)(**pipeline.components).to("cpu", torch.bfloat16)
    assert again.dtype == again.autoencoder.dtype == torch.bfloat16
    assert again("cat", num_inference_steps=1).videos.shape == (1, 16, 32, 32, 3)
    for options, message in (
        ({"output_type": "latent"}, "output_type='latent'"),
        ({"num_videos_per_prompt": 0}, "give at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline("cat", **options)
    written = np.stack([(frame * 255).astype(np.uint8) for frame in made.frames[0]])  # as export_to_video of diffusers
    assert np.array_equal(written, made.videos[0].numpy())


def test_the_examples_of_the_page_run(capsys):
    page = (Path(__file__).parents[1] / "docs" / "checkpoints.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        if "AutoencoderKLVidTwin" in block or "dtype=" in block:
            exec(compile(block.replace("20, 240, 320", "16, 100, 240"), "checkpoints.md", "exec"), {})
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["torch.bfloat16 cpu 7225248", "torch.Size([1, 8064, 1, 1, 2]) torch.Size([1, 3, 16, 100, 240])"]
