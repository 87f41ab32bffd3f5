"""What a pretraining run needs before it has begun: memory, time, energy, disk. Read `plan.py` first."""
