"""What does not fit together is refused before a training makes a folder; fairseq would find it later, or never."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq.models import ARCH_MODEL_NAME_REGISTRY
from omegaconf import MISSING, DictConfig

from linformer_fairseq.errors import UsageError
from linformer_fairseq.models.architectures import MODEL, complete
from linformer_fairseq.models.config import encoder_config
from linformer_fairseq.optim.fused_adamw import betas
from linformer_fairseq.tasks import streaming_masked_lm
from linformer_fairseq.training.limits import defaults_of, plain

_MASKED = ("masked_lm", "streaming_masked_lm")


def refuse_unfitting(cfg: DictConfig) -> None:
    """Raise a UsageError that names the flag or the file."""
    task, model, optimizer, criterion = (plain(cfg.get(n)) for n in ("task", "model", "optimizer", "criterion"))
    task = defaults_of("task", task.get("_name")) | task  # fairseq-hydra-train passes on only what the file has
    masked = task.get("_name") in _MASKED
    if ARCH_MODEL_NAME_REGISTRY.get(str(model.get("_name"))) == MODEL:
        try:
            settings = Namespace(**model)
            complete(settings, task["tokens_per_sample"] if masked else 0)
            encoder_config(settings, vocab_size=8, pad_index=1)
        except ValueError as error:
            raise UsageError(str(error)) from error
    if task.get("_name") == "streaming_masked_lm":
        streaming_masked_lm.check(Namespace(**task))
    if "adam_betas" in optimizer:
        betas(optimizer["adam_betas"])
    if masked:
        _check_data(cfg, task)
    files = {"--teacher": criterion.get("teacher")}
    if cfg.checkpoint.restore_file != "checkpoint_last.pt":
        files["--restore-file"] = cfg.checkpoint.restore_file
    elif not (Path(cfg.checkpoint.save_dir) / "checkpoint_last.pt").exists():
        files["--finetune-from-model"] = cfg.checkpoint.finetune_from_model
    for flag, file in files.items():
        if file == MISSING:
            raise UsageError(f"--criterion {criterion.get('_name')} needs {flag}, a checkpoint")
        if file and "://" not in str(file):
            _check_checkpoint(flag, Path(str(file)))


def _check_checkpoint(flag: str, path: Path) -> None:
    """UsageError for what is certainly no checkpoint; the rest of it is checked when it is read."""
    if not path.is_file():
        if any(path.parent.glob(f"{path.stem}-*{path.suffix}")):  # a part for each rank
            return
        raise UsageError(f"{flag} {path}: no such file; give a checkpoint")
    with path.open("rb") as file:
        start = file.read(2)
    if path.suffix != ".safetensors" and start != b"PK" and start[:1] != b"\x80":  # a zip archive, or once a pickle
        raise UsageError(f"{flag} {path}: not a checkpoint; give a .pt file of fairseq")


def _check_data(cfg: DictConfig, task: Mapping[str, Any]) -> None:
    """UsageError if DATA lacks its dictionary or the texts to train on, or no batch holds a sample of it."""
    folder, split = Path(str(task["data"]).split(os.pathsep)[0]), str(cfg.dataset.train_subset)
    if not (folder / "dict.txt").is_file():
        raise UsageError(f"DATA {folder}: no dict.txt there; give a folder made by `linformer prepare binarize`")
    if not any(folder.glob(f"{split}*.*")):
        raise UsageError(f"--train-subset {split}: DATA {folder} has no such files; the usual one is train")
    length, tokens = task["tokens_per_sample"], cfg.dataset.max_tokens
    if tokens is not None and tokens < length:
        raise UsageError(f"--max-tokens {tokens}: must be at least --tokens-per-sample {length}, one sample")
