"""Whole updates of fairseq-train, ours beside those of fairseq's own Linformer; `update_speed.py` runs it."""
