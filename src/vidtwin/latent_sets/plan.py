"""What decides the values of a cache: model, precision, which frames a row holds and how they are fitted, how values are stored."""

import json
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Literal, get_args

from vidtwin.checked import fact
from vidtwin.frames.clips import POLICIES, frame_interval
from vidtwin.frames.windows import Anchor
from vidtwin.latents.stream import Identity, with_hash
from vidtwin.model.config import VidTwinConfig

FORMAT = 1
KINDS: dict[str, Any] = {
    **dict.fromkeys(("dtype", "policy", "anchor", "stored", "device"), str),
    **dict.fromkeys(("logvar", "damaged"), bool),
    **dict.fromkeys(("threads", "batch"), int),
}  # of the entries that are never null
DTYPES, DEVICES = ("float32", "bfloat16", "float16"), ("cpu", "cuda", "mps")
Stored = Literal["float16", "float32", "int8"]


@dataclass(frozen=True)
class Plan:
    """Two caches with equal plans, of equal files, are equal.

    A row is a window of f frames, f = config.frames. Row r of a recording is anchored at its frame a = every r: with anchor
    "first" it holds frames a, a + step, ..., a + (f - 1) step (what follows), with "last" a - (f - 1) step, ..., a (what led
    there). Beyond the recording's ends the nearest of these that there is is repeated.

    Attributes:
        config, weights, dtype: of the model, and the precision it encodes in.
        policy: how frames are fitted: "crop", "squash" or "pad" (`frames.clips.Geometry`).
        sample_fps: frames per second of a window: step = max(1, round(native / sample_fps)); None is every frame, step 1.
        every: frames from an anchor to the next; None is f step: windows one after another.
        anchor: "first" or "last".
        stored: of the latents' values. int8 is rounded to 127 steps of the largest value of a channel in a window.
        logvar: whether log-variances are there too.
        damaged: whether recordings that can be read in part are encoded as far as they can, or are failures.
        device, threads, batch: that encode, torch's threads in each process, and clips of a recording that go through the model
            together; the last bits depend on them.

    Raises:
        ValueError: a choice that there is not, or a number that is not positive.
    """

    config: VidTwinConfig
    weights: Identity
    dtype: str = "float32"
    policy: str = "crop"
    sample_fps: float | None = None
    every: int | None = None
    anchor: Anchor = "first"
    stored: Stored = "float16"
    logvar: bool = False
    damaged: bool = False
    device: str = "cpu"
    threads: int = 1
    batch: int = 1

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(
                f"policy={self.policy!r}: choose one of {', '.join(map(repr, POLICIES))}; tiles of frames are not kept in data sets"
            )
        if self.sample_fps is not None and not 0 < self.sample_fps < float("inf"):
            raise ValueError(f"sample_fps={self.sample_fps:g}: give a positive number of frames per second, or leave it out")
        for name, number in (("threads", self.threads), ("batch", self.batch)):
            if number < 1:
                raise ValueError(f"{name}={number}: give at least 1")
        if self.every is not None and self.every < 1:
            raise ValueError(f"every={self.every}: give at least 1 frame from a window to the next")
        for name, value, choices in (
            ("anchor", self.anchor, get_args(Anchor)),
            ("stored", self.stored, get_args(Stored)),
            ("dtype", self.dtype, DTYPES),
            ("device", self.device, DEVICES),
        ):
            if value not in choices:
                raise ValueError(f"{name}={value!r}: choose one of {', '.join(map(repr, choices))}")

    def step(self, fps: Fraction) -> int:
        """Frames of a recording from one of a window to the next."""
        return 1 if self.sample_fps is None else frame_interval(fps, self.sample_fps)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, safe for JSON."""
        facts = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("config", "weights")}
        return {
            "format": FORMAT,
            "model": self.config.to_dict(),
            "weights": self.weights.name,
            "weights_hash": self.weights.hash,
            **facts,
        }

    @staticmethod
    def from_dict(facts: dict[str, Any]) -> "Plan":
        """The plan that `to_dict` wrote. Raises ValueError (of the config TypeError or KeyError, too) if it is not one."""
        if (version := fact(facts, "format", int)) != FORMAT:
            raise ValueError(f"format {version}; this vidtwin reads format {FORMAT}")
        rest: dict[str, Any] = {name: fact(facts, name, kind) for name, kind in KINDS.items()}
        for name, kind in (("sample_fps", float), ("every", int)):
            rest[name] = None if name in facts and facts[name] is None else fact(facts, name, kind)
        weights = Identity(fact(facts, "weights", str), fact(with_hash(facts), "weights_hash", str))
        return Plan(VidTwinConfig.from_dict(fact(facts, "model", dict)), weights, **rest)

    def difference(self, other: "Plan") -> str | None:
        """In which entry two plans differ, for people; None if in none. What weights are called does not count."""
        mine, others = ({key: value for key, value in plan.to_dict().items() if key != "weights"} for plan in (self, other))
        for key, value in mine.items():
            if json.dumps(value) != json.dumps(others[key]):
                return f"{key} {_short(others[key])}, not {_short(value)}"
        return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:56]}..."
