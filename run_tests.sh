#!/usr/bin/env bash
# The tests, in the environment of run_all.sh.
#   ./run_tests.sh                    everything, then ruff, ruff format and mypy: what CI calls
#   ./run_tests.sh quick              less than two minutes: all that is not marked slow
#   ./run_tests.sh notebooks [04]     the notebooks, or one of them, headless at a tiny size
#   ./run_tests.sh ARGUMENTS          given to pytest as they are: ./run_tests.sh tests/test_exits.py -k vote
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
"$ROOT/run_all.sh" --setup
python=${NAT_PYTHON:-$ROOT/.venv/bin/python}
cd "$ROOT"
cores=$(nproc)  # asked before the next line, which it heeds
export OMP_NUM_THREADS=1
mode=${1-all}
case $mode in
  all) tests=(--numprocesses "$cores" --dist loadfile) ;;
  quick) shift; tests=(--numprocesses "$cores" --dist worksteal -m "not slow" "$@") ;;
  notebooks) tests=(tests/test_notebooks.py ${2:+-k "$2"}) ;;
  *) tests=("$@") ;;
esac
status=0
"$python" -m pytest -q "${tests[@]}" || status=$?
if [[ $mode == all ]]; then
  "$python" -m ruff check . || status=$?
  "$python" -m ruff format --check . || status=$?
  "$python" -m mypy || status=$?
fi
exit "$status"
