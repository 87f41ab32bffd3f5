"""A whole preparation in one YAML file: the path of one, or the name of one in `configs/`.

`KEY=VALUE` on the command line replaces a value: `tokenizer.vocab_size=50048`. A stage set to `null` is left out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from data_prep import config as stages
from data_prep.text.minhash import NearDuplicates
from data_prep.text.rules import CleanConfig
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.settings import read_yaml


@dataclass
class PipelineConfig(stages.ReadingConfig):
    """All stages in their order."""

    sources: list[stages.SourceConfig] = MISSING
    clean: CleanConfig | None = field(default_factory=CleanConfig)
    dedup: NearDuplicates | None = field(default_factory=NearDuplicates)
    decontaminate: stages.DecontaminateConfig | None = None
    split: stages.SplitConfig = field(default_factory=stages.SplitConfig)
    tokenizer: stages.TokenizerConfig = field(default_factory=stages.TokenizerConfig)
    binarize: stages.BinarizeConfig = field(default_factory=stages.BinarizeConfig)
    input: str | None = None  # only for configurations whose sources name ${input}


class _Strings(yaml.SafeLoader):
    """Lists and mappings of YAML whose values stay as they are written; settings turn them into numbers."""

    yaml_implicit_resolvers = {
        start: [(tag, pattern) for tag, pattern in found if tag == "tag:yaml.org,2002:null"]
        for start, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _value(key: str, value: str) -> Any:
    """What KEY=VALUE sets: a path is taken as it is, and so is a value that is neither quoted, a list nor a mapping."""
    if key == "input":
        return value.replace("${", "\\${")  # else OmegaConf takes it for the name of a setting
    read = yaml.load(value, _Strings)
    return value if isinstance(read, str) and value[:1] not in ("'", '"') else read


def _keys(key: str, settings: Any) -> list[str]:
    """The settings that a key means: `sources.*.encoding` is that of each source that has it."""
    if not key.startswith("sources.*."):
        return [key]
    name = key.removeprefix("sources.*.")
    sources = enumerate(settings.sources)
    return [f"sources.{number}.{name}" for number, one in sources if one.source in stages.READER_SETTINGS.get(name, ())]


def load_config(config: str, changes: Sequence[str] = (), section: str | None = None) -> Any:
    """Read a `PipelineConfig` from a YAML file, or by a name in `bundled()`, and apply changes `KEY=VALUE` in order.

    With `section`, return the settings of that stage alone; the other sections need not be complete. Raises UsageError
    if there is no such file, a key or value does not belong in it, or the section is null.
    """
    path = stages.CONFIGS / f"{config}.yaml" if config in stages.bundled() else Path(config)
    if not path.is_file():
        raise UsageError(f"{config}: no such file; give a YAML file, or one of {', '.join(stages.bundled())}")
    for change in changes:
        if "=" not in change:
            raise UsageError(f"{change}: expected KEY=VALUE, such as tokenizer.vocab_size=50048")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(PipelineConfig), read_yaml(path))
        for change in changes:
            key, _, value = change.partition("=")
            for name in _keys(key, merged):
                try:
                    OmegaConf.update(merged, name, _value(key, value))
                except AssertionError as error:  # OmegaConf's, below a section that is null
                    raise UsageError(f"{change}: {path.name} has no such section; add it there") from error
        if section is None and merged.input is None and "${input}" in path.read_text(encoding="utf-8"):
            raise UsageError(f"{config}: needs input=PATH, a file or folder")
        chosen = merged if section is None else OmegaConf.select(merged, section)
        if chosen is None:
            raise UsageError(f"{config}: its section {section} is null, so that stage has no settings")
        return OmegaConf.to_object(chosen)
    except UsageError:
        raise
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{path}: {_in_words(error)}") from error


def _in_words(error: Exception) -> str:
    """What is wrong with a key or its value; OmegaConf names classes instead of a remedy."""
    key, owner, first = getattr(error, "full_key", None), getattr(error, "object_type", None), str(error).split("\n")[0]
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and is_dataclass(owner):
        return f"unknown key {key}; there are {', '.join(one.name for one in fields(owner))}"
    if "is not a ListConfig" in first:
        return f"{key}: must be a list; write [VALUE]"
    if found := re.search(r"is not a subclass of \w+\. value: (.*)", first):
        return f"{found[1]} stands where a section has its settings (KEY: VALUE); null leaves a stage out"
    return f"{key}: {first}" if key else " ".join(str(error).split())
