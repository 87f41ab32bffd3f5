"""Optimizers for `--optimizer`; importing this registers them."""

from linformer_fairseq.optim import fused_adamw as fused_adamw
from linformer_fairseq.optim import muon as muon
from linformer_fairseq.optim import warmup_stable_decay as warmup_stable_decay
