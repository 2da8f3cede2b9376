"""The record of how motion latents are made: written, read back and compared."""

from typing import Any

import torch

from vidtwin.model.config import VidTwinConfig
from vidtwin.version import __version__

KEY, VERSION = "vidtwin_motion", 1
VALUES = "uint8 v / 255 or floating [0, 1], resized there, then (v - 0.5) / 0.5"
OPTIONS = ("layout", "frames", "stride", "resize", "dtype", "batch_size")
DECIDES = ("layout", "frames", "stride", "resize", "values", "dtype", "episode")  # and weights["hash"]
ROUNDS = ("batch_size", "device", "matmul_precision", "torch", "vidtwin")
FIELDS = {KEY, "weights", "config", "shape", *OPTIONS, *DECIDES, *ROUNDS}


def make_record(
    weights: tuple[str, str],
    config: VidTwinConfig,
    device: torch.device,
    shape: list[Any],
    options: dict[str, Any],
    episode: dict[str, Any] | None,
) -> dict[str, Any]:
    """A dictionary of plain values, equal to itself after JSON; `weights`: name and hash, `shape`: that of a clip's latent."""
    return {
        KEY: VERSION,
        "weights": dict(zip(("name", "hash"), weights, strict=True)),
        "config": config.to_dict(),
        "shape": [list(part) if isinstance(part, tuple) else part for part in shape],
        **options,
        "values": VALUES,
        "episode": episode,
        "device": device.type,
        "matmul_precision": _matmul_precision(),
        "torch": str(torch.__version__),
        "vidtwin": __version__,
    }


def read_record(record: dict[str, Any]) -> dict[str, Any]:
    """The options of `MotionExtractor` in a record; their values are checked where they are used.

    Raises:
        ValueError: not a record of this version, or fields that are missing or unknown; they are named.
    """
    if not isinstance(record, dict) or record.get(KEY) != VERSION:
        raise ValueError(f"record without {KEY}={VERSION}: not one that this version of vidtwin wrote; write it with record()")
    if odd := sorted(map(str, FIELDS ^ record.keys())):
        raise ValueError(f"record: fields {', '.join(odd)} are missing or unknown; write it with record()")
    weights = record["weights"]
    if not isinstance(weights, dict) or set(weights) != {"name", "hash"} or not all(isinstance(v, str) for v in weights.values()):
        raise ValueError(f"record: weights={weights!r} is not a name and a hash; write it with record()")
    return {name: record[name] for name in OPTIONS}


def describe_differences(record: dict[str, Any], here: dict[str, Any], exact: bool) -> str:
    """The fields that differ and both their values, or ""; without `exact` only those that change more than rounding."""
    fields = [name for name in DECIDES if record[name] != here[name]]
    rounds = [name for name in ROUNDS if record[name] != here[name]] if exact else []
    texts = [f"{name} is {record[name]!r}, here {here[name]!r}" for name in fields + rounds]
    if record["weights"]["hash"] != here["weights"]["hash"]:
        there, own = (f"{part['name']!r} ({part['hash'][:12]})" for part in (record["weights"], here["weights"]))
        texts.insert(0, f"weights is {there}, here {own}")
        fields = ["weights", *fields]
    if rounds and not fields:
        texts[-1] += " (no more than rounding; check(record, exact=False) lets it pass)"
    return "; ".join(texts)


def _matmul_precision() -> str:
    """torch's setting for products of float32 matrices: "highest", unless TF32 or bfloat16 is allowed for them."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # set for each backend on its own
        return "mixed"
