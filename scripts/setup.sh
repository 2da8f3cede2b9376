# Sourced by the other scripts, from the repository: makes .venv with the versions of constraints.txt, once.
# PYTHON=python3.12 chooses the interpreter. EXTRAS=[dev] adds what lint and tests need.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
extras=${EXTRAS:-}
venv=$repository/.venv
stamp=$venv/installed${extras:+-dev}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "setup: $python is missing or older than 3.10; set PYTHON to a newer one" >&2
    exit 1
}
fresh() { # is stamp $1 there, and newer than what it depends on?
    [ -e "$1" ] && [ ! "$repository/pyproject.toml" -nt "$1" ] && [ ! "$repository/constraints.txt" -nt "$1" ]
}
if ! fresh "$stamp" && ! fresh "$venv/installed-dev"; then
    echo "setup: installing into $venv (a few minutes the first time)"
    "$python" -m venv "$venv"
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    "$venv/bin/pip" install --quiet torch==2.13.0 # first and alone, so that nothing after it brings another build
    "$venv/bin/pip" install --quiet --constraint "$repository/constraints.txt" --editable "$repository$extras"
    touch "$stamp"
fi
