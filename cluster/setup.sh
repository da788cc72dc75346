#!/usr/bin/env bash
# Make .venv with torch, an MPI if the machine has none, Pillow-SIMD built for this processor, and the project.
# `make setup` calls it, on a laptop, a workstation or a cluster's login node. If .venv is up to date, it takes
# a second.
#
# All packages get the versions in cluster/constraints.txt, which CI ran with. `make lock` renews that file.
#   PYTHON=python3.12   the Python to use
#   TORCH=...           the torch to use: a version, a requirement, a wheel, or the URL of an index that has the
#                       locked version
#   LOCK=no             the newest versions of all packages but torch
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

PYTHON=${PYTHON:-python3}
VENV=.venv
LOCKED=cluster/constraints.txt
sources=(pyproject.toml setup.py cluster/setup.sh "$LOCKED")
while IFS= read -r file; do sources+=("$file"); done < <(find preprocess trainer -name '*.[ch]' | sort)
want=$(cat "${sources[@]}" | "$PYTHON" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
# Without TORCH in the environment, the one that the environment was made with.
chosen=$(cat $VENV/torch 2>/dev/null || true)
TORCH=${TORCH:-$chosen}
if [[ $TORCH != "$chosen" ]]; then rm -rf $VENV; fi
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
constraints=$VENV/constraints.txt
here="$(uname -sm), Python $("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
if [[ ${LOCK:-} == no ]]; then
    echo "LOCK=no: the newest versions"
    : >$constraints
elif [[ $here =~ ^"Linux x86_64, Python 3."1[123]$ ]]; then
    grep -Ev '^(torch|triton)==' $LOCKED >$constraints # these two are chosen below
else
    echo "$LOCKED is for Linux x86_64 and Python 3.11 to 3.13, this is $here: the newest versions"
    : >$constraints
fi
pip=("$VENV/bin/python" -m pip --quiet --disable-pip-version-check install --constraint "$constraints")
"${pip[@]}" --upgrade pip setuptools wheel
pip+=(--build-constraint "$constraints") # older versions of pip do not have this option

say "torch"
echo "$TORCH" >$VENV/torch
# Exactly one version: a wheel of it that pip finds on this machine is then enough.
locked=torch==$(sed -n 's/^torch==//p' $LOCKED)
if [[ -z $TORCH ]]; then
    TORCH=$locked
    if [[ $(uname -s) == Linux ]] && ! nvidia-smi -L >/dev/null 2>&1; then
        echo "no GPU here, and PyPI's torch for Linux has gigabytes of CUDA libraries. Without them:"
        echo "make setup TORCH=https://download.pytorch.org/whl/cpu"
    fi
fi
case $TORCH in
    http*.whl) torch=("$TORCH") ;;
    http* | file:*) torch=(--index-url "$TORCH" "$locked") ;;
    [0-9]*) torch=("torch==$TORCH") ;;
    *) torch=("$TORCH") ;;
esac
"${pip[@]}" --no-deps "${torch[@]}" # its requirements come with the project's
# No later package can replace it: pip fails instead.
"$VENV/bin/python" -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' >>$constraints

say "MPI"
site=$(command -v mpirun || true)
# An mpirun in a virtual environment is that of a wheel, not the site's.
if [[ -n $site && ! -f ${site%/bin/*}/pyvenv.cfg ]] && command -v mpicc >/dev/null; then
    echo "the site's own: $site, $(mpirun --version 2>&1 | head -n 1)"
    # mpi4py is built for the same library as mpirun.
    "${pip[@]}" --no-binary mpi4py "mpi4py>=4.1"
else
    echo "no mpirun and mpicc on the PATH: installing the mpich wheel"
    "${pip[@]}" mpich
fi

simd=$([[ $(uname -m) == x86_64 ]] && echo yes || echo no) # on other processors setup.py requires Pillow
if [[ $simd == yes ]]; then
    say "Pillow-SIMD for this processor"
    compiler=cc
    if grep -qsw avx2 /proc/cpuinfo; then compiler="cc -mavx2"; fi
    CC=$compiler "${pip[@]}" --no-binary pillow-simd "pillow-simd>=12.1"
fi

say "the project and its tools"
PYTHONWARNINGS=ignore "${pip[@]}" -e ".[dev]" # hides setuptools' warnings about itself
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
if [[ $simd == yes ]]; then
    # These require "pillow" by name; Pillow-SIMD replaces it. pyproject.toml lists matplotlib's other requirements.
    "${pip[@]}" --no-deps "matplotlib>=3.10" "pillow-heif>=1"

    # Any package that requires "pillow" installs it over Pillow-SIMD without a message, at half of the speed.
    $VENV/bin/python - <<'PY' || die "PIL is not Pillow-SIMD: a package installed Pillow over it. Remove $VENV and run this again; if it stays, find the package with: $VENV/bin/python -m pip show pillow"
import importlib.metadata as m
import sys

import PIL

found = {d.metadata["Name"].lower() for d in m.distributions()}
sys.exit("pillow" in found or PIL.__version__ != m.version("pillow-simd"))
PY
fi

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
