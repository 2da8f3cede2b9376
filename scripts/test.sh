#!/usr/bin/env bash
# Set up, then run the tests in two processes of one thread each; arguments go to pytest: bash scripts/test.sh -m slow
EXTRAS=[dev]
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$repository"
export OMP_NUM_THREADS=1
exec "$venv/bin/python" -m pytest --numprocesses 2 --dist worksteal "$@"
