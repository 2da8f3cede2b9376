#!/usr/bin/env bash
# Set up, then build the manual, any warning an error: bash scripts/docs.sh [OUT]
EXTRAS=[dev]
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$repository"
exec "$venv/bin/sphinx-build" -W --keep-going -q docs "${1:-build/docs}"
