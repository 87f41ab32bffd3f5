#!/usr/bin/env bash
# Data preparation as a Slurm array: every task takes shards that no other task has, stage after stage.
#
#   CONFIG=wikipedia_books OUT=data-run sbatch --array=0-15 slurm/prepare_data.sh
#   CONFIG=folder OUT=data-run sbatch slurm/prepare_data.sh input=my_texts
#
# CONFIG   a YAML file, or the name of a configuration of data_prep          (default: folder)
# OUT      folder that all nodes see                                         (default: data-run)
# SITE, PYTHON   see common.sh
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

cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
# shellcheck source=slurm/common.sh
source slurm/common.sh
exec "$PYTHON" -m data_prep run "${CONFIG:-folder}" "$@" --out "${OUT:-data-run}" \
    --workers "${SLURM_CPUS_PER_TASK:-1}"
