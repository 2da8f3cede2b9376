"""Read a video, encode one clip to its two latents, decode it again, and say how near it is.

    python examples/reconstruct.py -o reconstruction.mp4 [VIDEO]

Without VIDEO: the sample clip of the package. Whole videos of any length: `vidtwin reconstruct`, or `vidtwin.inference`.
"""

import argparse
from pathlib import Path

import torch

from vidtwin import VidTwin
from vidtwin.cli.options import SAMPLE
from vidtwin.frames.clips import Geometry, from_clip, to_clip
from vidtwin.metrics import clip_psnr
from vidtwin.video.read.reader import read_video
from vidtwin.video.write.writer import VideoWriter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, nargs="?", default=SAMPLE)
    parser.add_argument("-o", "--out", type=Path, required=True, help="the video to write (.mp4)")
    options = parser.parse_args()

    model = VidTwin.from_pretrained("mini")
    _, frames, height, width = model.config.clip_shape
    video = read_video(options.video, stop=frames)  # uint8 (F, H, W, 3)
    if len(video.frames) < frames:
        parser.error(f"{options.video}: has {len(video.frames)} frames, a clip has {frames}")

    geometry = Geometry.plan("crop", video.frames.shape[1:3], (height, width))
    x = to_clip(video.frames, geometry)[None]  # (1, 3, F, h, w) in [-1, 1]
    with torch.inference_mode():
        latents = model.encode(x)
        x_hat = model.decode(latents).clamp(-1, 1)

    with VideoWriter(options.out, video.fps, geometry.output_size) as writer:
        writer.write(from_clip(x_hat[0], geometry))
    print(f"latents {latents}")
    print(f"{model.config.latent_values} values a clip, PSNR {clip_psnr(x[0], x_hat[0]):.2f} dB")
    print(f"written {options.out}")


if __name__ == "__main__":
    main()
