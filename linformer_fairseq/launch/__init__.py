"""job.py and rank.py are behind slurm/pretrain.sh; submission.py, through submitit, is behind `linformer launch`."""
