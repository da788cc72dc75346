#!/usr/bin/env bash
# The whole job: preprocess, then train, then evaluate, each when the one before has succeeded.
#   cluster/submit.sh [OPTIONS of sbatch, for training and evaluation] [-- FLAGS of python -m trainer.run]
#   cluster/submit.sh --nodes=4 --ntasks-per-node=4 --gpus-per-node=4 -- --recipe paper
# From the environment: IMAGENET, STORE, RUN, LAUNCHER, MAX_REQUEUES; see cluster/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."

options=()
while (($#)) && [[ $1 != -- ]]; do
    options+=("$1")
    shift
done
if (($#)); then shift; fi

export RUN=${RUN:-runs/$(date +%Y%m%d-%H%M%S)}
mkdir -p logs # SLURM drops a job without a word when the folder of its log is missing

submit() {
    local job
    # ALL hands the settings on, at sites where that is not the default. A job whose predecessor failed is
    # cancelled; else it would stay in the queue for ever.
    job=$(sbatch --parsable --export=ALL --kill-on-invalid-dep=yes --output=logs/%x-%j.log "$@")
    echo "${job%%;*}" # a federation answers JOB;CLUSTER
}
preprocess=$(submit cluster/preprocess.sbatch)
train=$(submit --dependency="afterok:$preprocess" "${options[@]}" cluster/train.sbatch "$@")
evaluate=$(submit --dependency="afterok:$train" "${options[@]}" cluster/evaluate.sbatch)

echo "preprocess: job $preprocess"
echo "train:      job $train -> $RUN"
echo "evaluate:   job $evaluate -> $RUN/ten-crop.json"
echo "logs in logs/; the queue: squeue --me"
