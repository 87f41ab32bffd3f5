"""The settings of a whole preparation: one YAML file, one dataclass, one place for each default.

A configuration is the path of a YAML file, or the name of one that comes along (``configs/``). ``KEY=VALUE`` on the
command line replaces a value, as in ``tokenizer.vocab_size=50048``. A stage set to ``null`` is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError, safe_load

from data_prep.corpus import FILE_CHARACTERS
from data_prep.text.minhash import NearDuplicates
from data_prep.text.rules import CleanConfig
from linformer_fairseq.errors import UsageError

SHIPPED = Path(__file__).parent / "configs"


@dataclass
class SourceConfig:
    """One source of documents."""

    source: str = MISSING  # wikipedia, doc, text, books, jsonl, parquet or docstrings
    inputs: list[str] = field(default_factory=list)  # files and folders; * and ? are expanded
    name: str | None = None  # of its files in the corpus; by default that of the source
    text_column: str | None = None  # of jsonl and parquet


@dataclass
class DecontaminateConfig:
    """Which documents are dropped because a benchmark's answers might be learned from them."""

    folders: list[str] = field(default_factory=list)  # of GLUE, IMDB, …: their dev and test files are read


@dataclass
class SplitConfig:
    """Shares of the documents that training does not see, chosen by each document's hash."""

    valid: float = 0.01
    test: float = 0.0


@dataclass
class TokenizerConfig:
    """The vocabulary: trained on the training documents, or one that exists."""

    vocab_size: int = 32000  # of fairseq's dictionary, special symbols counted; a multiple of 64
    model: str = "unigram"  # or bpe
    existing: str | None = None  # a sentencepiece .model, or a folder with encoder.json and vocab.bpe


@dataclass
class BinarizeConfig:
    """The shape of fairseq's data."""

    max_item_tokens: int = 510  # longer paragraphs are cut; at most --tokens-per-sample minus 2
    shards: int = 1  # colon-joinable folders, each an epoch for fairseq


@dataclass
class PipelineConfig:
    """All stages, in their order."""

    sources: list[SourceConfig] = MISSING
    on_error: str = "stop"  # or skip: what happens to input that cannot be read
    file_characters: int = FILE_CHARACTERS  # in a file of the corpus, the unit of work
    clean: CleanConfig | None = field(default_factory=CleanConfig)
    dedup: NearDuplicates | None = field(default_factory=NearDuplicates)
    decontaminate: DecontaminateConfig | None = None
    split: SplitConfig = field(default_factory=SplitConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    binarize: BinarizeConfig = field(default_factory=BinarizeConfig)
    input: str | None = None  # not read itself: for configurations whose sources say ${input}


def shipped() -> list[str]:
    """Names of the configurations that come along."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_config(config: str, changes: Sequence[str] = ()) -> PipelineConfig:
    """Reads a configuration.

    Args:
        config: path of a YAML file, or the name of one that comes along.
        changes: ``KEY=VALUE``, applied in order.

    Raises:
        UsageError: no such file, or a key or value that does not belong in it.
    """
    return cast(PipelineConfig, _load(config, changes))


def load_section(config: str, section: str) -> Any:
    """One stage's settings in a configuration, whose other sections need not be complete.

    Raises:
        UsageError: as :func:`load_config`, or the section is null.
    """
    return _load(config, (), section)


def _load(config: str, changes: Sequence[str], section: str | None = None) -> Any:
    path = SHIPPED / f"{config}.yaml" if config in shipped() else Path(config)
    if not path.is_file():
        raise UsageError(f"{config}: no such file; give a YAML file, or one of {', '.join(shipped())}")
    for change in changes:
        if "=" not in change:
            raise UsageError(f"{change}: expected KEY=VALUE, such as tokenizer.vocab_size=50048")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(PipelineConfig), OmegaConf.load(path))
        for change in changes:
            key, _, value = change.partition("=")
            OmegaConf.update(merged, key, safe_load(value))
        if section is None and merged.input is None and "${input}" in path.read_text(encoding="utf-8"):
            raise UsageError(f"{config}: needs input=PATH, a file or folder")
        chosen = merged if section is None else OmegaConf.select(merged, section)
        if chosen is None:
            raise UsageError(f"{config}: its section {section} is null, so that stage has no settings")
        return OmegaConf.to_object(chosen)
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from error
