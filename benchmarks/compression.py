"""What latents take as a compressed file, and what rounding them costs: bytes, bits and PSNR over steps of the quantiser.

    python -m benchmarks.compression [--weights tiny] [VIDEO]

The video (default: the sample clip, centre crop) is encoded once, compressed at each step, and decoded from each file. PSNR is the
mean over the frames of the model's clips: against the source, and against what decodes without rounding. normal_bits_per_value: of
the same file where N(0, 1) stands for all channels instead of what was fitted. "theory": latents of N(0, 1) at a step of sqrt(12)
sigma, which should cost their KL and 0.254 bit a value. "bars": 1,000 windows come back bit for bit, and 1,000 damaged files are
refused by name. Writes benchmarks/results/compression-WEIGHTS.json.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.setting import setting, write_results
from vidtwin.cli.options import SAMPLE
from vidtwin.inference.decode import decode_windows
from vidtwin.inference.encode import encode_video, source_windows
from vidtwin.inference.engine import Engine
from vidtwin.latents.entropy import LatentCoder, Moments
from vidtwin.latents.file import LatentVideo, LatentWriter, compress
from vidtwin.latents.stream import Identity, Window
from vidtwin.metrics import frame_psnr
from vidtwin.model.latents import Latents
from vidtwin.model.loading import load_weights

STEPS = (0.25, 0.5, 1.0, 2.0, math.sqrt(12), 8.0, 16.0, 32.0, 64.0)
WINDOWS, DAMAGED = 1000, 1000


def decoded(engine: Engine, video: LatentVideo) -> list[torch.Tensor]:
    """Of each window, its frames (3, n, h, w)."""
    return [window.clip for window in decode_windows(engine, video.stream()) if window.clip is not None]


def psnr(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Mean over all frames, in dB."""
    return float(torch.cat([frame_psnr(x, y) for x, y in zip(a, b, strict=True)]).mean())


def rates(engine: Engine, path: Path, weights: Identity, folder: Path) -> dict[str, Any]:
    """A row for each step."""
    plain = encode_video(engine, path, folder / "plain.vidtwin", logvar=True, stored="float32", weights=weights)
    bare = encode_video(engine, path, folder / "bare.vidtwin", stored="float32", weights=weights)
    source = [window.pixels for window in source_windows(path, plain.header)]
    exact = decoded(engine, plain)
    facts: dict[str, Any] = {"frames": plain.frames, "windows": plain.window_count, "plain_bytes": bare.path.stat().st_size}
    facts["psnr_uncompressed"] = round(psnr(exact, source), 3)
    print(f"{path.name}: {plain.frames} frames, {facts['plain_bytes']:,} bytes as float32, {facts['psnr_uncompressed']} dB")
    rows = []
    for step in STEPS:
        size = compress(plain, folder / "x.vidtwin", step)
        video = LatentVideo.load(folder / "x.vidtwin")
        assert video.size == size
        found = decoded(engine, video)
        normal = compress(plain, folder / "normal.vidtwin", step, prior="normal")
        row = {
            **size.to_dict(),
            "normal_bits_per_value": normal.bits_per_value,
            "psnr": psnr(found, source),
            "psnr_to_uncompressed": psnr(found, exact),
        }
        rows.append({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()})
        print(
            f"step {step:5.3f}: {size}; {row['psnr']:.3f} dB, {row['psnr_to_uncompressed']:.1f} dB to what is not rounded",
            flush=True,
        )
    return facts | {"steps": rows}


