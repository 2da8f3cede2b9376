"""What a diffusion transformer costs on the latents of several autoencoders (paper Sec. 4.4.2, C.2, Fig. 5).

    python -m benchmarks.generator_cost [--batch 8] [--device cuda]

The pseudo DiT is the paper's: 6 layers of 8 heads, 512 wide, feed-forward 2048, patches of 2 in every dimension. Each latent is
of 16 frames of 224 x 224 (17 for autoencoders that want 4 n + 1 or 8 n + 1), in the shape that its paper or code gives. FLOPs are
counted for one sample forward (2 for a multiplication and an addition); memory is the peak of a training step with Adam, weights
and states included, in a process of its own, less what the process had before. Writes results/generator-cost.json, .md and .svg.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.setting import RESULTS, setting, write_results
from vidtwin.evaluation.plots import STYLES, svg
from vidtwin.files import atomic_output
from vidtwin.generation.tokens import Patches

LAYERS, HEADS, WIDTH, FEED_FORWARD, PATCH = 6, 8, 512, 2048, 2
PAPER_PARAMETERS = 12_610_560
MOST_TOKENS = 20_000  # in a batch, of which a training step is measured
TWIN = "VidTwin 0.20 %"
Volume = tuple[int, int, int, int]  # channels, time, height, width


@dataclass(frozen=True)
class LatentOf:
    """The latents of a clip of `frames` frames by an autoencoder, and whether the paper compares with it."""

    name: str
    volumes: tuple[Volume, ...]
    frames: int = 16
    in_paper: bool = False

    @property
    def values(self) -> int:
        return sum(map(prod, self.volumes))

    @property
    def rate(self) -> float:
        """Values over the clip's, in per cent."""
        return 100 * self.values / (3 * self.frames * 224 * 224)

    @property
    def patches(self) -> list[Patches]:
        return [Patches(c, (t, h, w), (min(PATCH, t), PATCH, PATCH)) for c, t, h, w in self.volumes]

    @property
    def tokens(self) -> int:
        return sum(patches.count for patches in self.patches)


LATENTS = (
    LatentOf(TWIN, ((4, 16, 7, 7), (8, 1, 16, 14)), in_paper=True),
    LatentOf("VidTwin 0.33 % (released)", ((8, 16, 7, 7), (8, 1, 16, 14))),
    LatentOf("MAGVIT-v2", ((4, 5, 28, 28),), in_paper=True),  # 4 x 8 x 8
    LatentOf("CMD", ((3, 1, 224, 224), (16, 1, 16, 56)), in_paper=True),  # a content frame in pixels, and motion
    LatentOf("EMU-3", ((4, 4, 28, 28),), in_paper=True),  # 4 x 8 x 8
    LatentOf("CV-VAE", ((4, 5, 28, 28),), 17, in_paper=True),  # 4 x 8 x 8
    LatentOf("iVideoGPT", ((4, 2, 56, 56), (4, 14, 14, 14)), in_paper=True),  # two frames in full, 14 as what changes
    LatentOf("Wan 2.1", ((16, 5, 28, 28),), 17),  # 4 x 8 x 8
    LatentOf("Wan 2.2 (5B)", ((48, 5, 14, 14),), 17),  # 4 x 16 x 16
    LatentOf("LTX-Video", ((128, 3, 7, 7),), 17),  # 8 x 32 x 32
    LatentOf("Cosmos CV8x8x8", ((16, 3, 28, 28),), 17),
)


class PseudoDiT(nn.Module):
    """Patches -> transformer -> patches; nothing else, as the paper's."""

    def __init__(self, patches: Sequence[Patches]):
        super().__init__()
        self.patches = patches
        self.entrances = nn.ModuleList(nn.Linear(p.values, WIDTH) for p in patches)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, FEED_FORWARD, dropout=0.0, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.exits = nn.ModuleList(nn.Linear(WIDTH, p.values) for p in patches)

    def forward(self, *volumes: Tensor) -> list[Tensor]:
        tokens = [enter(p.pack(z)) for enter, p, z in zip(self.entrances, self.patches, volumes, strict=True)]
        lengths = [part.shape[1] for part in tokens]
        parts = self.transformer(torch.cat(tokens, dim=1)).split(lengths, dim=1)
        return [p.unpack(leave(part)) for leave, p, part in zip(self.exits, self.patches, parts, strict=True)]


