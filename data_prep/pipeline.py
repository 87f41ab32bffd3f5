"""A whole preparation in one YAML file.

A configuration is the path of a YAML file, or the name of one in `configs/`. `KEY=VALUE` on the command line replaces
a value: `tokenizer.vocab_size=50048`. A stage set to `null` is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError, safe_load

from data_prep.config import (
    CONFIGS,
    BinarizeConfig,
    DecontaminateConfig,
    ReadingConfig,
    SourceConfig,
    SplitConfig,
    TokenizerConfig,
    bundled,
)
from data_prep.text.minhash import NearDuplicates
from data_prep.text.rules import CleanConfig
from linformer_fairseq.errors import UsageError


@dataclass
class PipelineConfig(ReadingConfig):
    """All stages in their order."""

    sources: list[SourceConfig] = MISSING
    clean: CleanConfig | None = field(default_factory=CleanConfig)
    dedup: NearDuplicates | None = field(default_factory=NearDuplicates)
    decontaminate: DecontaminateConfig | None = None
    split: SplitConfig = field(default_factory=SplitConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    binarize: BinarizeConfig = field(default_factory=BinarizeConfig)
    input: str | None = None  # only for configurations whose sources name ${input}


def load_config(config: str, changes: Sequence[str] = ()) -> PipelineConfig:
    """Read a configuration.

    Args:
        config: path of a YAML file, or a name in `bundled()`.
        changes: `KEY=VALUE`, applied in order.

    Raises:
        UsageError: no such file, or a key or value that does not belong in it.
    """
    path, merged = _merged(config, changes)
    if merged.input is None and "${input}" in path.read_text(encoding="utf-8"):
        raise UsageError(f"{config}: needs input=PATH, a file or folder")
    return cast(PipelineConfig, _checked(path, merged))


def load_section(config: str, section: str) -> Any:
    """The settings of one stage in a configuration, whose other sections may be incomplete.

    Raises:
        UsageError: as `load_config`, or the section is null.
    """
    path, merged = _merged(config, ())
    if merged[section] is None:
        raise UsageError(f"{config}: its section {section} is null, so that stage has no settings")
    return _checked(path, merged[section])


def _merged(config: str, changes: Sequence[str]) -> tuple[Path, DictConfig]:
    path = CONFIGS / f"{config}.yaml" if config in bundled() else Path(config)
    if not path.is_file():
        raise UsageError(f"{config}: no such file; give a YAML file, or one of {', '.join(bundled())}")
    for change in changes:
        if "=" not in change:
            raise UsageError(f"{change}: expected KEY=VALUE, such as tokenizer.vocab_size=50048")
    try:
        merged = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(PipelineConfig), OmegaConf.load(path)))
        for change in changes:
            key, _, value = change.partition("=")
            OmegaConf.update(merged, key, safe_load(value))
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from error
    return path, merged


def _checked(path: Path, chosen: DictConfig) -> Any:
    try:
        return OmegaConf.to_object(chosen)
    except (OmegaConfBaseException, ValueError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from error
