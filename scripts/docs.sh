#!/usr/bin/env bash
# Set up, then build the manual, any warning an error: bash scripts/docs.sh [OUT]
EXTRAS=[dev]
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$repository"
out=${1:-build/docs}
echo "docs: building $out/index.html (a minute: every command's help is asked for)"
exec "$venv/bin/sphinx-build" -W --keep-going -q docs "$out"
