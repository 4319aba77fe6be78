#!/usr/bin/env bash
# Finds a Python, makes the environment, and hands over: the options are nat_lib/run/options.py, the rest is
# nat_lib/run/drive.py. See --help.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
VENV=$ROOT/.venv
HELP_SHOWN=100  # exit code of the check of the options, as in nat_lib/run/options.py
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}

refuse() { echo "run_all.sh: $*" >&2; exit 2; }

find_python() {
  local name without_venv=
  for name in python3 python3.13 python3.12 python3.11 python; do
    "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || continue
    if "$name" -c 'import venv, ensurepip' 2>/dev/null; then
      echo "$name"
      return
    fi
    without_venv=${without_venv:-$name}
  done
  [[ -z $without_venv ]] ||
    refuse "$without_venv cannot make environments: install its venv module (sudo apt install $without_venv-venv), call again"
  refuse "Python 3.11, 3.12 or 3.13 is needed (found: $(python3 --version 2>&1 || true)): install one, for instance" \
    "sudo apt install python3.12 python3.12-venv, or make environment.yml with conda and set NAT_PYTHON to its python"
}

# The stamp is written last, so whatever a killed setup left is made again from the start.
current() { [[ -f $STAMP && $(<"$STAMP") == "$WANTED" ]] && "$VENV/bin/python" -c '' 2>/dev/null; }

make_environment() {
  current && return
  { exec 9>"$ROOT/.venv.lock"; } 2>/dev/null ||
    refuse "$ROOT may not be written, where the environment would be: copy the kit to a folder of yours, or set NAT_PYTHON"
  flock --nonblock 9 || { echo "Another call is making the environment: waiting for it."; flock 9; }
  if ! current; then
    echo "Making the environment in .venv with $("$base" --version), once: a few minutes."
    rm -rf "$VENV"
    { "$base" -m venv "$VENV" &&
      "$VENV/bin/python" -m pip install -qq --no-input --disable-pip-version-check -r "$ROOT/requirements.lock" &&
      echo "$ROOT" >"$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nat_lib.pth" &&
      "$VENV/bin/python" -c 'import torch, torchvision, nat_lib.run.drive' &&
      echo "$WANTED" >"$STAMP"
    } || refuse "the environment could not be made (reason above): check network and disk space (7 GB), then call again"
  fi
  exec 9>&-
}

if [[ -n ${NAT_PYTHON-} ]]; then
  base=$NAT_PYTHON
  "$base" -c 'from importlib.util import find_spec as f; exit(not all(map(f, ("papermill", "pydantic", "yaml", "torch", "snakemake"))))' \
    2>/dev/null || refuse "NAT_PYTHON=$base does not run or lacks packages: $base -m pip install -r requirements.lock"
else
  STAMP=$VENV/nat-kit.stamp
  WANTED=$({ cat "$ROOT/requirements.lock"; echo "$ROOT"; } | sha256sum)
  if current; then base=$VENV/bin/python; else base=$(find_python); fi
fi

# Mistyped options are refused before minutes are spent on the environment.
checked=0
"$base" -m nat_lib.run.options "$@" || checked=$?
((checked != HELP_SHOWN)) || exit 0
((checked == 0)) || exit "$checked"

python=$base
if [[ -z ${NAT_PYTHON-} ]]; then
  make_environment
  python=$VENV/bin/python
fi
exec "$python" -m nat_lib run "$@"
