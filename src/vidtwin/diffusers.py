"""VidTwin with the habits of diffusers' video autoencoders. It needs diffusers: pip install 'vidtwin[generate]'.

    from vidtwin.diffusers import AutoencoderKLVidTwin

    vae = AutoencoderKLVidTwin.from_pretrained("mini")
    latents = vae.encode(video).latent_dist.sample(generator)
    video = vae.decode(latents).sample

Code that works on latents adds noise to one tensor, scales it and asks for its shape. So both latents are one tensor here,
(B, V, n, R, C), laid out as the (batch, channels, frames, height, width) of other video autoencoders: a video is n windows of f
frames and R x C tiles of the model's size, and its V channels are all latent values of such a clip, Structure's first, then
Dynamics' x and y. `split` gives them as `Latents`, and `join` takes these back.
"""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor

from vidtwin.frames.tiles import Tiling
from vidtwin.inference.engine import Engine
from vidtwin.model.checkpoint import shipped_names
from vidtwin.model.config import VidTwinConfig
from vidtwin.model.hub import SHORT, HubOptions, hub_id, listing, local
from vidtwin.model.latents import Latents, Posterior
from vidtwin.model.vidtwin import VidTwin

ALWAYS_SO = ("use_safetensors", "low_cpu_mem_usage")  # options of diffusers that loading here needs not be told
LINK = re.compile(r"https?://[^/]+/([^/]+/[^/]+)/(?:blob|resolve|raw)/([^/]+)/([^?]+)")


class VidTwinDistribution(DiagonalGaussianDistribution):
    """diffusers' Gaussian, `.sample(generator)`, `.mode()`, `.kl()`, over latents (B, V, n, R, C); `kl` is nats, (B,)."""

    def kl(self, other: Any = None) -> Tensor:
        def flat(one: DiagonalGaussianDistribution) -> DiagonalGaussianDistribution:
            return DiagonalGaussianDistribution(one.parameters.flatten(2)[..., None])  # the parent sums over three axes

        return flat(self).kl(*[] if other is None else [flat(other)])

    def nll(self, sample: Tensor, dims: tuple[int, ...] = (1, 2, 3, 4)) -> Tensor:
        return super().nll(sample, dims)


