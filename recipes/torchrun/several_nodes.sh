#!/bin/bash
# Several machines that see one folder, by torchrun: give the same command on each of them.
# Command: NODES=2 PROCESSES=8 MEETING=host0:29500 recipes/torchrun/several_nodes.sh score recipes/cifar10-resnet18.yaml source.path=FOLDER --out /shared/runs/c10
# NODES: how many machines; PROCESSES: on each, one for a GPU; MEETING: one of the machines and a free port on it.
set -euo pipefail
exec torchrun --nnodes "$NODES" --nproc-per-node "$PROCESSES" --rdzv-backend c10d --rdzv-endpoint "$MEETING" --rdzv-id datadiet -m hf_datadiet "$@"
