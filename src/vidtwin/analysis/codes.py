"""The latents of a set of clips, as the analyses of what each latent holds take them.

N clips, (3, F, H, W) in [-1, 1] each; S, D their latents as rows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vidtwin.model.config import VidTwinConfig
from vidtwin.model.latents import Latents, Posterior
from vidtwin.model.vidtwin import VidTwin

Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much
BATCH = 4  # clips at a time


class Clips(Protocol):
    """A tensor (N, 3, F, H, W), a list, or what makes clips (3, F, H, W) when asked; all of one size."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Codes:
    """Posteriors of N clips, float32 on the CPU, and the video that each is of.

    Attributes:
        posterior: of the N clips.
        names: of their videos. Clips of one video are not independent: they stay together in cross-validation, are not swapped
            with each other, and tests take one of each.
    """

    posterior: Posterior
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def latents(self) -> Latents:
        """The posterior's mean."""
        return self.posterior.mean

    @property
    def structure(self) -> np.ndarray:
        """S: z_S of each clip as a row, float64 (N, values)."""
        return _rows(self.latents.structure)

    @property
    def dynamics(self) -> np.ndarray:
        """D: z_D of each clip, x then y, as a row, float64 (N, values)."""
        return np.concatenate([_rows(self.latents.dynamics_x), _rows(self.latents.dynamics_y)], axis=1)

    @property
    def mean(self) -> Latents:
        """Of all clips: a batch of one."""
        return self.latents.map(lambda tensor: tensor.double().mean(0, keepdim=True).float())

    def sampled(self, seed: int = 0) -> "Codes":
        """The same, with a sample of each posterior in place of its mean."""
        drawn = self.posterior.sample(torch.Generator().manual_seed(seed))
        return Codes(Posterior(drawn, self.posterior.logvar), self.names)

    @property
    def groups(self) -> np.ndarray:
        """The number of each clip's video, in order of appearance: int (N,)."""
        numbers = {name: number for number, name in enumerate(dict.fromkeys(self.names))}
        return np.array([numbers[name] for name in self.names])


def _rows(tensor: Tensor) -> np.ndarray:
    return tensor.flatten(1).double().numpy()


def encode_clips(
    model: VidTwin, clips: Clips, names: Sequence[str] | None = None, batch: int = BATCH, progress: Progress | None = None
) -> Codes:
    """Encode clips, a batch at a time. `names` says of which video each is; None takes each for a video of its own.

    Raises:
        ValueError: no clips, names of another number, or what `VidTwin.posterior` refuses.
    """
    if len(clips) == 0:
        raise ValueError("no clips to analyse: give some")
    if names is not None and len(names) != len(clips):
        raise ValueError(f"{len(names)} names for {len(clips)} clips: give one for each")
    with working(model):
        parts = []
        for start in range(0, len(clips), batch):
            parts.append(posterior(model, stack(clips, start, start + batch)))
            if progress is not None:
                progress("encode", min(start + batch, len(clips)), len(clips))
    mean, logvar = (Latents.cat([getattr(part, half) for part in parts]) for half in ("mean", "logvar"))
    return Codes(Posterior(mean, logvar), tuple(names) if names is not None else tuple(map(str, range(len(clips)))))


def posterior(model: VidTwin, x: Tensor) -> Posterior:
    """Of a batch (B, 3, F, H, W), wherever the model is: float32 on the CPU."""
    parameter = next(model.parameters())
    return model.posterior(x.to(parameter.device, parameter.dtype)).to("cpu", torch.float32)


def decode(model: VidTwin, latents: Latents) -> Tensor:
    """Of a batch of latents: (B, 3, F, H, W), clamped to [-1, 1], float32 on the CPU."""
    parameter = next(model.parameters())
    return model.decode(latents.to(parameter.device, parameter.dtype)).to("cpu", torch.float32).clamp(-1, 1)


def stack(clips: Clips, start: int, stop: int) -> Tensor:
    """Clips start..stop-1, or to the end: (B, 3, F, H, W)."""
    return torch.stack([clips[i] for i in range(start, min(stop, len(clips)))])


@contextmanager
def working(model: VidTwin) -> Iterator[None]:
    """The model in evaluation mode, without gradients; afterwards as it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def untrained(config: VidTwinConfig, seed: int = 0) -> VidTwin:
    """The control of every analysis: a model as it is before training, of seeded weights. torch's generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VidTwin(config).eval()


def check_count(analysis: str, names: Sequence[str], needed: int) -> None:
    """Refuse too few videos."""
    count = len(set(names))
    if count < needed:
        raise ValueError(f"{analysis} needs clips of at least {needed} videos, got {count}; give more")
