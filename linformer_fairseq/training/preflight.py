"""What does not fit together is refused before a training makes a folder; fairseq would find it later, or never."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from fairseq.models import ARCH_MODEL_NAME_REGISTRY
from omegaconf import DictConfig, OmegaConf

from linformer_fairseq.errors import UsageError
from linformer_fairseq.models.architectures import MODEL, complete
from linformer_fairseq.models.config import encoder_config
from linformer_fairseq.optim.fused_adamw import betas
from linformer_fairseq.tasks import streaming_masked_lm

_MASKED = ("masked_lm", "streaming_masked_lm")


def refuse_unfitting(cfg: DictConfig) -> None:
    """Raise a UsageError that names the flag or the file."""
    task, model, optimizer, criterion = (_settings(cfg.get(n)) for n in ("task", "model", "optimizer", "criterion"))
    if ARCH_MODEL_NAME_REGISTRY.get(str(model.get("_name"))) == MODEL:
        length = task.get("tokens_per_sample", 0) if task.get("_name") in _MASKED else 0
        try:
            settings = Namespace(**model)
            complete(settings, length)
            encoder_config(settings, vocab_size=8, pad_index=1)
        except ValueError as error:
            raise UsageError(str(error)) from error
    if task.get("_name") == "streaming_masked_lm":
        streaming_masked_lm.check(Namespace(**task))
    if "adam_betas" in optimizer:
        betas(optimizer["adam_betas"])
    if task.get("_name") in _MASKED:
        folder = Path(str(task.get("data")).split(os.pathsep)[0])
        if not (folder / "dict.txt").is_file():
            raise UsageError(f"DATA {folder}: no dict.txt there; give a folder made by `linformer prepare binarize`")
    files = {"--teacher": criterion.get("teacher")}
    if cfg.checkpoint.restore_file != "checkpoint_last.pt":
        files["--restore-file"] = cfg.checkpoint.restore_file
    elif not (Path(cfg.checkpoint.save_dir) / "checkpoint_last.pt").exists():
        files["--finetune-from-model"] = cfg.checkpoint.finetune_from_model
    for flag, file in files.items():
        if file and "://" not in str(file) and not Path(str(file)).is_file():
            raise UsageError(f"{flag} {file}: no such file; give a checkpoint")


def _settings(node: Any) -> dict[str, Any]:
    """The settings of a section as they are; those that are missing or refer to nothing are left out."""
    if isinstance(node, Namespace):
        return dict(vars(node))
    return (
        {key: node[key] for key in node if not OmegaConf.is_missing(node, key)} if isinstance(node, DictConfig) else {}
    )
