"""Optimizers for `--optimizer`; importing this registers them."""

from linformer_fairseq.optim import fused_adamw

__all__ = ["fused_adamw"]
