"""Checkpoints are read and written safely, and converted from form to form. Read `checkpoint.py` first."""
