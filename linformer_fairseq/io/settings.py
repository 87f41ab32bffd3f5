"""YAML files of settings: recipes and configurations."""

import io
import math
from pathlib import Path
from typing import Any

import yaml

from linformer_fairseq.errors import UsageError

MOST = 100_000
"""Values of a file, each counted as often as an alias repeats it: ten nested aliases can stand for billions."""


def read_yaml(path: Path) -> Any:
    """The content of a YAML file as OmegaConf has it, nothing resolved; UsageError if it has none or cannot be read."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        text = path.read_text(encoding="utf-8")
        if _values(yaml.compose(text, yaml.SafeLoader), {}) > MOST:
            raise UsageError(f"{path}: its aliases stand for more than {MOST:,} values; write out what is meant")
        content = OmegaConf.load(io.StringIO(text))
    except (OSError, UnicodeError, yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not content:
        raise UsageError(f"{path}: is empty; name a file of settings")
    return content


def _values(node: yaml.Node | None, known: dict[int, float]) -> float:
    """Values below a node, with those that aliases repeat; infinite if it holds itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is known
        inner = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_values(part, known) for part in inner)
    return known[id(node)]
