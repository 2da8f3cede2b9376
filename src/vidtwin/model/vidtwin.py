"""VidTwin: x -> z -> (z_S, z_D) -> u_S + u_D -> x_hat (arXiv 2412.17726, Sec. 3 and Fig. 2)."""

import os
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from vidtwin.model.backbone import autocasts
from vidtwin.model.config import VidTwinConfig
from vidtwin.model.latents import Latents, NormalizedLatents, Posterior
from vidtwin.model.parts import parts
from vidtwin.model.pretrained import Checkpointed

Part = Literal["structure", "dynamics"]
RANGE_SLACK = 1e-3  # above the rounding of float16 near 1


class Reconstruction(NamedTuple):
    """What `forward` returns: the clip x_hat (B, 3, F, H, W), not clamped, and the posterior it was decoded from."""

    x_hat: Tensor
    posterior: Posterior


class VidTwin(nn.Module, Checkpointed):
    """The video autoencoder with a Structure and a Dynamics latent.

    Clips are float (B, 3, F, H, W) in [-1, 1], of the size that `config` says. Where they enter (`feature`, `posterior`,
    `encode`, `forward`) a wrong shape, an integer dtype, a NaN or a value outside the range raises a one-line ValueError, and what
    is no tensor a TypeError; so do latents of other shapes, or no `Latents`, where they enter `decode`. Under `torch.compile` and
    `torch.export` values are not checked. Other floating-point dtypes than the weights' are cast.
    """

    def __init__(self, config: VidTwinConfig):
        super().__init__()
        self.config = config
        self.set_aside: dict[str, Tensor] = {}  # what a checkpoint in another layout held besides; not computed with
        modules = parts(config)
        self.encoder, self.structure_encoder, self.dynamics_encoder = modules[:3]
        self.structure_decoder, self.dynamics_decoder, self.decoder = modules[3:]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "VidTwin":
        """`to`, `bfloat16`, `half`: what has fewer than 32 bits is the weights of the transformers' products, nothing else.

        Norms, modulation, position tables, residual stream and both branches have a small share of the work and a large one of the
        rounding error.
        """
        products = {id(tensor) for parameter in self._products() for tensor in (parameter, parameter.grad)}
        return super()._apply(lambda tensor: fn(tensor) if id(tensor) in products else in_32_bits(fn, tensor), recurse)

    def _products(self) -> Iterator[nn.Parameter]:
        """Weights and biases of the matrix products of E and D."""
        for name, part in self._modules.items():
            if name in ("encoder", "decoder") and part is not None:
                for module in part.modules():
                    if isinstance(module, nn.Linear | nn.Conv3d):
                        yield from module.parameters(recurse=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the transformers' matrix products; in 16 bits, the other weights are float32."""
        return next(self._products()).dtype

    def num_parameters(self) -> int:
        """How many weights the model has."""
        return sum(parameter.numel() for parameter in self.parameters())

    def feature(self, x: Tensor) -> Tensor:
        """z = E(x): (B, c, f, h, w)."""
        self._check_clip(x)
        return self.encoder(x)

    def posterior(self, x: Tensor) -> Posterior:
        """q(z_S, z_D | x), from F_S(z) and F_D(z)."""
        return self.posterior_of(self.feature(x))

    def posterior_of(self, z: Tensor) -> Posterior:
        """q(z_S, z_D | x) of a feature z (B, c, f, h, w)."""
        return Posterior.from_moments(_unrounded(self.structure_encoder, z), *_unrounded(self.dynamics_encoder, z))

    def encode(self, x: Tensor) -> Latents:
        """The posterior's mean: deterministic, what the paper uses at inference."""
        return self.posterior(x).mean

    def decode(self, latents: Latents, only: Part | None = None, times: Tensor | None = None) -> Tensor:
        """x_hat = D(u_S + u_D), or D(u_S), D(u_D) with `only`; (B, 3, F, H, W), not clamped. `times` as in `u_S`.

        Raises:
            ValueError: `only` is neither None, "structure" nor "dynamics"; latents of another config, or not finite.
            TypeError: `NormalizedLatents`.
        """
        self._check_latents(latents)
        if only == "structure":
            return self.decoder(self.u_S(latents, times))
        if only == "dynamics":
            return self.decoder(self.u_D(latents))
        if only is not None:
            raise ValueError(f"only={only!r}: choose 'structure', 'dynamics' or None for both")
        return self.decoder(self.u_S(latents, times) + self.u_D(latents))

    def u_S(self, latents: Latents, times: Tensor | None = None) -> Tensor:
        """H_S(z_S): (B, c, f, h, w). With `times` (B, f, f), frame g becomes sum_f times[g, f] u_S(f) (`inference.edit`)."""
        u: Tensor = _unrounded(self.structure_decoder, latents.structure)
        return u if times is None else torch.einsum("bgf,bcfhw->bcghw", times.to(u), u)

    def u_D(self, latents: Latents) -> Tensor:
        """H_D(z_D) = u_D^(w) + u_D^(h): (B, c, f, h, w)."""
        return _unrounded(self.dynamics_decoder, latents.dynamics_x, latents.dynamics_y)

    def forward(
        self, x: Tensor, sample: bool = False, generator: torch.Generator | list[torch.Generator] | None = None
    ) -> Reconstruction:
        """Encode and decode, through the posterior's mean or, with `sample`, through a draw from it (`Posterior.sample`)."""
        posterior = self.posterior(x)
        latents = posterior.sample(generator) if sample else posterior.mean
        return Reconstruction(self.decoder(self.u_S(latents) + self.u_D(latents)), posterior)

    def _check_clip(self, x: Tensor) -> None:
        expected = self.config.clip_shape
        if not isinstance(x, Tensor):
            remedy = "frames of a file: vidtwin.video.read_video" if isinstance(x, str | os.PathLike) else "torch.from_numpy(x)"
            raise TypeError(f"x of {type(x).__name__}: expected a tensor (B, {', '.join(map(str, expected))}); use {remedy}")
        if x.ndim != 5 or tuple(x.shape[1:]) != expected:
            raise ValueError(
                f"clip of shape {tuple(x.shape)}: expected (B, {', '.join(map(str, expected))}); resize or choose another config"
            )
        if not x.is_floating_point():
            raise ValueError(f"clip of dtype {x.dtype}: expected floating point in [-1, 1]; use x / 127.5 - 1 for 8-bit frames")
        if len(x) == 0:
            raise ValueError("clip of batch size 0: give at least one clip")
        if torch.compiler.is_compiling():  # the graph would break where a value decides
            return
        low, high = (value.item() for value in x.detach().aminmax())
        if not (low >= -1 - RANGE_SLACK and high <= 1 + RANGE_SLACK):  # written so that NaN is refused too
            raise ValueError(f"clip with values from {low:g} to {high:g}: expected finite values in [-1, 1]; rescale the frames")

    def _check_latents(self, latents: Latents) -> None:
        if isinstance(latents, NormalizedLatents):
            raise TypeError("normalised latents do not decode; undo it first: dataset.normalizer.denormalize(latents)")
        if not isinstance(latents, Latents):
            kind = type(latents).__name__
            raise TypeError(
                f"latents of {kind}: expected vidtwin.Latents, as encode gives; use Latents(structure, dynamics_x, dynamics_y)"
            )
        expected = self.config.latent_shapes
        if tuple(shape[1:] for shape in latents.shapes) != expected:
            raise ValueError(
                f"latents of shapes {latents.shapes}: this model expects (B, ...) of {expected}; use the model that encoded them"
            )
        if not torch.compiler.is_compiling() and not all(bool(torch.isfinite(tensor).all()) for tensor in latents.tensors):
            raise ValueError("latents with NaN or infinite values: encode again, in float32 if they came from float16")


def in_32_bits(fn: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """fn(tensor), where `fn` may move it and cast it, but not below 32 bits."""
    result = fn(tensor)
    return tensor.to(result.device) if result.is_floating_point() and result.itemsize < 4 <= tensor.itemsize else result


def _unrounded(branch: nn.Module, *tensors: Tensor) -> Any:
    """A branch in the dtype of its weights, whatever autocast and its input say: it has a small share of the work, and its
    post-norms carry constants far larger than what they pass on."""
    device = tensors[0].device
    dtype = next((weight.dtype for weight in branch.parameters()), tensors[0].dtype)
    tensors = tuple(tensor.to(dtype) for tensor in tensors)
    if not autocasts(device):
        return branch(*tensors)
    with torch.autocast(device.type, enabled=False):
        return branch(*tensors)