class AutoencoderKLVidTwin(ModelMixin, ConfigMixin):
    """A VidTwin as an autoencoder of diffusers, for videos (B, 3, F, H, W) in [-1, 1] of any size.

    Windows are filled up by repeating the last frame, and pictures by their last row and column, to tiles of the model's size
    that share a quarter; `decode` blends these and cuts away what was filled up. Clips go through `inference.engine.Engine`, as
    many at a time as memory holds, unless gradients are wanted.

    Args:
        vidtwin: fields of its `VidTwinConfig`; None is that of the released checkpoint.
        scaling_factor: for code that scales latents by it. latent_channels: V, which follows from `vidtwin`.

    Attributes:
        model: the `VidTwin`.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, vidtwin: dict[str, Any] | None = None, scaling_factor: float = 1.0, latent_channels: int | None = None):
        super().__init__()
        config = VidTwinConfig.from_dict(dict(vidtwin or {}))
        self.register_to_config(vidtwin=config.to_dict(), latent_channels=config.latent_values)
        self.model = VidTwin(config)
        self.use_tiling = self.use_slicing = self.gradient_checkpointing = False
        self._sizes: dict[tuple[int, ...], tuple[int, ...]] = {}  # (F, H, W) of the last video of each (n, R, C)

    @classmethod
    def of(cls, model: VidTwin) -> "AutoencoderKLVidTwin":
        """Around a model, which is not copied."""
        with torch.device("meta"):
            made = cls(model.config.to_dict())
        made.model = model
        return made.eval()

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> "AutoencoderKLVidTwin":
        """What `save_pretrained` wrote, or any weights that `VidTwin.from_pretrained` takes, with the options of either."""
        if _is_of_diffusers(name, options):
            return super().from_pretrained(name, **options)
        return cls.of(VidTwin.from_pretrained(name, **{key: value for key, value in options.items() if key not in ALWAYS_SO}))

    @classmethod
    def from_single_file(cls, link_or_path: str | Path, **options: Any) -> "AutoencoderKLVidTwin":
        """A file in Microsoft's layout: a path, "owner/name/x.ckpt", or its address on the hub; the options of `VidTwin`'s."""
        if link := LINK.fullmatch(str(link_or_path)):
            link_or_path, options = f"{link[1]}/{link[3]}", {"revision": link[2]} | options
        return cls.from_pretrained(link_or_path, **options)

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[VidTwinDistribution]:
        """The posterior of videos (B, 3, F, H, W), as `.latent_dist`.

        Raises:
            ValueError: another shape, or values outside [-1, 1].
        """
        config = self.model.config
        if x.ndim != 5 or x.shape[1] != 3 or 0 in x.shape:
            raise ValueError(f"video of shape {tuple(x.shape)}: expected (B, 3, F, H, W) in [-1, 1]")
        size, (h, w), o = tuple(x.shape[2:]), (config.height, config.width), self._overlap
        grid = tuple(max(1, -(-(s - o) // (t - o))) for s, t, o in zip(size, (config.frames, h, w), (0, o, o), strict=True))
        self._sizes[grid] = size
        for axis, (own, full) in enumerate(zip(size, self._full(grid), strict=True), 2):
            x = x.index_select(axis, torch.arange(full, device=x.device).clamp(max=own - 1))
        clips = x.unfold(2, config.frames, config.frames).unfold(3, h, h - o).unfold(4, w, w - o)  # (B, 3, n, R, C, f, h, w)
        posterior = self._posterior(clips.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(0, 3))
        like = x.new_empty(len(x), 0, *grid)
        moments = torch.cat([self.join(latents, like) for latents in (posterior.mean, posterior.logvar)], dim=1)
        distribution = VidTwinDistribution(moments.to(x))
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

    def decode(
        self,
        z: Tensor,
        return_dict: bool = True,
        *,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Videos of latents (B, V, n, R, C), clamped to [-1, 1], as `.sample`.

        Args:
            num_frames, height, width: what is kept; by default the size of the last video that was encoded into (n, R, C), and
                everything if there was none.

        Raises:
            ValueError: latents of another shape, or not finite.
        """
        if z.ndim != 5 or z.shape[1] != self.model.config.latent_values or 0 in z.shape:
            raise ValueError(f"latents of shape {tuple(z.shape)}: expected (B, {self.model.config.latent_values}, n, R, C)")
        grid, config = tuple(z.shape[2:]), self.model.config
        full = self._full(grid)
        size = [s or known for s, known in zip((num_frames, height, width), self._sizes.get(grid, full), strict=True)]
        tiling = Tiling((full[1], full[2]), (config.height, config.width), self._overlap)
        clips = iter(self._clips(self.split(z)))
        windows = [torch.cat([band.pixels for band in tiling.merge(clips)], dim=2) for _ in range(len(z) * grid[0])]
        video = torch.stack(windows).unflatten(0, (len(z), grid[0])).transpose(1, 2).flatten(2, 3)
        video = video[:, :, : size[0], : size[1], : size[2]].to(z)
        return DecoderOutput(sample=video) if return_dict else (video,)

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Encode and decode videos, through the posterior's mode, or with `sample_posterior` a draw from it."""
        (posterior,) = self.encode(sample, return_dict=False)
        return self.decode(posterior.sample(generator) if sample_posterior else posterior.mode(), return_dict)

    def split(self, z: Tensor) -> Latents:
        """Structure and Dynamics of the clips of latents (B, V, n, R, C): B n R C of them, the last axis fastest."""
        shapes = self.model.config.latent_shapes
        parts = z.permute(0, 2, 3, 4, 1).flatten(0, 3).split([torch.Size(shape).numel() for shape in shapes], dim=1)
        return Latents(*(part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)))

    def join(self, latents: Latents, like: Tensor) -> Tensor:
        """The inverse of `split`, for as many videos and clips as latents `like` has."""
        values = torch.cat([tensor.flatten(1) for tensor in latents.tensors], dim=1)
        return values.unflatten(0, (len(like), *like.shape[2:])).movedim(-1, 1)

    def enable_tiling(self) -> None:
        """Clips go through the model one at a time. Large videos are always tiled; this needs the least memory."""
        self.use_tiling = True

    def disable_tiling(self) -> None:
        """As many clips at a time as memory holds."""
        self.use_tiling = False

    def enable_slicing(self) -> None:
        """As `enable_tiling`."""
        self.use_slicing = True

    def disable_slicing(self) -> None:
        """As `disable_tiling`."""
        self.use_slicing = False

    def _set_gradient_checkpointing(self, enable: bool = True, gradient_checkpointing_func: Any = None) -> None:
        self.gradient_checkpointing = enable
        for half in (self.model.encoder, self.model.decoder):
            half.transformer.checkpointing = enable

    @property
    def _overlap(self) -> int:
        """Pixels that tiles share."""
        return min(self.model.config.height, self.model.config.width) // 4

    def _full(self, grid: tuple[int, ...]) -> tuple[int, int, int]:
        """(F, H, W) of (n, R, C) clips."""
        config, o = self.model.config, self._overlap
        return grid[0] * config.frames, grid[1] * (config.height - o) + o, grid[2] * (config.width - o) + o

    def _engine(self, *inputs: Tensor) -> Engine | None:
        """What runs clips; None where gradients are wanted, which an engine does not keep."""
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*inputs, *self.model.parameters())):
            return None
        batch = 1 if self.use_tiling or self.use_slicing else None
        return Engine(self.model, encode_dtype=self.model.dtype, dtype=self.model.dtype, batch=batch)

    def _posterior(self, clips: Tensor) -> Posterior:
        engine = self._engine(clips)
        return engine.encode(len(clips), lambda index: clips[index].cpu()) if engine else self.model.posterior(clips)

    def _clips(self, latents: Latents) -> Any:
        engine = self._engine(*latents.tensors)
        return engine.decode(latents.to("cpu", torch.float32)) if engine else self.model.decode(latents).clamp(-1, 1)


def _is_of_diffusers(name: str | Path, options: dict[str, Any]) -> bool:
    """Whether weights are in the files of diffusers' `save_pretrained`."""
    hub = HubOptions.of({field.name: options.get(field.name) for field in fields(HubOptions)})
    path, (repository, file) = local(name, hub, shipped_names()), hub_id(str(name))
    names: list[str] = []
    if path is not None:
        names = [hub.prefix + one.name for one in path.iterdir()] if path.is_dir() else []
    elif repository and not file and str(name) not in SHORT:
        try:
            names = list(listing(repository, hub))
        except Exception:
            return False  # what is wrong is said by who loads it
    return any(one.startswith(f"{hub.prefix}diffusion_pytorch_model") for one in names)
