#!/usr/bin/env bash
# Submit three jobs: preprocess, train, evaluate. Each starts when the one before it has succeeded.
#   cluster/submit.sh [OPTIONS of sbatch, for training and evaluation] [-- FLAGS of python -m trainer.run]
#   cluster/submit.sh --nodes=4 --ntasks-per-node=4 --gpus-per-node=4 -- --recipe paper
#   SEEDS=1-5 cluster/submit.sh ...   one network for each seed, as an array; their outputs are averaged
# Environment variables: IMAGENET, STORE, RUN, SEEDS, LAUNCHER, MAX_REQUEUES; see cluster/README.md.
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
mkdir -p logs # if the folder of its log is missing, SLURM drops a job without a message

jobs=()
submit() {
    local job
    # --export=ALL passes the environment variables on, also at sites where that is not the default.
    # --kill-on-invalid-dep cancels a job whose predecessor failed; else it would stay in the queue for ever.
    job=$(sbatch --parsable --export=ALL --kill-on-invalid-dep=yes --output=logs/%x-%j.log "$@") || {
        if ((${#jobs[@]})); then scancel "${jobs[@]}"; fi
        echo "error: SLURM does not take this job, see above: sbatch $*; no job is left in the queue" >&2
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
