"""What is refused before a training makes a folder; fairseq would find it later, or never.

Numbers with which a training would do nothing, the opposite, or never end, and what does not fit together.
"""

import os
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from filecmp import cmp
from pathlib import Path
from typing import Any

from fairseq import models, registry, tasks
from fairseq.dataclass.configs import FairseqConfig
from fairseq.logging import progress_bar
from fairseq.tasks.fairseq_task import FairseqTask
from fairseq.utils import resolve_max_positions
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_prep.encoders import HUGGINGFACE, HUGGINGFACE_FAST, PALETTE, TOKENIZER_FILES
from data_prep.fairseq_dict import DICTIONARY
from data_prep.palette import read_palette
from linformer_fairseq.errors import UsageError
from linformer_fairseq.models.architectures import MODEL, complete
from linformer_fairseq.models.config import encoder_config
from linformer_fairseq.optim.fused_adamw import betas
from linformer_fairseq.ranges import PROCESSES, ROWS, TOKENS, Range
from linformer_fairseq.tasks import streaming_masked_lm
from linformer_fairseq.training.recipe import registries

# What text becomes which symbols; those of a dict.txt may be numbers, equal for all tokenizers of a size.
_TOKENIZER = {*TOKENIZER_FILES, f"{HUGGINGFACE}/{HUGGINGFACE_FAST}"} - {DICTIONARY}
_MASKED = ("masked_lm", "streaming_masked_lm")
_MOST = 2**32 - 1  # of a seed, the largest number that means anything
_SECTIONS = "common checkpoint dataset optimization task model criterion optimizer lr_scheduler".split()
# What a training cannot do without, and a usual choice.
_CHOICES = {
    "task": "--task masked_lm",
    "model": "--arch linformer_roberta_base",
    "criterion": "--criterion masked_lm",
    "optimizer": "--optimizer adam",
    "lr_scheduler": "--lr-scheduler fixed",
}
# Others may be 0, and less only if that is their default, which switches something off.
_RANGES = {
    **dict.fromkeys(("batch_size", "batch_size_valid"), Range(1, ROWS)),
    **dict.fromkeys(("max_tokens", "max_tokens_valid"), Range(1, TOKENS)),
    **dict.fromkeys(("update_freq", "required_batch_size_multiple", "required_seq_len_multiple"), Range(1, 2**20)),
    **dict.fromkeys(("save_interval", "validate_interval", "log_interval", "tokens_per_sample"), Range(1, 2**31)),
    "num_workers": Range(0, PROCESSES),
    **dict.fromkeys(("mask_prob", "valid_mask_prob"), Range(0, 1, inside=True)),
}


def refuse_missing_packages(cfg: DictConfig) -> None:
    """Raise a UsageError for `--tensorboard-logdir` or `--wandb-project` without its package; fairseq only warns."""
    needed = (
        ("tensorboard_logdir", "tensorboard (or tensorboardX)", progress_bar.SummaryWriter),
        ("wandb_project", "wandb", progress_bar.wandb),
    )
    for setting, package, found in needed:
        if cfg.common.get(setting) and found is None:
            raise UsageError(
                f"--{setting.replace('_', '-')} needs a package that is not installed: pip install {package}, or "
                "leave the flag out (metrics.jsonl beside the checkpoints has the same figures)"
            )


def refuse_unchosen(cfg: DictConfig) -> None:
    """Raise a UsageError for a task, model, … that is missing or unknown: fairseq-hydra-train passes on any name."""
    classes_of = registries()
    for section, flag in _CHOICES.items():
        given = cfg.get(section)
        name = given if isinstance(given, str) else getattr(given, "_name", None)
        if name not in classes_of[section]:
            wrong = "none is chosen" if name is None else f"{name} is unknown"
            yaml = f"{section}: {{_name: {flag.split()[1]}}}"
            raise UsageError(f"{section}: {wrong}; give one, such as {yaml} in the YAML file, or {flag}")


def refuse_useless(cfg: DictConfig) -> None:
    """Raise a UsageError that names the flag, before anything is loaded."""
    for section in _SECTIONS:
        settings = _plain(cfg.get(section))
        defaults = _defaults(section, settings.get("_name"))
        for name, default in defaults.items():
            given = settings.get(name)
            least = default if isinstance(default, int | float) and default < 0 else 0
            most = 1 if name.endswith(("dropout", "_prob")) else _MOST
            allowed = _RANGES.get(name, Range(least, most))
            for value in [given] if isinstance(given, int | float) else given or []:
                if isinstance(value, int | float) and (refusal := allowed.refusal(value)):
                    raise UsageError(f"--{name.replace('_', '-')} {value}: {refusal}")
    rows, length = cfg.dataset.get("batch_size"), _plain(cfg.get("task")).get("tokens_per_sample")
    if rows and isinstance(length, int) and rows * length > TOKENS:
        given = f"--batch-size {rows} of --tokens-per-sample {length}"
        raise UsageError(f"{given}: more than {TOKENS:,} tokens in a batch; use a smaller one, with --update-freq")


