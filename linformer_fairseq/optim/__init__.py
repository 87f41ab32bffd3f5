"""Optimizers for `--optimizer`; importing this registers them."""

from linformer_fairseq.optim import fused_adamw as fused_adamw
from linformer_fairseq.optim import muon as muon
