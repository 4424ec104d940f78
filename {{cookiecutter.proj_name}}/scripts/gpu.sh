#!/usr/bin/env bash
# Train on all GPUs of this machine, one process each:
#   scripts/gpu.sh [configs/default.yaml] [--optim.lr 3e-4 ...]
# With NPROC=2 in front, on the first two. On several machines, run the same on each, with
#   NNODES=2 NODE_RANK=0 (then 1) MASTER_ADDR=<the first machine> in front.
set -euo pipefail
cd "$(dirname "$0")/.."

config=configs/default.yaml
if [[ ${1:-} == *.yaml || ${1:-} == *.py ]]; then
    config=$1
    shift
fi
meet=(--standalone)
if ((${NNODES:-1} > 1)); then
    meet=(--nnodes "$NNODES" --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:-29500}")
fi
exec torchrun "${meet[@]}" --nproc_per_node "${NPROC:-gpu}" train.py --config "$config" "$@"
