#!/usr/bin/env bash
# Train on a Slurm cluster, from the project's folder:
#   sbatch scripts/slurm.sh [configs/default.yaml] [--optim.lr 3e-4 ...]
# Before the time is up, and when a job of more weight takes its place, the run is saved, queued again, and goes on, unless
# it came no further in three turns.
# Edit the lines below for your cluster. In a job array give each task its own --name, with $SLURM_ARRAY_TASK_ID.
#SBATCH --job-name=train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
##SBATCH --gpus-per-task=1
##SBATCH --cpus-per-task=8
##SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out
set -uo pipefail
[[ -f train.py ]] || { echo "slurm.sh: $PWD has no train.py; sbatch it from the project's folder" >&2; exit 2; }
# source .venv/bin/activate

config=configs/default.yaml
if [[ ${1:-} == *.yaml || ${1:-} == *.py ]]; then
    config=$1
    shift
fi
log=slurm-$SLURM_JOB_ID
for _ in 1 2; do
    # The processes meet on this node, the first, at a port that is free on it, or was a moment ago.
    MASTER_PORT=$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])') || exit 1
    export MASTER_PORT
    # One process a task, with a log of its own. 75 means: cut and saved; 138: by USR1, before there was anything to save.
    srun --kill-on-bad-exit=1 --open-mode=append --output="$log-rank%t.out" \
        python train.py --config "$config" --resume auto "$@"
    code=$?
    tail -n 5 "$log-rank0.out" | grep -q "port $MASTER_PORT is taken" || break
done
((code == 75 || code == 138)) || exit "$code"
# Where each turn has come to, one a line, after an empty one for the start.
[[ -f $log.turns ]] || echo > "$log.turns"
place=$(grep -o 'saved after [^;]*' "$log-rank0.out" | tail -n 1)
echo "$place" >> "$log.turns"
if [[ $(tail -n 4 "$log.turns" | uniq -c | awk 'END {print $1}') == 4 ]]; then
    echo "slurm.sh: three turns came no further, so the job is not queued again" >&2
else
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
