#!/usr/bin/env bash
# Fine-tuning on GLUE as a Slurm array: its tasks share the runs, task x setting x seed, and the one that ends last makes
# the table of results.
#
#   CHECKPOINT=runs/base/checkpoint_best.pt GLUE=glue OUT=tuned sbatch slurm/finetune_glue.sh
#   CHECKPOINT=… GLUE=glue OUT=tuned sbatch --array=1-15 slurm/finetune_glue.sh --tasks RTE,MRPC,CoLA --seeds 5 --lr 1e-5 2e-5
#
# CHECKPOINT    a pretrained one                                                  (must be given)
# GLUE          GLUE's folders, one a task                                        (default: glue)
# OUT           folder of the runs that all nodes see                             (default: tuned)
# SITE, PYTHON  see common.sh. Arguments are more flags of recipes/finetune_glue.py.
#
# A task that is killed or pre-empted is queued again and goes on; runs that are finished are not done again.
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
part=$((${SLURM_ARRAY_TASK_ID:-1} - ${SLURM_ARRAY_TASK_MIN:-1} + 1))
exec "$PYTHON" -u -m linformer_fairseq glue --checkpoint "${CHECKPOINT:?names a pretrained checkpoint}" \
    --glue-dir "${GLUE:-glue}" --out "${OUT:-tuned}" --part "$part/${SLURM_ARRAY_TASK_COUNT:-1}" "$@"
