#!/usr/bin/env bash
# The whole job, shown: the user's own commands on a small synthetic ImageNet.
set -euo pipefail
cd "$(dirname "$0")/.."

show() {
    printf '\n\033[1m$ %s\033[0m\n' "$*"
    "$@"
}

SECONDS=0
show python -m preprocess.miniature data/imagenet
show snakemake preprocess
show mpirun -n 2 python -m trainer.run
show python -m trainer.evaluate
show python -m trainer.evaluate --ten-crop
printf '\nAll of it took %d minutes and %d seconds.\n' $((SECONDS / 60)) $((SECONDS % 60))
