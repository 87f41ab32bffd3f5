"""What fairseq keeps in attributes of its functions and in its modules, where it outlives a run and is not saved.

A run begins without what an earlier one in the same process has left (`fairseq-hydra-train --multirun`), and the count
of `--patience` is saved and restored.
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch.distributed
from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import metrics, progress_bar


def train_modules() -> Iterator[Any]:
    """The module of `fairseq-train`, under each name that it has here."""
    for name in ("fairseq_cli.train", "__main__"):
        if hasattr(sys.modules.get(name), "should_stop_early"):
            yield sys.modules[name]


def forget() -> None:
    """Begin as in a new process."""
    left = [(checkpoint_utils.save_checkpoint, "best")]
    left += [(module.should_stop_early, name) for module in train_modules() for name in ("best", "num_runs")]
    if not torch.distributed.is_initialized():
        left.append((distributed_utils.get_global_group, "_global_group"))
    for function, name in left:
        with suppress(AttributeError):
            delattr(function, name)
    metrics.reset()
    for writer in getattr(progress_bar, "_tensorboard_writers", {}).values():
        writer.close()
    getattr(progress_bar, "_tensorboard_writers", {}).clear()
    if getattr(progress_bar.wandb, "run", None) is not None:
        progress_bar.wandb.finish()


def patience() -> dict[str, Any]:
    """The best validation so far and the number of those since, for `--patience`; {} before the first one."""
    return {
        name: getattr(module.should_stop_early, name)
        for module in train_modules()
        for name in ("best", "num_runs")
        if hasattr(module.should_stop_early, name)
    }


def restore_patience(saved: dict[str, Any]) -> None:
    """Go on counting from what `patience` was when the run was saved."""
    for module in train_modules():
        for name, value in saved.items():
            setattr(module.should_stop_early, name, value)
