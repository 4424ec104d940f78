#!/usr/bin/env bash
# Train on all GPUs of this machine, one process each:
#   scripts/gpu.sh [configs/default.yaml] [--optim.lr 3e-4 ...]
# With NPROC=2 in front, on the first two. On several machines, run the same on each, with
#   NNODES=2 NODE_RANK=0 (then 1) MASTER_ADDR=<the first machine> in front.
# A run that dies is started again up to MAX_RESTARTS times, and goes on; SIGTERM, SIGINT, SIGUSR1 and SIGHUP save and end it.
set -euo pipefail
cd "$(dirname "$0")/.."

config=configs/default.yaml
if [[ ${1:-} == *.yaml || ${1:-} == *.py ]]; then
    config=$1
    shift
fi
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # or the addresses of before a restart would still be found
meet=(--standalone)
if ((${NNODES:-1} > 1)); then
    meet=(--nnodes "$NNODES" --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:-29500}")
fi
signals=SIGTERM,SIGINT,SIGQUIT,SIGUSR1
[[ -n $(trap -p HUP) ]] || signals+=,SIGHUP  # which is ignored under nohup
exec torchrun "${meet[@]}" --nproc_per_node "${NPROC:-gpu}" --max_restarts "${MAX_RESTARTS:-0}" \
    --signals_to_handle "$signals" train.py --config "$config" "$@"
