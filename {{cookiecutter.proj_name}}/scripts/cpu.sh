#!/usr/bin/env bash
# Train on the CPU:
#   scripts/cpu.sh [configs/default.yaml] [--optim.lr 3e-4 ...]
# With NPROC=2 in front, by two processes.
set -euo pipefail
cd "$(dirname "$0")/.."

config=configs/default.yaml
if [[ ${1:-} == *.yaml || ${1:-} == *.py ]]; then
    config=$1
    shift
fi
exec python train.py --config "$config" --gpu_ids -1 --dist.nproc "${NPROC:-1}" "$@"