def theory(sigma: float = 0.1, count: int = 20) -> dict[str, float]:
    """Latents of N(0, 1) at a step of sqrt(12) sigma: coded bits above the KL, a value; 0.254 in theory."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 8, 16, 7, 7), (1, 8, 16, 7), (1, 8, 16, 7))  # of the released size
    windows, moments = [], Moments()
    for index in range(count):
        mean = Latents(*(math.sqrt(1 - sigma**2) * torch.randn(shape, generator=generator) for shape in shapes))
        logvar = Latents(*(torch.full(shape, 2 * math.log(sigma)) for shape in shapes))
        windows.append(Window(index, mean, logvar, (0,), (False,), False))
        moments.add(windows[-1].latents, windows[-1].logvar)
    coder = LatentCoder.fit(moments, math.sqrt(12))
    values = count * sum(math.prod(shape) for shape in shapes)
    assert moments.kl is not None
    bits = sum(8 * len(part) for window in windows for part in coder.encode(window.latents)) / values
    kl = sum(moments.kl) / values
    print(f"N(0, 1) latents, sigma {sigma}: {bits:.4f} bits a value, KL {kl:.4f}: {bits - kl:.4f} above")
    return {"sigma": sigma, "bits_per_value": round(bits, 4), "kl_bits_per_value": round(kl, 4), "above": round(bits - kl, 4)}


def bars(plain: LatentVideo, folder: Path) -> dict[str, Any]:
    """The windows of a video over and over, to WINDOWS of them; and damaged versions of its compressed file."""
    header, count, f = plain.header, plain.window_count - 1, plain.header.config.frames
    path = folder / "long.vidtwin"
    with LatentWriter(path, header, step=1.0) as writer:
        for index in range(WINDOWS):
            one = plain.window(index % count)
            ticks = tuple(range(index * f, index * f + f))
            writer.write(Window(index, one.latents, one.logvar, ticks, one.cuts, last=index == WINDOWS - 1))
    long = LatentVideo.load(path)
    coder = long.coder
    assert coder is not None
    same = 0
    for index in range(WINDOWS):
        wanted = coder.quantized(plain.window(index % count).latents)
        same += all(torch.equal(a, b) for a, b in zip(long.window(index).latents.tensors, wanted.tensors, strict=True))
    compress(plain, folder / "x.vidtwin", 1.0)
    data = (folder / "x.vidtwin").read_bytes()
    outcomes: dict[str, int] = {}
    for number in range(DAMAGED):
        damaged = damage(data, np.random.default_rng(number))
        (folder / "damaged.vidtwin").write_bytes(damaged)
        outcome = "unchanged" if damaged == data else _read(folder / "damaged.vidtwin")
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(f"{same} of {WINDOWS} windows exact; {DAMAGED} damaged files: {outcomes}")
    return {"windows": WINDOWS, "exact": same, "damaged": outcomes}


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """A bit turned, the end cut off, or random bytes."""
    place, changed = int(rng.integers(len(data))), bytearray(data)
    match int(rng.integers(3)):
        case 0:
            changed[place] ^= 1 << int(rng.integers(8))
        case 1:
            del changed[place:]
        case _:
            end = min(len(data), place + int(rng.integers(1, 1000)))
            changed[place:end] = rng.bytes(end - place)
    return bytes(changed)


def _read(path: Path) -> str:
    """What comes of reading all of a damaged file: what its message names."""
    try:
        video = LatentVideo.load(path)
        for index in range(video.window_count):
            video.window(index)
    except ValueError as error:
        names = [
            name
            for name in ("window", "index", "header", "compressed form", "not a latent file", "cut short")
            if name in str(error)
        ]
        return f"refused: {names[0]}" if names and path.name in str(error) else "refused without a place"
    return "read"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("video", nargs="?", type=Path, default=SAMPLE)
    options = parser.parse_args(arguments)
    model = load_weights(options.weights)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        facts = rates(Engine(model), options.video, Identity.of(model, options.weights), folder)
        facts = {"video": options.video.name, **facts, "theory": theory()}
        facts["bars"] = bars(LatentVideo.load(folder / "plain.vidtwin"), folder)
    write_results(f"compression-{Path(options.weights).stem}", {"setting": setting("cpu", arguments), **facts})
    return 0


if __name__ == "__main__":
    sys.exit(main())
