#!/usr/bin/env bash
# The whole job: preprocess, then train, then evaluate, each when the one before has succeeded.
#   cluster/submit.sh [OPTIONS of sbatch, for training and evaluation] [-- FLAGS of python -m trainer.run]
#   cluster/submit.sh --nodes=4 --ntasks-per-node=4 --gpus-per-node=4 -- --recipe paper
#   SEEDS=1-5 cluster/submit.sh ...   a network a seed, side by side, and all of them averaged in the end
# From the environment: IMAGENET, STORE, RUN, SEEDS, LAUNCHER, MAX_REQUEUES; see cluster/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."

options=()
while (($#)) && [[ $1 != -- ]]; do
    options+=("$1")
    shift
done
if (($#)); then shift; fi

export RUN=${RUN:-runs/$(date +%Y%m%d-%H%M%S)}
array=()
if [[ -n ${SEEDS:-} ]]; then array=(--array="$SEEDS"); fi
mkdir -p logs # SLURM drops a job without a word when the folder of its log is missing

jobs=()
submit() {
    local job
    # ALL hands the settings on, at sites where that is not the default. A job whose predecessor failed is
    # cancelled; else it would stay in the queue for ever.
    job=$(sbatch --parsable --export=ALL --kill-on-invalid-dep=yes --output=logs/%x-%j.log "$@") || {
        if ((${#jobs[@]})); then scancel "${jobs[@]}"; fi
        echo "error: SLURM does not take this job, see above: sbatch $*; nothing is left in the queue" >&2
        exit 1
    }
    jobs+=("${job%%;*}") # a federation answers JOB;CLUSTER
}
submit cluster/preprocess.sbatch
submit --dependency="afterok:${jobs[0]}" "${options[@]}" "${array[@]}" cluster/train.sbatch "$@"
submit --dependency="afterok:${jobs[1]}" "${options[@]}" cluster/evaluate.sbatch

echo "preprocess: job ${jobs[0]}"
echo "train:      job ${jobs[1]} -> $RUN${SEEDS:+/seed-[$SEEDS]}"
echo "evaluate:   job ${jobs[2]} -> $RUN/ten-crop.json"
echo "logs in logs/; the queue: squeue --me"
