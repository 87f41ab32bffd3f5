"""Losses for `--criterion`; importing this registers them."""

from linformer_fairseq.criterions import contrastive, distillation, fused_masked_lm, labelled_rows  # noqa: F401
