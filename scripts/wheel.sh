#!/usr/bin/env bash
# Build wheel and sdist, and try the wheel where there is no checkout: a new environment, another folder, the main job.
EXTRAS=[dev]
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$repository"
rm -rf build/dist
"$venv/bin/python" -m build --outdir build/dist . > /dev/null
ls -l build/dist
elsewhere=$(mktemp -d)
trap 'rm -rf "$elsewhere"' EXIT
"$python" -m venv "$elsewhere/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$elsewhere/venv/bin/pip" install --quiet torch==2.13.0
cd "$elsewhere"
"$elsewhere/venv/bin/pip" install --quiet --constraint "$repository/constraints.txt" "$repository"/build/dist/*.whl
"$elsewhere/venv/bin/pip" check
"$elsewhere/venv/bin/vidtwin" --version
"$elsewhere/venv/bin/vidtwin" recipes tiny > /dev/null
"$elsewhere/venv/bin/vidtwin" reconstruct --out "$elsewhere/out.mp4"
"$elsewhere/venv/bin/python" -c 'from vidtwin import VidTwinPipeline; VidTwinPipeline.from_pretrained("sprites")'
tar -tzf "$repository"/build/dist/*.tar.gz > listing
grep -q weights/tiny/model.safetensors listing
grep -q weights/mini/model.safetensors listing
