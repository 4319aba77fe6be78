#!/usr/bin/env bash
# Environment, plan, run, results: see --help. Everything after the environment is nat_lib/drive.py.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
VENV=$ROOT/.venv

usage() {
  cat <<'HELP'
Run the notebooks of the kit, from a fresh machine to the finished report.

  ./run_all.sh [options]

The first call makes its own environment in .venv (Python 3.11 to 3.13, packages of requirements.lock, about 7 GB on
Linux because torch brings CUDA; a few minutes). Then every notebook that is not yet done is run, in parts side by
side, and the places of the tables, figures and the report are printed. Stop it at any moment, by any means, and call
it again: finished work is kept. When nothing is left to do it says so within seconds.

What to run
  --profile NAME        smoke (default): embedded scans of digits, minutes on two cores; it proves the path
                        laptop: real images, hours on a CPU or minutes on a GPU
                        paper: the sizes of the thesis
                        or the path of a YAML file of your own, made like those in params/profiles/
  --only 02,07          these notebooks only, by number (default: all of them)
  --dataset NAME        another data set than the profile's: digits, cifar10, tiny_imagenet, ..., folder
  --data-dir DIR        where its images lie; for "folder": one sub-folder per class, or train/ val/ test/ of such
  --target NAME         data set to which the search moves the supernets (default: the profile's; with --dataset, that)
  --target-dir DIR      where its images lie (default: --data-dir)
  --seeds 0,1,2         random seeds, each a repetition
  --set KEY=VALUE ...   replace any value of params/, as it would be written there: --set lr_factor=2.0 device=cuda

How to run it
  --jobs N              jobs side by side (default: cores divided by the profile's threads; 1 for a single GPU)
  --executor NAME       where Snakemake sends the jobs: local (default), slurm, ... (needs its plugin installed)
  --out DIR             folder for the results (default outputs/<profile>)
  --notebooks DIR       folder of the notebooks (default notebooks)
  --dry-run             only list the jobs and what is left to do
  --setup               only make or repair the environment
  -- ARGUMENTS          given to Snakemake as they are, for instance -- --default-resources slurm_partition=gpu
  --help                this text

Environment variable
  NAT_PYTHON=/path/to/python   use this interpreter, which has the packages already (conda, Binder); no .venv is made

Examples
  ./run_all.sh
  ./run_all.sh --only 02,07 --seeds 0,1,2 --jobs 4
  ./run_all.sh --profile laptop --dataset folder --data-dir ~/pictures --set device=cuda --jobs 1
HELP
}

refuse() { echo "run_all.sh: $*" >&2; exit 2; }

# Mistyped options are refused before minutes are spent on the environment; what their values mean is checked later.
setup_only=
options=()
check_options() {
  local name value
  while (($#)); do
    name=${1%%=*}
    case $name in
      --help | -h) usage; exit 0 ;;
      --setup) setup_only=1; shift ;;
      --dry-run) options+=("$1"); shift ;;
      --) options+=("$@"); return ;;
      --set)
        [[ $1 == --set ]] || refuse "--set: write --set KEY=VALUE"
        options+=("$1"); shift
        [[ ${1-} == ?*=* && $1 != --* ]] || refuse "--set: '${1-}' is not KEY=VALUE"
        while [[ ${1-} == ?*=* && $1 != --* ]]; do options+=("$1"); shift; done ;;
      --profile | --only | --jobs | --dataset | --data-dir | --target | --target-dir | --seeds | --executor | --out | --notebooks)
        if [[ $1 == *=* ]]; then value=${1#*=}; shift
        elif (($# > 1)) && [[ $2 != --* ]]; then value=$2; shift 2
        else refuse "$name needs a value (--help lists the options)"; fi
        check_value "$name" "$value"
        options+=("$name" "$value") ;;
      *) refuse "unknown option '$1' (--help lists the options)" ;;
    esac
  done
}

check_value() {
  case $1 in
    --jobs) [[ $2 =~ ^[1-9][0-9]*$ ]] || refuse "--jobs: '$2' is not a whole number from 1" ;;
    --only) [[ $2 =~ ^[0-9]{1,2}(,[0-9]{1,2})*$ ]] || refuse "--only: '$2' is not a list of notebook numbers such as 02,07" ;;
    --seeds) [[ $2 =~ ^[0-9]+(,[0-9]+)*$ ]] || refuse "--seeds: '$2' is not a list of whole numbers such as 0,1,2" ;;
    --profile) [[ -f $2 || -f $ROOT/params/profiles/$2.yaml ]] ||
      refuse "--profile: '$2' is not one of smoke, laptop, paper and not the path of a YAML file" ;;
    *) [[ -n $2 ]] || refuse "$1 needs a value (--help lists the options)" ;;
  esac
}

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
make_environment() {
  local stamp=$VENV/nat-kit.stamp want python
  want=$({ cat "$ROOT/requirements.lock"; echo "$ROOT"; } | sha256sum)
  current() { [[ -f $stamp && $(<"$stamp") == "$want" ]] && "$VENV/bin/python" -c '' 2>/dev/null; }
  current && return
  exec 9>"$ROOT/.venv.lock"
  flock --nonblock 9 || { echo "Another call is making the environment: waiting for it."; flock 9; }
  if ! current; then
    python=$(find_python)
    echo "Making the environment in .venv with $("$python" --version), once: a few minutes."
    rm -rf "$VENV"
    { "$python" -m venv "$VENV" &&
      "$VENV/bin/python" -m pip install -qq --no-input --disable-pip-version-check -r "$ROOT/requirements.lock" &&
      echo "$ROOT" >"$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nat_lib.pth" &&
      "$VENV/bin/python" -c 'import torch, torchvision, nat_lib.run.drive' &&
      echo "$want" >"$stamp"
    } || refuse "the environment could not be made (reason above): check network and disk space (7 GB), then call again"
  fi
  exec 9>&-
}

check_options "$@"
if [[ -n ${NAT_PYTHON-} ]]; then
  python=$NAT_PYTHON
  "$python" -c 'import papermill, pydantic, yaml, importlib.util as u; exit(not (u.find_spec("torch") and u.find_spec("snakemake")))' 2>/dev/null ||
    refuse "NAT_PYTHON=$python does not run or lacks packages: $python -m pip install -r requirements.lock"
else
  make_environment
  python=$VENV/bin/python
fi
if [[ -n $setup_only ]]; then
  echo "Environment ready: $python"
  exit 0
fi
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m nat_lib.run.drive ${options[@]+"${options[@]}"}
