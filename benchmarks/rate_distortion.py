"""True bits against PSNR: latents in entropy-coded form, and real codecs, on the same clips.

    python -m benchmarks.rate_distortion VIDEOS [--weights tiny] [--clips 1] [--codecs x264 x265 svtav1]

The first clips of each video, at native rate. Ours: the bytes that a window takes in a file of `vidtwin encode --compress` (the
models of the channels are fitted to all clips; header and record heads are left out, as those of the codecs' streams are), and the
PSNR of what it decodes to. Writes benchmarks/results/rate-distortion-WEIGHTS.json and .svg.
"""

import argparse
import dataclasses
import itertools
import sys
from pathlib import Path

from benchmarks.setting import RESULTS, setting, write_results
from vidtwin import VidTwin
from vidtwin.data.sources import find_videos
from vidtwin.evaluation.codecs import CODECS, rate_distortion
from vidtwin.evaluation.metrics import clip_psnr
from vidtwin.evaluation.plots import rate_distortion_plot
from vidtwin.evaluation.results import list_hash
from vidtwin.evaluation.scoring import evaluation_clips
from vidtwin.files import atomic_output
from vidtwin.inference.engine import Engine
from vidtwin.inference.entropy import LatentCoder, Moments
from vidtwin.inference.latent_stream import Window

STEPS = (1.0, 12**0.5, 8.0, 16.0, 32.0, 64.0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path)
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--codecs", nargs="*", default=sorted(CODECS), choices=sorted(CODECS))
    options = parser.parse_args(arguments)
    model = VidTwin.from_pretrained(options.weights)
    engine, (_, frames, height, width) = Engine(model), model.config.clip_shape
    paths = find_videos(options.videos)
    clips = [clip for path in paths for clip in itertools.islice(evaluation_clips(path, frames, height, width), options.clips)]

    posterior = engine.encode(len(clips), lambda index: clips[index])
    moments = Moments()
    for number in range(len(clips)):
        one = slice(number, number + 1)
        ticks = tuple(range(frames))
        moments.add(Window(number, posterior.mean[one], posterior.logvar[one], ticks, (False,) * frames, False))
    ours = []
    for step in STEPS:
        coder, bits, psnr = LatentCoder.fit(moments, step), 0, 0.0
        for number, clip in enumerate(clips):
            latents = posterior.mean[number : number + 1]
            bits += 8 * sum(map(len, coder.encode(latents)))
            psnr += clip_psnr(next(iter(engine.decode(coder.quantized(latents)))), clip)
        ours.append({"step": step, "bits": bits / len(clips), "psnr": psnr / len(clips)})
        print(
            f"{options.weights:8} step {step:5.2f}  {bits / len(clips) / 1000:8.2f} kbit  {psnr / len(clips):6.2f} dB", flush=True
        )
    exact = sum(clip_psnr(x_hat, x) for x_hat, x in zip(engine.decode(posterior.mean), clips, strict=True)) / len(clips)

    codecs = {}
    for name in options.codecs:
        codecs[name] = rate_distortion(clips, name)
        for point in codecs[name]:
            print(f"{name:8} crf {point.quality:6}  {point.bits / 1000:8.2f} kbit  {point.psnr:6.2f} dB", flush=True)
    kl = moments.kl
    result = {
        "setting": setting("cpu", arguments) | {"command": f"python -m benchmarks.rate_distortion VIDEOS --clips {options.clips}"},
        "weights": options.weights,
        "clips": f"{len(clips)}: the first {options.clips} of each of {len(paths)} videos, {frames} frames of {width}x{height}",
        "list_sha256": list_hash(paths),
        "psnr_without_quantising": exact,
        "kl_bits": None if kl is None else sum(kl) / len(clips),
        "ours": ours,
        "codecs": {name: [dataclasses.asdict(point) for point in points] for name, points in codecs.items()},
    }
    write_results(f"rate-distortion-{options.weights}", result)
    curves = {options.weights: [(row["bits"], row["psnr"]) for row in ours]}
    curves |= {name: [(point.bits, point.psnr) for point in points] for name, points in codecs.items()}
    with atomic_output(RESULTS / f"rate-distortion-{options.weights}.svg") as partial:
        partial.write_text(rate_distortion_plot(curves))
    return 0


if __name__ == "__main__":
    sys.exit(main())
