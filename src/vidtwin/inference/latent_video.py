"""The latents of a whole video, and the file that holds them: `X.vidtwin`, a safetensors file that decodes without its source."""

import json
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vidtwin.checkpoint import weights_hash
from vidtwin.files import tensor_output
from vidtwin.model.config import VidTwinConfig
from vidtwin.model.latents import Latents
from vidtwin.model.vidtwin import VidTwin
from vidtwin.video.clips import Geometry

SUFFIX, KEY, VERSION = ".vidtwin", "vidtwin", 1
NAMES = ("structure", "dynamics_x", "dynamics_y")


@dataclass(frozen=True)
class Identity:
    """Which weights latents belong to: a name for people, and `checkpoint.weights_hash`, which decides."""

    name: str
    hash: str

    @classmethod
    def of(cls, model: VidTwin, name: str = "unnamed") -> "Identity":
        """Of a model in float32: take it before the model is cast to a lower precision."""
        return cls(name, weights_hash(model))

    def __str__(self) -> str:
        return f"{self.name!r} ({self.hash[:12]})"


@dataclass(frozen=True)
class LatentVideo:
    """Everything that decoding needs.

    Attributes:
        latents: posterior means, float32, a batch entry for each window of config.frames frames, in order.
        logvar: log-variances of the same shapes, if they were asked for.
        frames: of the source; the last window holds padding beyond them.
        fps: frames per second. times: seconds of each frame if the source's rate is not constant, else None.
        geometry: how source frames became the model's.
        config, weights: of the model.
        source: file name of the video, without its folder.
    """

    latents: Latents
    logvar: Latents | None
    frames: int
    fps: Fraction
    times: list[Fraction] | None
    geometry: Geometry
    config: VidTwinConfig
    weights: Identity
    source: str

    def __post_init__(self) -> None:
        expected = (self.config.structure_shape, self.config.dynamics_x_shape, self.config.dynamics_y_shape)
        count = -(-self.frames // self.config.frames)
        for latents in (self.latents, self.logvar):
            if latents is not None and latents.shapes != tuple((count, *shape) for shape in expected):
                raise ValueError(f"latents of shapes {latents.shapes} do not fit {self.frames} frames of {expected}")
            if latents is not None and not all(bool(torch.isfinite(tensor).all()) for tensor in latents.tensors):
                raise ValueError(f"latents of {self.source} have NaN or infinite values; use --dtype float32, or other weights")
        if self.times is not None and len(self.times) != self.frames:
            raise ValueError(f"{len(self.times)} times do not fit {self.frames} frames")

    @property
    def clip_frames(self) -> list[int]:
        """Frames of each window that are not padding: 33 frames in windows of 16 are [16, 16, 1]."""
        f = self.config.frames
        return [min(f, self.frames - start) for start in range(0, self.frames, f)]

    def check_weights(self, weights: Identity) -> None:
        """Raise a ValueError if these latents were not encoded with the weights of this identity."""
        if weights.hash != self.weights.hash:
            raise ValueError(
                f"latents of {self.source} were encoded with weights {self.weights}, not with {weights}; "
                "give the former with --weights"
            )

    def truncated(self, frames: int) -> "LatentVideo":
        """The first `frames` frames, in whole windows."""
        count = -(-frames // self.config.frames)
        return replace(
            self,
            frames=frames,
            latents=self.latents[:count],
            logvar=None if self.logvar is None else self.logvar[:count],
            times=None if self.times is None else self.times[:frames],
        )

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""
        tensors = {name: t.float().cpu().contiguous() for name, t in zip(NAMES, self.latents.tensors, strict=True)}
        if self.logvar is not None:
            tensors |= {f"{n}_logvar": t.float().cpu().contiguous() for n, t in zip(NAMES, self.logvar.tensors, strict=True)}
        facts: dict[str, Any] = {
            "version": VERSION,
            "frames": self.frames,
            "fps": str(self.fps),
            "geometry": self.geometry.to_dict(),
            "config": self.config.to_dict(),
            "weights": self.weights.name,
            "weights_hash": self.weights.hash,
            "source": self.source,
        }
        if self.times is not None:
            clock = lcm(*(time.denominator for time in self.times))
            tensors["times"] = torch.tensor([int(time * clock) for time in self.times], dtype=torch.int64)
            facts["times_per_second"] = clock
        with tensor_output(path) as partial:
            save_file(tensors, partial, metadata={KEY: json.dumps(facts)})

    @classmethod
    def load(cls, path: str | Path) -> "LatentVideo":
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not such a file, cut short, or its parts do not fit together.
        """
        facts = read_facts(path)
        try:
            if facts["version"] != VERSION:
                raise ValueError(f"format version {facts['version']}; this vidtwin reads version {VERSION}")
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            logvar = [tensors[f"{name}_logvar"] for name in NAMES if f"{name}_logvar" in tensors]
            times = None
            if "times" in tensors:
                times = [Fraction(tick, facts["times_per_second"]) for tick in tensors["times"].tolist()]
            return cls(
                latents=Latents(*(tensors[name] for name in NAMES)),
                logvar=Latents(*logvar) if logvar else None,
                frames=int(facts["frames"]),
                fps=Fraction(facts["fps"]),
                times=times,
                geometry=Geometry.from_dict(facts["geometry"]),
                config=VidTwinConfig.from_dict(facts["config"]),
                weights=Identity(str(facts["weights"]), str(facts["weights_hash"])),
                source=Path(str(facts["source"])).name,
            )
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"{path}: not a latent file that can be decoded ({reason}); encode the video again") from error


def read_facts(path: str | Path) -> dict[str, Any]:
    """The metadata of a latent file, without its tensors."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; give a {SUFFIX} file that `vidtwin encode` wrote")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[KEY])
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a latent file, or cut short; give a {SUFFIX} file that `vidtwin encode` wrote") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{path}: not a latent file; its metadata is not a mapping")
    return facts


def is_latent_file(path: str | Path) -> bool:
    """Whether a file is meant as a latent file: by its suffix."""
    return Path(path).suffix == SUFFIX
