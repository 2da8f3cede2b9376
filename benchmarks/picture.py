"""One frame of a video as a PNG: the picture of the README.

vidtwin reconstruct --side-by-side -o side_by_side.mp4
python benchmarks/picture.py side_by_side.mp4 20 docs/side_by_side.png
"""

import sys
from pathlib import Path

from PIL import Image

from vidtwin.files import atomic_output
from vidtwin.video.read.reader import read_clip


def main(arguments: list[str]) -> int:
    if len(arguments) != 3:
        print("usage: python benchmarks/picture.py VIDEO FRAME OUT.png", file=sys.stderr)
        return 2
    video, frame, out = arguments
    with atomic_output(Path(out)) as partial:
        Image.fromarray(read_clip(video, int(frame), 1)[0]).save(partial)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
