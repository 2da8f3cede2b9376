#!/usr/bin/env bash
# Set up, then run the tests; arguments go to pytest: bash scripts/test.sh -m slow
EXTRAS=[dev]
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$repository"
exec "$venv/bin/python" -m pytest "$@"
