"""Agreement with the released model's computation on golden tensors, as a table.

    python tests/tools/golden.py [FOLDER] [--dtype float32 float64] [--cases tiny released ...]

A case NAME is NAME.safetensors (tensors computed in float64 by the released code) and NAME.json (its salt, batch, strides and
KL values). No weights are stored: every value follows from the salt and the tensor's released name.
"""

import argparse
import json
import math
import sys
import zlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from vidtwin import Posterior, VidTwin, VidTwinConfig, preset
from vidtwin.model.released import released_name

FOLDER = Path(__file__).parents[1] / "golden"
SMALL: dict[str, Any] = {"frames": 8, "patch": 8, "hidden": 64, "depth": 2, "heads": 4, "num_queries": 8, "structure_channels": 4}
CONFIGS = {
    "tiny": VidTwinConfig(height=64, width=64, **SMALL),
    "tiny_q4": VidTwinConfig(height=64, width=64, **SMALL | {"num_queries": 4}, structure_downsamples=2, dynamics_downsamples=2),
    "tiny_crop": VidTwinConfig(height=48, width=48, **SMALL, structure_downsamples=2, dynamics_downsamples=2),
    "released": preset("released"),
}
# Bounds: relative L2 per tensor in float32; the largest error over the largest value; both in float64.
RELATIVE_L2 = {"tiny": 3e-6, "tiny_q4": 3e-6, "tiny_crop": 3e-6, "released": 6e-6}
LARGEST, FLOAT64 = 5e-5, 1e-6


def generator(salt: str, name: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=zlib.crc32((salt + name).encode())))


def recipe_weight(salt: str, name: str, shape: tuple[int, ...]) -> Tensor:
    """The float32 weight of a released name."""
    n = generator(salt, name).standard_normal(shape, dtype=np.float64)
    if name.endswith("query_embeds"):
        pass
    elif name.endswith("scale_shift_table"):
        n *= 0.25
    elif len(shape) >= 2:
        gain = 1.0 if name.startswith(("encoder.", "decoder.", "temporal_qformer.")) else 1.5
        n *= math.sqrt(gain / math.prod(shape[1:]))
    elif name.endswith(".weight"):
        n = 1.0 + 0.02 * n
    else:
        n *= 0.02
    return torch.from_numpy(n.astype(np.float32))


def recipe_clip(salt: str, shape: tuple[int, ...]) -> Tensor:
    """The float32 input (B, 3, F, H, W), uniform in [-1, 1)."""
    return torch.from_numpy((2 * generator(salt, "input").random(shape, dtype=np.float64) - 1).astype(np.float32))


def recipe_model(config: VidTwinConfig, salt: str, dtype: torch.dtype = torch.float32) -> VidTwin:
    model = VidTwin(config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(recipe_weight(salt, released_name(name), tuple(tensor.shape)))
    return model.to(dtype).eval()


@torch.inference_mode()
def compute(model: VidTwin, x: Tensor) -> tuple[dict[str, Tensor], Posterior]:
    """Every tensor of a golden file, under its names and in its layouts."""
    tensors = {"input": x}
    with model.encoder.register_forward_hook(lambda module, inputs, z: tensors.update(z=z)):
        posterior = model.posterior(x)
    for kind, latents in (("mean", posterior.mean), ("logvar", posterior.logvar)):
        tensors[f"structure_{kind}"] = latents.structure.permute(0, 2, 3, 4, 1)  # released: (B, n_q, h_S, w_S, d_S)
        tensors[f"dynamics_x_{kind}"], tensors[f"dynamics_y_{kind}"] = latents.dynamics_x, latents.dynamics_y
    tensors["decode_full"] = model.decode(posterior.mean)
    tensors["decode_content"] = model.decode(posterior.mean, only="structure")
    tensors["decode_motion"] = model.decode(posterior.mean, only="dynamics")
    return tensors, posterior


@dataclass(frozen=True)
class Agreement:
    """One row: relative L2, largest error over largest value, and whether both are within their bounds."""

    case: str
    dtype: str
    name: str
    relative_l2: float
    largest: float
    within: bool


def agreement(case: str, dtype: torch.dtype, folder: Path = FOLDER) -> list[Agreement]:
    """Compare every stored tensor, and KL and L1 values, of a golden case."""
    golden, facts = load_file(folder / f"{case}.safetensors"), json.loads((folder / f"{case}.json").read_text())
    config = CONFIGS[facts["config"]]
    x = recipe_clip(facts["salt"], (facts["batch"], *config.clip_shape)).to(dtype)
    ours, posterior = compute(recipe_model(config, facts["salt"], dtype), x)
    bound_l2, bound_max = (RELATIVE_L2[facts["config"]], LARGEST) if dtype == torch.float32 else (FLOAT64, FLOAT64)

    def row(name: str, value: Tensor, reference: Tensor) -> Agreement:
        value, reference = value.double(), reference.double()
        assert value.shape == reference.shape, (name, value.shape, reference.shape)
        l2 = float((value - reference).norm() / reference.norm())
        largest = float((value - reference).abs().max() / reference.abs().max())
        return Agreement(case, str(dtype).removeprefix("torch."), name, l2, largest, l2 <= bound_l2 and largest <= bound_max)

    rows = []
    for name, reference in golden.items():
        strides = facts["strides"].get(name, [1] * reference.ndim)
        rows.append(row(name, ours[name][tuple(slice(None, None, stride) for stride in strides)], reference))
    scalars = {f"kl_{name}": part.mean() for name, part in posterior.kl_parts().items()}
    scalars["kl_total"] = posterior.kl().mean()
    scalars["rec_l1_mean"] = (ours["decode_full"] - x).abs().mean()
    stored: dict[str, Any] = facts["kl"] | {"rec_l1_mean": facts["rec_l1_mean"]}
    stored |= {"kl_dynamics_x": stored["kl_x"], "kl_dynamics_y": stored["kl_y"]}
    return rows + [row(name, value, torch.tensor(stored[name])) for name, value in scalars.items()]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--dtype", nargs="+", default=["float32", "float64"], choices=["float32", "float64"])
    parser.add_argument("--cases", nargs="+", help="default: all of the folder")
    options = parser.parse_args(arguments)
    cases = options.cases or sorted(path.stem for path in options.folder.glob("*.safetensors"))
    rows: list[Agreement] = []
    print(f"{'case':12}{'dtype':9}{'tensor':24}{'relative L2':>12}{'max / max':>12}  within", flush=True)
    for case, dtype in product(cases, options.dtype):
        for r in agreement(case, getattr(torch, dtype), options.folder):
            rows.append(r)
            within = "yes" if r.within else "NO"
            print(f"{r.case:12}{r.dtype:9}{r.name:24}{r.relative_l2:12.1e}{r.largest:12.1e}  {within}", flush=True)
    print(f"{sum(r.within for r in rows)} of {len(rows)} within bounds")
    return 0 if all(r.within for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