def parameters() -> tuple[int, int]:
    """Of the pseudo DiT's transformer: all, and those of linear layers and norms outside of its attention."""
    transformer = PseudoDiT(LATENTS[0].patches).transformer
    attention = sum(p.numel() for name, p in transformer.named_parameters() if ".self_attn." in name)
    total = sum(p.numel() for p in transformer.parameters())
    return total, total - attention


def flops(latent: LatentOf) -> int:
    """Of one sample forward."""
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), sdpa_kernel(SDPBackend.MATH), counter:  # math: products that the counter knows on every device
        PseudoDiT(latent.patches)(*(torch.randn(1, *volume) for volume in latent.volumes))
    return int(counter.get_total_flops())


def training_memory(latent: LatentOf, batch: int, device: str) -> float:
    """MiB at the peak of a training step with Adam."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_training_memory, (latent, batch, device))


def _training_memory(latent: LatentOf, batch: int, device: str) -> float:
    torch.set_num_threads(1)
    before = _peak(device)
    model = PseudoDiT(latent.patches).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(2):
        volumes = [torch.randn(batch, *volume, device=device) for volume in latent.volumes]
        loss = torch.stack([(a - b).square().mean() for a, b in zip(model(*volumes), volumes, strict=True)]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return _peak(device) - before


def _peak(device: str) -> float:
    """MiB."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 2**10
    raise RuntimeError("this system does not say how much memory a process took")


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown, with ratios to VidTwin."""
    twin = next(row for row in rows if row["name"] == TWIN)
    lines = [
        "| latent | values | rate | tokens | GFLOP | ratio | training step, MiB | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory = "not measured | " if row["mib"] is None else f"{row['mib']:,.0f} | {row['mib'] / twin['mib']:.1f}"
        lines.append(
            f"| {row['name']} | {row['values']:,} | {row['rate']:.2f} % | {row['tokens']:,} | {row['gflop']:.1f} | "
            f"{row['gflop'] / twin['gflop']:.1f} | {memory} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]]) -> str:
    """FLOPs over memory, as SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2))
    axes = figure.add_subplot()
    for row in (row for row in rows if row["mib"] is not None):
        colour, mark, _ = STYLES[0 if row["name"].startswith("VidTwin") else 1 if row["in_paper"] else 2]
        axes.plot(row["gflop"], row["mib"], mark, color=colour)
        axes.annotate(row["name"], (row["gflop"], row["mib"]), xytext=(5, 4), textcoords="offset points", fontsize=7)
    axes.set(xscale="log", yscale="log", xlabel="GFLOP a sample, forward", ylabel="MiB of a training step")
    axes.margins(x=0.2)
    axes.grid(alpha=0.3)
    return svg(figure)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    total, without_attention = parameters()
    print(f"{total:,} parameters, {without_attention:,} without attention; the paper says {PAPER_PARAMETERS:,}")
    rows = []
    for latent in LATENTS:
        row = asdict(latent) | {"values": latent.values, "rate": latent.rate, "tokens": latent.tokens}
        fits = latent.tokens * options.batch <= MOST_TOKENS
        row |= {"gflop": flops(latent) / 1e9, "mib": training_memory(latent, options.batch, options.device) if fits else None}
        rows.append(row)
        print(f"{latent.name:28}{row['tokens']:7,} tokens{row['gflop']:10.1f} GFLOP{row['mib'] or 0:10,.0f} MiB", flush=True)
    counts = {"all": total, "without_attention": without_attention, "paper": PAPER_PARAMETERS}
    where = setting(options.device, arguments) | {"batch": options.batch}
    write_results("generator-cost", {"setting": where, "parameters": counts, "rows": rows})
    for suffix, text in (("md", table(rows)), ("svg", plot(rows))):
        with atomic_output(RESULTS / f"generator-cost.{suffix}") as partial:
            partial.write_text(text)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
