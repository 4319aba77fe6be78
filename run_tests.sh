#!/usr/bin/env bash
# The whole test suite and the linter, in the environment of run_all.sh. Arguments go to pytest: ./run_tests.sh -k plan
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
"$ROOT/run_all.sh" --setup
python=${NAT_PYTHON:-$ROOT/.venv/bin/python}
cd "$ROOT"
export OMP_NUM_THREADS=1
status=0
"$python" -m pytest -q "$@" || status=$?
"$python" -m ruff check . || status=$?
exit "$status"
