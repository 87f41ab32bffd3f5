#!/usr/bin/env bash
# Data preparation as a Slurm array: its tasks share the work of each stage.
#
#   CONFIG=wikipedia_books OUT=data-run sbatch --array=0-15 slurm/prepare_data.sh
#   CONFIG=folder OUT=data-run sbatch slurm/prepare_data.sh input=my_texts
#
# CONFIG   a YAML file, or the name of a configuration of data_prep          (default: folder)
# OUT      folder that all nodes see                                         (default: data-run)
# SITE, PYTHON   as for pretrain.sh
# Arguments are settings of the configuration, KEY=VALUE.
#
# Tasks may start late, be killed or requeued at any time: finished shards are skipped, and those of a dead task
# are taken over within minutes. One task alone would do all the work.
#SBATCH --job-name=prepare_data
#SBATCH --array=0-3
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=2G
#SBATCH --time=1-00:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=prepare_data-%A_%a.log
set -euo pipefail

project=$(dirname "$0")/..
if [ -f "$project/setup.py" ]; then cd "$project"; fi  # in a clone, on the login node; a job starts there
# shellcheck source=/dev/null
if [ -f "${SITE:=slurm/site.sh}" ]; then set +u; source "$SITE"; set -u; fi
if [ -x .venv/bin/python ]; then PYTHON=${PYTHON:-.venv/bin/python}; fi
exec "${PYTHON:-python}" -m data_prep run "${CONFIG:-folder}" "$@" --out "${OUT:-data-run}" \
    --workers "${SLURM_CPUS_PER_TASK:-1}"
