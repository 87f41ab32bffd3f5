"""Fine-tuning, from labelled tables to a table of results. Read `train.py` first."""

LEARNING_RATE, BATCH_SIZE, EPOCHS = 1e-4, 32, 3
"""Defaults; they stand here so that `--help` need not import PyTorch."""
