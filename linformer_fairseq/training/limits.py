"""Numbers with which a training would do nothing, the opposite, or never end; fairseq accepts them without a word."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from linformer_fairseq.errors import UsageError
from linformer_fairseq.ranges import PROCESSES, ROWS, TOKENS, Range

_MOST = 2**32 - 1  # of a seed, the largest number that means anything
_SECTIONS = "common checkpoint dataset optimization task model criterion optimizer lr_scheduler".split()
# Others may be 0, and less only if that is their default, which switches something off.
_RANGES = {
    **dict.fromkeys(("batch_size", "batch_size_valid"), Range(1, ROWS)),
    **dict.fromkeys(("max_tokens", "max_tokens_valid"), Range(1, TOKENS)),
    **dict.fromkeys(("update_freq", "required_batch_size_multiple", "required_seq_len_multiple"), Range(1, 2**20)),
    **dict.fromkeys(("save_interval", "validate_interval", "log_interval", "tokens_per_sample"), Range(1, 2**31)),
    "num_workers": Range(0, PROCESSES),
    **dict.fromkeys(("mask_prob", "valid_mask_prob"), Range(0, 1, inside=True)),
}


def refuse_useless(cfg: DictConfig) -> None:
    """Raise a UsageError that names the flag, before anything is loaded."""
    for section in _SECTIONS:
        settings = plain(cfg.get(section))
        defaults = defaults_of(section, settings.get("_name"))
        for name, default in defaults.items():
            given = settings.get(name)
            least = default if isinstance(default, int | float) and default < 0 else 0
            most = 1 if name.endswith(("dropout", "_prob")) else _MOST
            allowed = _RANGES.get(name, Range(least, most))
            for value in [given] if isinstance(given, int | float) else given or []:
                if isinstance(value, int | float) and (refusal := allowed.refusal(value)):
                    raise UsageError(f"--{name.replace('_', '-')} {value}: {refusal}")
    rows, length = cfg.dataset.get("batch_size"), plain(cfg.get("task")).get("tokens_per_sample")
    if rows and isinstance(length, int) and rows * length > TOKENS:
        given = f"--batch-size {rows} of --tokens-per-sample {length}"
        raise UsageError(f"{given}: more than {TOKENS:,} tokens in a batch; use a smaller one, with --update-freq")


def defaults_of(section: str, name: str | None) -> dict[str, Any]:
    """The default of each setting of a section, which is one of fairseq's own or chosen by `name`."""
    known: Mapping[str, Any] = {"task": TASK_DATACLASS_REGISTRY, "model": MODEL_DATACLASS_REGISTRY}.get(section) or {}
    if section in REGISTRIES:
        known = REGISTRIES[section]["dataclass_registry"]
    own = FairseqConfig.__dataclass_fields__[section].type
    chosen: Any = known.get(ARCH_MODEL_NAME_REGISTRY.get(name, name)) if name is not None else own
    return {one.name: one.default for one in fields(chosen)} if is_dataclass(chosen) else {}


def plain(node: Any) -> dict[str, Any]:
    """The settings of a section, what they refer to filled in; UsageError if one refers to nothing."""
    if isinstance(node, Namespace):
        return dict(vars(node))
    try:
        found: Any = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else {}
    except OmegaConfBaseException as error:
        raise UsageError(f"settings that refer to nothing: {str(error).splitlines()[0]}") from error
    return {str(name): value for name, value in dict(found or {}).items()}
