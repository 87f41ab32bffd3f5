"""Losses for `--criterion`; importing this registers them."""

from linformer_fairseq.criterions import contrastive as contrastive
from linformer_fairseq.criterions import distillation as distillation
from linformer_fairseq.criterions import fused_masked_lm as fused_masked_lm
from linformer_fairseq.criterions import labelled_rows as labelled_rows
