"""Checkpoints that travel: read and written safely, turned from form to form. Read `checkpoint.py` first."""
