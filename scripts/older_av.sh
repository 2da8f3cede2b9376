#!/usr/bin/env bash
# Read and write videos with the oldest PyAV that is accepted, the one that LeRobot asks for: tests of files, beside the .venv.
# Left out: bounds on pixels that this PyAV does not keep, and files damaged on purpose, which can end the process (docs/video.md).
EXTRAS=[dev]
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$repository"
older=$(mktemp -d)
trap 'rm -rf "$older"' EXIT
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$older" 'av==15.*'
export OMP_NUM_THREADS=1 PYTHONPATH=$older
"$venv/bin/python" -c 'import av; assert av.__version__.startswith("15."), av.__version__'
"$venv/bin/python" -m pytest --quiet tests/video/test_{read,hdr,pictures,write,encoding}.py \
    -k 'not pixels_come_back and not odd_sides' tests/motion/test_motion.py::test_a_path_and_a_recording_are_their_frames
