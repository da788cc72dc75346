#!/usr/bin/env bash
# Make .venv with torch, an MPI if the machine has none, Pillow-SIMD built for this processor, and the project.
# `make setup` calls it, on a laptop, a workstation or a cluster's login node. If .venv is up to date, it takes
# a second.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

PYTHON=${PYTHON:-python3}
VENV=.venv
sources=(pyproject.toml cluster/setup.sh)
while IFS= read -r file; do sources+=("$file"); done < <(find preprocess trainer -name '*.[ch]' | sort)
want=$(cat "${sources[@]}" | sha256sum | cut -d' ' -f1)
if [[ -f $VENV/ready && $(cat $VENV/ready) == "$want" ]]; then
    echo "the environment in $VENV is ready"
    exit 0
fi

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "Python 3.11 or newer is needed; $PYTHON is $("$PYTHON" -V 2>&1). To use another one: make setup PYTHON=python3.12"

# ---- system packages: a C compiler, Python's headers, and those of libjpeg and zlib for Pillow-SIMD and
# preprocess/pictures/_square.c
missing=()
command -v cc >/dev/null || missing+=(gcc)
[[ -f $("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h ]] || missing+=(python3-dev)
"$PYTHON" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
has_header() { echo "#include <$1>" | cc -E -include stdio.h - >/dev/null 2>&1; }
has_header jpeglib.h || missing+=(libjpeg-dev)
has_header zlib.h || missing+=(zlib1g-dev)
if ((${#missing[@]})); then cluster/packages.sh "${missing[@]}"; fi

say "Python environment in $VENV"
"$PYTHON" -m venv $VENV
pip=("$VENV/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install --upgrade pip setuptools wheel

say "torch"
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
    "${pip[@]}" install torch
else
    # Without a GPU, exactly this version: an open range could fetch gigabytes of CUDA libraries.
    "${pip[@]}" install torch==2.13.0
fi

say "MPI"
site=$(command -v mpirun || true)
# An mpirun in a virtual environment is that of a wheel, not the site's.
if [[ -n $site && ! -f ${site%/bin/*}/pyvenv.cfg ]] && command -v mpicc >/dev/null; then
    echo "the site's own: $site, $(mpirun --version 2>&1 | head -n 1)"
    # mpi4py is built for the same library as mpirun.
    "${pip[@]}" install --no-binary mpi4py "mpi4py>=4.1"
else
    echo "no mpirun and mpicc on the PATH: installing the mpich wheel"
    "${pip[@]}" install mpich
fi

say "Pillow-SIMD for this processor"
compiler=cc
if grep -qsw avx2 /proc/cpuinfo; then compiler="cc -mavx2"; fi
CC=$compiler "${pip[@]}" install --no-binary pillow-simd "pillow-simd>=12.1"

say "the project and its tools"
PYTHONWARNINGS=ignore "${pip[@]}" install -e ".[dev]" # hides setuptools' warnings about itself
# An extension that does not compile has a slower replacement in Python. In CI a missing extension is an error.
$VENV/bin/python - <<'PY' || [[ -z ${CI:-} ]] || die "CI needs all extensions"
import importlib.machinery
import pathlib
import sys
import tomllib

project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())
missing = []
for extension in project["tool"]["setuptools"]["ext-modules"]:
    path = extension["name"].replace(".", "/")
    if not any(pathlib.Path(path + suffix).exists() for suffix in importlib.machinery.EXTENSION_SUFFIXES):
        missing.append(extension["sources"][0])
if missing:
    print(f"warning: not compiled: {', '.join(missing)}; python -m trainer.doctor explains the consequences")
sys.exit(bool(missing))
PY
# matplotlib requires "pillow" by name; Pillow-SIMD replaces it. pyproject.toml lists its other requirements.
"${pip[@]}" install --no-deps "matplotlib>=3.10"

# Any package that requires "pillow" installs it over Pillow-SIMD without a message, at half of the speed.
$VENV/bin/python - <<'PY' || die "PIL is not Pillow-SIMD: a package installed Pillow over it. Remove $VENV and run this again; if it stays, find the package with: $VENV/bin/python -m pip show pillow"
import importlib.metadata as m
import sys

import PIL

found = {d.metadata["Name"].lower() for d in m.distributions()}
sys.exit("pillow" in found or PIL.__version__ != m.version("pillow-simd"))
PY

# Open MPI refuses to run as root and to start more ranks than cores, and binds each rank to one core.
if "${site:-$VENV/bin/mpirun}" --version 2>&1 | grep -qi 'open mpi'; then
    cat >>$VENV/bin/activate <<'SH'
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe PRTE_MCA_hwloc_default_binding_policy=none
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
SH
fi

echo "$want" >$VENV/ready
say "ready; activate it with: source $VENV/bin/activate"
