#!/usr/bin/env bash
# Pretraining on 8 nodes with 8 GPUs each, in the paper's setting: 250,000 updates of 1 M tokens in mixed precision.
#
#   DATA=data-run/data slurm/pretrain.sh                          checks, then calls sbatch
#   NODES=2 DATA=data-run/data slurm/pretrain.sh --update-freq 8  the same batch on a quarter of the GPUs
#   DATA=data-run/data sbatch --nodes=2 slurm/pretrain.sh         sbatch's own flags win over the lines below
#   $(linformer launch script pretrain)                           the same script where there is no clone
#
# RECIPE     a YAML file, or the name of one in recipes/pretrain           (default: base_n512_k128)
# DATA       folder of binarised text, or several joined by colons         (default: data-run/data)
# SAVE_DIR   checkpoints and logs; a run that is there resumes             (default: runs/RECIPE)
# NODES, GPUS   nodes, and GPUs and tasks on each; only where this script calls sbatch, which reads neither
# DEVICE     GPU for `linformer plan`, such as v100-16gb: a run that needs more memory is not submitted (default: none)
# FREE_GB    disk space in GB that must be free for checkpoints            (default: 10, for a base model)
# RETRIES    how many killed processes in a row, without a new checkpoint in between, lead to a requeue (default: 3)
# SITE       a script to source first: modules, proxies, SBATCH_PARTITION  (default: slurm/site.sh, if it exists)
# CONTAINER  words before `python` in each process, such as "apptainer exec --nv image.sif", or more flags of srun
# PYTHON     of the environment with this project                          (default: .venv/bin/python, or python)
# Arguments are more flags of fairseq-train.
#
# Partition, account and time limit: sbatch's own SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT.
# Two minutes before the time limit, and when the job is preempted, the run is saved and the job requeued.
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

script=$(realpath "$0")
project=$(dirname "$0")/..
if [ -f "$project/setup.py" ]; then cd "$project"; fi  # in a clone, on the login node; a job starts there
# shellcheck source=/dev/null
if [ -f "${SITE:=slurm/site.sh}" ]; then set +u; source "$SITE"; set -u; fi
if [ -x .venv/bin/python ]; then PYTHON=${PYTHON:-.venv/bin/python}; fi
exec "${PYTHON:-python}" -u -m linformer_fairseq.launch.job "$script" "$@"
