"""Decode the Structure of one half of a video with the Dynamics of the other half.

    python examples/swap.py -o swap.mp4 [VIDEO]

Without VIDEO: the sample clip of the package. Two videos: `vidtwin swap A B -o OUT`.
"""

import argparse
from pathlib import Path

from vidtwin import VidTwin
from vidtwin.cli.options import SAMPLE
from vidtwin.inference.decode import decode_video
from vidtwin.inference.encode import encode_stream, plan_header
from vidtwin.inference.engine import Engine
from vidtwin.inference.reconstruct import swap
from vidtwin.latents.stream import Identity
from vidtwin.video.read.reader import frame_count, probe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, nargs="?", default=SAMPLE)
    parser.add_argument("-o", "--out", type=Path, required=True, help="the video to write (.mp4)")
    options = parser.parse_args()

    engine = Engine(VidTwin.from_pretrained("mini"))
    weights = Identity.of(engine.model, "mini")
    info, half = probe(options.video), frame_count(options.video) // 2
    if half < 1:
        parser.error(f"{options.video}: has a single frame, no two halves")

    # Streams: a window is encoded when it is asked for, so a long video takes no more memory than a short one.
    first = encode_stream(engine, options.video, plan_header(engine, info, weights), stop=half)
    second = encode_stream(engine, options.video, plan_header(engine, info, weights, start=half), stop=2 * half)
    done: list[int] = []
    notes = decode_video(engine, swap(first, second), options.out, weights=weights, progress=done.append)

    print(f"{sum(done)} frames: Structure of frames 0 to {half - 1}, Dynamics of {half} to {2 * half - 1}")
    print("\n".join([*notes, f"written {options.out}"]))


if __name__ == "__main__":
    main()
