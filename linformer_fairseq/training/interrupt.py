"""A signal asks a training run to stop: all ranks stop after the same update, save once and say how to resume.

SIGUSR1, SIGUSR2 and SIGTERM mean "saved, start me again" (exit status `signals.REQUEUE`), SIGINT is Ctrl-C (status
130); it makes no difference which of the processes receive the signal. The checkpoint is fairseq's own
`checkpoint_last.pt`, written between two updates, so that the next start makes the update that would have followed.
"""

import copy
import logging
import os
import sys
from signal import Signals
from typing import Any

import torch.distributed
from fairseq import checkpoint_utils
from omegaconf import DictConfig, open_dict
from torch.distributed.distributed_c10d import _get_default_store

from linformer_fairseq.training import resuming, saving, signals

logger = logging.getLogger(__name__)

position: tuple[DictConfig, Any] | None = None
"""The configuration and fairseq's position in the data, while it validates and saves after an update."""
saved: tuple[int, dict[str, Any]] | None = None
"""The `state` in the newest checkpoint_last.pt of this process."""

_KEY = "linformer_fairseq/stop"
_rounds = 0  # updates tried by this process, the same in all ranks


def forget() -> None:
    """Begin as in a new process."""
    global position, saved
    position = saved = None


def state(trainer: Any) -> tuple[int, dict[str, Any]]:
    """What tells whether there is anything new to save: the updates, and what validations have counted."""
    return trainer.get_num_updates(), resuming.patience()


def save_within_validation(trainer: Any) -> None:
    """Save at once if asked to stop: a validation may outlast the time until SIGKILL.

    Ranks agree only after the validation, so the first rank saves alone here.
    """
    alone = not trainer.is_fsdp and not hasattr(trainer.optimizer.optimizer, "consolidate_state_dict")
    if position and signals.noted and trainer.is_data_parallel_master and alone:
        _save(trainer)


def leave_if_asked(trainer: Any) -> None:
    """Save and end this process if any rank has received a signal; every rank calls this after each update."""
    asked = _asked()
    if asked is None or position is None:
        return
    _save(trainer)
    saving.finish()
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # the first rank to end takes those that it was spawned with along
    updates, settings = trainer.get_num_updates(), position[0].checkpoint
    if settings.no_save:
        logger.info(f"{asked.name}: stopped after {updates} updates; --no-save, so nothing was saved")
        sys.exit(128 + asked.value)
    path = os.path.join(settings.save_dir, f"checkpoint_last{trainer.checkpoint_suffix}.pt")
    how = "the same command without --restore-file" if resuming.goes_back(settings) else "the same command"
    logger.info(f"{asked.name}: saved {updates} updates in {path}; {how} resumes from there")
    sys.exit(signals.status(asked))


def _asked() -> Signals | None:
    """The signal to stop for after this update, the same in all ranks.

    The first rank with a signal writes down the next update. No rank ends that one before this rank has begun it, so
    all see the note by then. It goes through the store where they have met: no collective, no wait for a GPU.
    """
    global _rounds
    _rounds += 1
    own = signals.noted[0] if signals.noted else None
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return own
    store = _get_default_store()
    if own:
        store.compare_set(_KEY, "", f"{_rounds + 1} {own.value}")
    if not store.check([_KEY]):
        return None
    after, number = store.get(_KEY).split()
    return Signals(int(number)) if _rounds >= int(after) else None


def _save(trainer: Any) -> None:
    """Write `checkpoint_last.pt` alone, unless the newest one has this state already."""
    assert position
    cfg, epoch_itr = position
    if cfg.checkpoint.no_save or saved == state(trainer):
        return
    only_last = copy.deepcopy(cfg.checkpoint)
    with open_dict(only_last):
        only_last.no_last_checkpoints, only_last.no_epoch_checkpoints, only_last.save_interval_updates = False, True, 0
        only_last.keep_interval_updates = only_last.keep_last_epochs = only_last.keep_best_checkpoints = -1
    checkpoint_utils.save_checkpoint(only_last, trainer, epoch_itr, None)
