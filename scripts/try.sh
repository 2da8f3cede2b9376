#!/usr/bin/env bash
# Set up, then reconstruct a video with the shipped weights: bash scripts/try.sh [VIDEO] [OUT.mp4]
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
"$venv/bin/vidtwin" reconstruct ${1:+"$1"} --side-by-side --out "${2:-side_by_side.mp4}"
echo "Next: source .venv/bin/activate; vidtwin reconstruct YOUR.mp4 -o out.mp4 --side-by-side; vidtwin (lists the commands)"
