#!/usr/bin/env bash
# Fine-tuning on GLUE as a Slurm array. Every task of the array starts the same command; they share the runs (GLUE task
# x setting x seed) through OUT.
#
#   CHECKPOINT=runs/base/checkpoint_best.pt GLUE=glue OUT=tuned sbatch slurm/finetune_glue.sh
#   CHECKPOINT=… GLUE=glue OUT=tuned sbatch --array=1-15 slurm/finetune_glue.sh --tasks RTE,MRPC,CoLA --seeds 5 --lr 1e-5 2e-5
#
# CHECKPOINT    a pretrained one                                                  (required)
# GLUE          folder with a folder for each GLUE task                           (default: glue)
# OUT           folder of the runs, visible from all nodes                        (default: tuned)
# SITE, PYTHON  see common.sh. Arguments are further flags of `linformer glue`.
#
# A task that is killed or pre-empted is queued again and resumes its run; finished runs are left alone.
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

cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
# shellcheck source=slurm/common.sh
source slurm/common.sh
exec "$PYTHON" -u -m linformer_fairseq glue --checkpoint "${CHECKPOINT:?names a pretrained checkpoint}" \
    --glue-dir "${GLUE:-glue}" --out "${OUT:-tuned}" "$@"
