"""Training, fine-tuning and data preparation as Slurm jobs.

job.py and rank.py are behind slurm/pretrain.sh; submission.py and task.py, through submitit, behind `linformer launch`.
"""
