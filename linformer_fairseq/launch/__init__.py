"""Training, fine-tuning and data preparation as Slurm jobs.

job.py             the life of a job of slurm/pretrain.sh: checked, queued, started, watched, requeued; read it first
rank.py            one training process that srun starts
training_run.py    what a job trains, from the environment, and whether it could start here
submission.py      jobs through submitit, for `linformer launch`
task.py            what submitit runs in each of them
"""