def refuse_unfitting(cfg: DictConfig) -> None:
    """Raise a UsageError that names the flag or the file."""
    task, model, optimizer, criterion = (_plain(cfg.get(n)) for n in ("task", "model", "optimizer", "criterion"))
    task = _defaults("task", task.get("_name")) | task  # fairseq-hydra-train passes on only what the file has
    masked = task.get("_name") in _MASKED
    grid = 0
    if models.ARCH_MODEL_NAME_REGISTRY.get(str(model.get("_name"))) == MODEL:
        try:
            settings = Namespace(**model)
            complete(settings, task["tokens_per_sample"] if masked else 0)
            grid = encoder_config(settings, vocab_size=8, pad_index=1).position_grid
        except ValueError as error:
            raise UsageError(str(error)) from error
    if task.get("_name") == "streaming_masked_lm":
        streaming_masked_lm.check(Namespace(**task))
    if criterion.get("_name") == "contrastive" and cfg.distributed_training.broadcast_buffers:
        waits = "waits for ever where processes have different numbers of chunks"
        raise UsageError(f"--broadcast-buffers with --criterion contrastive {waits}: leave it out")
    if "adam_betas" in optimizer:
        betas(optimizer["adam_betas"])
    if masked:
        _check_data(cfg, task)
        _check_images(task, grid)
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


def refuse_too_long(cfg: DictConfig, task: FairseqTask, model: Any) -> None:
    """UsageError for sentences to validate on that the model cannot take: fairseq ends at the first validation."""
    if cfg.task._name != "masked_lm":
        return
    if cfg.dataset.disable_validation or cfg.dataset.skip_invalid_size_inputs_valid_test:
        return
    most = resolve_max_positions(task.max_positions(), model.max_positions())
    for split, dataset in task.datasets.items():  # fairseq has loaded these only
        longest = max(int(sizes.max(initial=0)) for sizes in dataset.sizes)
        if longest > most:
            raise UsageError(
                f"DATA has a sentence of {longest} tokens to validate on ({split}), and the model takes {most}: use "
                "--task streaming_masked_lm, which cuts it, a larger --max-positions, or "
                "--skip-invalid-size-inputs-valid-test, which leaves it out"
            )


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
    """UsageError if DATA lacks its dictionary or the texts to train on, or no batch holds a sample of it.

    Of several folders, fairseq reads the dictionary of the first, and the texts of each when its epoch comes.
    """
    folders, split = [Path(one) for one in str(task["data"]).split(os.pathsep)], str(cfg.dataset.train_subset)
    first = folders[0] / "dict.txt"
    if not first.is_file():
        raise UsageError(f"DATA {folders[0]}: no dict.txt there; give a folder made by `linformer prepare binarize`")
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(
                f"DATA {folder}: no such folder; make it with `linformer prepare binarize`, or leave it out"
            )
        if not any(folder.glob(f"{split}*.*")):
            raise UsageError(f"--train-subset {split}: DATA {folder} has no such files; the usual one is train")
        own = folder / first.name
        if own.is_file() and _symbols(own) != _symbols(first):
            raise UsageError(
                f"DATA {folder}: its dict.txt has other symbols than that of {folders[0]}, whose numbers would mean "
                "other words: make all folders with the same tokenizer"
            )
        for one, other in ((folder / name, folders[0] / name) for name in sorted(_TOKENIZER)):
            if one.is_file() and other.is_file() and not cmp(one, other, shallow=False):
                raise UsageError(
                    f"DATA {folder}: its {one.name} is not that of {folders[0]}, so its numbers mean other texts: "
                    "make all folders with the same tokenizer"
                )
    length, tokens = task["tokens_per_sample"], cfg.dataset.max_tokens
    if tokens is not None and tokens < length:
        raise UsageError(f"--max-tokens {tokens}: must be at least --tokens-per-sample {length}, one sample")


def _symbols(path: Path) -> list[bytes]:
    """The symbols of a dict.txt in order, without their counts."""
    return [line.rsplit(b" ", 1)[0] for line in path.read_bytes().splitlines()]


def _check_images(task: Mapping[str, Any], grid: int) -> None:
    """UsageError if samples are not whole images of DATA, or `grid` is not that of their pixels."""
    path = Path(str(task["data"]).split(os.pathsep)[0]) / PALETTE
    if not path.is_file():
        if grid:
            raise UsageError(f"--position-grid {grid}: DATA has no {path.name}, so it holds no images; leave it out")
        return
    side, order, _ = read_palette(path)
    if grid and (grid, "raster") != (side, order):
        raise UsageError(
            f"--position-grid {grid}: DATA {path.parent} has images of {side} x {side} pixels, {order} order"
        )
    length = side**2 + 3  # with <s>, and the ends of the text and of the document
    if (task["tokens_per_sample"], str(task["sample_break_mode"])) != (length, "none"):
        given = f"--tokens-per-sample {task['tokens_per_sample']} --sample-break-mode {task['sample_break_mode']}"
        raise UsageError(f"{given}: whole images of DATA {path.parent} need {length} and none")


def _defaults(section: str, name: str | None) -> dict[str, Any]:
    """The default of each setting of a section, which is one of fairseq's own or chosen by `name`."""
    chosen: Any = FairseqConfig.__dataclass_fields__[section].type
    if name is not None:
        known = {"task": tasks.TASK_DATACLASS_REGISTRY, "model": models.MODEL_DATACLASS_REGISTRY}
        known |= {choice: of["dataclass_registry"] for choice, of in registry.REGISTRIES.items()}
        chosen = known.get(section, {}).get(models.ARCH_MODEL_NAME_REGISTRY.get(name, name))
    return {one.name: one.default for one in fields(chosen)} if is_dataclass(chosen) else {}


def _plain(node: Any) -> dict[str, Any]:
    """The settings of a section, what they refer to filled in; UsageError if one refers to nothing."""
    if isinstance(node, Namespace):
        return dict(vars(node))
    try:
        found: Any = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else {}
    except OmegaConfBaseException as error:
        raise UsageError(f"settings that refer to nothing: {str(error).splitlines()[0]}") from error
    return {str(name): value for name, value in dict(found or {}).items()}
