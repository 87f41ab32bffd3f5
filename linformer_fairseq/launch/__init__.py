"""Pretraining, fine-tuning and data preparation as Slurm jobs. Read job.py first."""
