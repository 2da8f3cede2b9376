"""The Dynamics latents of an episode, cached offline and taken live frame by frame: the same numbers, bit for bit.

    python examples/motion_latents.py -o motion.npz [VIDEO]

Writes the cache and the record that says how it was made. Without VIDEO: the sample clip of the package. docs/motion.md has
layouts, windows and the record.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from vidtwin import MotionExtractor
from vidtwin.cli.options import SAMPLE
from vidtwin.files import atomic_output
from vidtwin.video.read.reader import read_video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, nargs="?", default=SAMPLE)
    parser.add_argument("-o", "--out", type=Path, required=True, help="the cache to write (.npz)")
    options = parser.parse_args()
    if options.out.suffix != ".npz":
        parser.error(f"-o {options.out}: name a file that ends in .npz")

    episode = torch.from_numpy(read_video(options.video).frames).permute(0, 3, 1, 2)  # uint8 (T, 3, H, W)
    windows = {"window": 16, "stride": 10}

    extractor = MotionExtractor("tiny", layout="cowvla", frames="floor", resize="crop")
    offline = extractor.episode(episode, **windows)  # (N, 1792), one row for steps 0, 10, 20, ...
    record = extractor.record(**windows)
    with atomic_output(options.out) as partial:
        np.savez(partial, motion=offline.numpy(), record=json.dumps(record))

    with np.load(options.out) as cache:  # what a policy does, later and elsewhere
        cached, record = torch.from_numpy(cache["motion"]), json.loads(str(cache["record"]))
    again = MotionExtractor.from_record(record)
    again.check(record, **windows)  # raises if anything would give other numbers
    stream = again.live(**record["episode"])
    live = torch.stack([latent for frame in episode if (latent := stream.push(frame)) is not None])

    print(f"offline {tuple(offline.shape)}, live {tuple(live.shape)}, equal: {torch.equal(live, cached)}")
    print(f"written {options.out}")


if __name__ == "__main__":
    main()
