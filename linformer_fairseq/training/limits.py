"""Numbers with which a training run would do nothing, or the opposite; fairseq accepts them without a word."""

import math

from omegaconf import DictConfig

from linformer_fairseq.errors import UsageError

# The least value of each; a setting that is None is not set.
_LEAST = {
    "optimization": {"lr": 0, "max_update": 0, "max_epoch": 0, "clip_norm": 0, "update_freq": 1},
    "dataset": {"batch_size": 1, "max_tokens": 1, "num_workers": 0},
}


def refuse_useless(cfg: DictConfig) -> None:
    """Raise a UsageError that names the flag, before anything is loaded."""
    for section, limits in _LEAST.items():
        for name, least in limits.items():
            given = cfg[section].get(name)
            for value in [given] if isinstance(given, int | float) else given or []:
                if not least <= value < math.inf:
                    raise UsageError(f"--{name.replace('_', '-')} {value}: must be at least {least}, and finite")
