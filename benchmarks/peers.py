"""What do encoding and decoding a clip cost, beside the video autoencoders of diffusers that one would pick instead?

    python -m benchmarks.peers [--repeats 3]

Random weights of each model's default size, 16 frames of 224x224 (17 for models that take 1 + 4n or 1 + 8n frames, their figures
times 16 / 17). Every model and dtype has a process of its own, and they take turns in one run, so that all meet the same machine.
Writes benchmarks/results/peers.json and docs/peers.png.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.setting import setting, write_results
from vidtwin.benchmark import resident_kib

OURS = ("tiny", "mini", "released")
PEERS = {"LTX-Video": "AutoencoderKLLTXVideo", "Wan 2.1": "AutoencoderKLWan", "VidTok": "AutoencoderVidTok"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PLOT = Path(__file__).parents[1] / "docs" / "peers.png"


def halves(name: str, dtype: torch.dtype) -> tuple[int, int, int, Callable[[], Any], Callable[[Any], Any]]:
    """Parameters, frames, latent values, encode() and decode(what encode gave) of a model."""
    torch.manual_seed(0)
    if name in OURS:
        from vidtwin import VidTwin, preset

        model = VidTwin(preset(name) if name == "released" else VidTwin.from_pretrained(name).config).to(dtype).eval()
        clip = torch.rand(1, *model.config.clip_shape) * 2 - 1
        return model.num_parameters(), 16, model.config.latent_values, lambda: model.encode(clip), model.decode
    import diffusers

    peer: Any = getattr(diffusers, PEERS[name])().to(dtype).eval()
    clip = (torch.rand(1, 3, 17, 224, 224) * 2 - 1).to(dtype)

    def encode() -> Tensor:
        mode: Tensor = peer.encode(clip).latent_dist.mode()
        return mode

    with torch.inference_mode():
        values = encode().numel()
    return sum(p.numel() for p in peer.parameters()), 17, values, encode, lambda z: peer.decode(z).sample


def work(connection: Connection, name: str, dtype: str, threads: int) -> None:
    """Answer each message by what a turn of encoding and decoding cost."""
    torch.set_num_threads(threads)
    parameters, frames, values, encode, decode = halves(name, DTYPES[dtype])
    connection.send({"parameters": parameters, "values": round(values * 16 / frames)})
    with torch.inference_mode():
        while connection.recv():
            latents, encoding = timed(encode)
            _, decoding = timed(lambda: decode(latents))  # noqa: B023, called at once
            answer = {"encode": encoding[0], "encode_cpu": encoding[1], "decode": decoding[0], "decode_cpu": decoding[1]}
            answer = {key: seconds * 16 / frames for key, seconds in answer.items()}
            connection.send(answer | {"peak_mib": resident_kib() / 2**10})


def timed(call: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """Its result, and the seconds and CPU-seconds that it took."""
    wall, processors = time.perf_counter(), time.process_time()
    result = call()
    return result, (time.perf_counter() - wall, time.process_time() - processors)


@contextmanager
def worker(name: str, dtype: str) -> Iterator[tuple[Connection, dict[str, Any]]]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(there, name, dtype, torch.get_num_threads()))
    process.start()
    there.close()
    yield here, {"model": name, "dtype": dtype} | here.recv()
    here.send(False)
    process.join()


def plot(rows: list[dict[str, Any]]) -> None:
    """CPU-seconds of encoding and decoding, a bar for each model and dtype."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    labels = [f"{row['model']}, {row['dtype']}" for row in rows]
    left = [row["encode_cpu"] for row in rows]
    axes.barh(labels, left, label="encode")
    axes.barh(labels, [row["decode_cpu"] for row in rows], left=left, label="decode")
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="CPU-seconds for 16 frames of 224x224 (logarithmic)")
    axes.legend()
    figure.savefig(PLOT, dpi=100)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=[*OURS, *PEERS], choices=[*OURS, *PEERS])
    parser.add_argument("--dtypes", nargs="+", default=[*DTYPES], choices=[*DTYPES])
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(name, dtype)) for name in options.models for dtype in options.dtypes]
        turns: list[list[dict[str, Any]]] = [[] for _ in workers]
        for turn in range(options.repeats + 1):
            for (connection, facts), answers in zip(workers, turns, strict=True):
                connection.send(True)
                answers.append(connection.recv())
                print(f"turn {turn}: {facts['model']:10} {facts['dtype']:9} {answers[-1]}", flush=True)
        rows = [
            facts | {key: statistics.median(answer[key] for answer in answers[1:]) for key in answers[0]}  # the first warms up
            for (_, facts), answers in zip(workers, turns, strict=True)
        ]
    write_results("peers", {"setting": setting("cpu", arguments), "rows": rows})
    plot(rows)


if __name__ == "__main__":
    main()
