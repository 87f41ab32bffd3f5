"""Optimizers for `--optimizer`; importing this registers them."""

from linformer_fairseq.optim import fused_adamw, muon, warmup_stable_decay  # noqa: F401
