#!/usr/bin/env bash
# Fine-tuning on GLUE as a Slurm array: its tasks share the runs (task x setting x seed), and the last to finish writes
# the table of results.
#
#   CHECKPOINT=runs/base/checkpoint_best.pt GLUE=glue OUT=tuned sbatch slurm/finetune_glue.sh
#   CHECKPOINT=… GLUE=glue OUT=tuned sbatch --array=1-15 slurm/finetune_glue.sh --tasks RTE,MRPC,CoLA --seeds 5 --lr 1e-5 2e-5
#
# CHECKPOINT    a pretrained one                                                  (must be given)
# GLUE          GLUE's folders, one a task                                        (default: glue)
# OUT           folder of the runs that all nodes see                             (default: tuned)
# SITE, PYTHON  as for pretrain.sh. Arguments are more flags of `linformer glue`.
#
# A task that is killed or pre-empted is requeued and resumes; finished runs are not repeated.
#SBATCH --job-name=finetune_glue
#SBATCH --array=1-27
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=finetune_glue-%A_%a.log
set -euo pipefail

project=$(dirname "$0")/..
if [ -f "$project/setup.py" ]; then cd "$project"; fi  # in a clone, on the login node; a job starts there
# shellcheck source=/dev/null
if [ -f "${SITE:=slurm/site.sh}" ]; then set +u; source "$SITE"; set -u; fi
if [ -x .venv/bin/python ]; then PYTHON=${PYTHON:-.venv/bin/python}; fi
exec "${PYTHON:-python}" -u -m linformer_fairseq glue --checkpoint "${CHECKPOINT:?names a pretrained checkpoint}" \
    --glue-dir "${GLUE:-glue}" --out "${OUT:-tuned}" "$@"
