#!/usr/bin/env bash
# Pretraining on 8 nodes with 8 GPUs each, in the paper's setting: 250,000 updates of 1 M tokens with mixed precision.
#
#   DATA=data-run/data slurm/pretrain.sh                          checks, then calls sbatch
#   NODES=2 DATA=data-run/data slurm/pretrain.sh --update-freq 8  the same batch on a quarter of the GPUs
#   DATA=data-run/data sbatch --nodes=2 slurm/pretrain.sh         sbatch's own flags win over the lines below
#
# RECIPE     a YAML file, or the name of one in recipes/pretrain           (default: base_n512_k128)
# DATA       folder of binarised text, or several joined by colons         (default: data-run/data)
# SAVE_DIR   checkpoints and logs; a run that is there goes on             (default: runs/RECIPE)
# NODES, GPUS   nodes, and GPUs and tasks on each; only where this script calls sbatch, which reads no variables here
# FREE_GB    disk that must be free for checkpoints                        (default: 10, for a base model)
# RETRIES    deaths of a process in a row, without a new checkpoint between them, that are forgiven   (default: 3)
# SITE, PYTHON   see common.sh. Arguments are more flags of fairseq-train.
#
# Partition, account and time limit: sbatch's own SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT.
# Two minutes before the time limit, and when the job is pre-empted, the run is saved and queued again by itself.
#SBATCH --job-name=pretrain
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=4
#SBATCH --time=1-00:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=pretrain-%j.log
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
# shellcheck source=slurm/common.sh
source slurm/common.sh
exec "$PYTHON" -u -m linformer_fairseq.launch.job "$@"
