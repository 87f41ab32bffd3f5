"""A signal asks a training to leave: all ranks stop after the same update, write one checkpoint and say how to go on.

SIGUSR1, SIGUSR2 and SIGTERM mean "saved, start me again" (exit status `REQUEUE`), SIGINT is Ctrl-C (status 130); it
makes no difference which of the processes get the signal. The checkpoint is fairseq's own `checkpoint_last.pt`,
written between two updates, so that the next start makes the update that would have followed.
"""

import copy
import functools
import logging
import os
import sys
from collections.abc import Callable
from signal import Signals
from typing import Any

import torch.distributed
from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer
from omegaconf import DictConfig, open_dict
from torch.distributed.distributed_c10d import _get_default_store

from linformer_fairseq.errors import as_one_sentence
from linformer_fairseq.training import saving, signals
from linformer_fairseq.training.signals import REQUEUE

__all__ = ["REQUEUE", "save_and_leave_when_asked"]

logger = logging.getLogger(__name__)

_KEY = "linformer_fairseq/stop"
_rounds = 0  # updates tried by this process, the same in all ranks
_saved: int | None = None  # updates in the newest checkpoint_last of this process
_now: tuple[DictConfig, Any] | None = None  # configuration and position in the data while an update is looked after


def save_and_leave_when_asked() -> None:
    """Hook it into `call_main`, for the process that starts ranks, and into fairseq's trainer, for the ranks."""
    start, create = distributed_utils.call_main, Trainer.__init__
    save, valid_step, begin = checkpoint_utils.save_checkpoint, Trainer.valid_step, Trainer.begin_epoch

    def call_main(cfg: DictConfig, main: Callable[..., object], **kwargs: Any) -> None:
        if getattr(main, "__module__", "") != "fairseq_cli.train":
            start(cfg, main, **kwargs)
            return
        signals.listen()
        signals.hold_for_children()
        # It tells of each rank that outlives the first one to end, and the last line is to say how to go on.
        logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
        try:
            start(cfg, main, **kwargs)
        except SystemExit as left:
            # Spawned ranks hear of Ctrl-C in a way that does not count as the second time.
            asked = signals.noted()
            raise SystemExit(signals.status(asked)) if asked and left.code == REQUEUE else left from None

    @functools.wraps(create)
    def __init__(self: Trainer, *args: Any, **kwargs: Any) -> None:
        signals.listen()
        for name in ("fairseq_cli.train", "__main__"):
            _look_after_each_update(sys.modules.get(name))
        create(self, *args, **kwargs)

    @functools.wraps(begin)
    def begin_epoch(self: Trainer, *args: Any) -> None:
        signals.training_begins()
        begin(self, *args)

    @functools.wraps(save)
    def save_checkpoint(cfg: Any, trainer: Trainer, epoch_itr: Any, val_loss: float | None) -> Any:
        global _saved
        path = save(cfg, trainer, epoch_itr, val_loss)
        if not (cfg.no_save or cfg.no_last_checkpoints):
            _saved = trainer.get_num_updates()
        return path

    @functools.wraps(valid_step)
    def valid_step_then_save(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        found = valid_step(self, *args, **kwargs)
        # A validation may outlast the time until SIGKILL. Ranks agree after it, so this is for the first rank alone.
        if _now and signals.noted() and self.is_data_parallel_master and _needs_no_other_rank(self):
            _save(self)
        return found

    distributed_utils.call_main = call_main
    Trainer.__init__, Trainer.begin_epoch = __init__, begin_epoch
    checkpoint_utils.save_checkpoint = save_checkpoint
    Trainer.valid_step = valid_step_then_save


def _look_after_each_update(train: Any) -> None:
    """Follow `validate_and_save`, which ends each update in `fairseq_cli.train`."""
    finish = getattr(train, "validate_and_save", None)
    if finish is None or hasattr(finish, "__wrapped__"):
        return

    @functools.wraps(finish)
    def validate_and_save(cfg: DictConfig, trainer: Trainer, task: Any, epoch_itr: Any, *rest: Any) -> Any:
        global _now
        _now = cfg, epoch_itr
        losses, finished = finish(cfg, trainer, task, epoch_itr, *rest)
        asked = _asked()
        if asked and not finished:
            with as_one_sentence():
                _leave(cfg, trainer, asked)
        _now = None
        return losses, finished

    train.validate_and_save = validate_and_save


def _asked() -> Signals | None:
    """The signal to leave for after this update, the same in all ranks.

    The first rank with a signal writes down the next update. No rank ends that one before this rank has begun it, so
    all see the note by then. It goes through the store where they have met: no collective, no wait for a GPU.
    """
    global _rounds
    _rounds += 1
    own = signals.noted()
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return own
    store = _get_default_store()
    if own:
        store.compare_set(_KEY, "", f"{_rounds + 1} {own.value}")
    if not store.check([_KEY]):
        return None
    after, number = store.get(_KEY).split()
    return Signals(int(number)) if _rounds >= int(after) else None


def _needs_no_other_rank(trainer: Trainer) -> bool:
    return not trainer.is_fsdp and not hasattr(trainer.optimizer.optimizer, "consolidate_state_dict")


def _save(trainer: Trainer) -> None:
    """Write `checkpoint_last.pt` alone, unless the newest one has this update already."""
    assert _now
    cfg, epoch_itr = _now
    if cfg.checkpoint.no_save or _saved == trainer.get_num_updates():
        return
    only_last = copy.deepcopy(cfg.checkpoint)
    with open_dict(only_last):
        only_last.no_last_checkpoints, only_last.no_epoch_checkpoints, only_last.save_interval_updates = False, True, 0
        only_last.keep_interval_updates = only_last.keep_last_epochs = only_last.keep_best_checkpoints = -1
    checkpoint_utils.save_checkpoint(only_last, trainer, epoch_itr, None)


def _leave(cfg: DictConfig, trainer: Trainer, asked: Signals) -> None:
    _save(trainer)
    saving.finish()
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # the first rank to end takes those that it was spawned with along
    updates = trainer.get_num_updates()
    if cfg.checkpoint.no_save:
        logger.info(f"{asked.name}: stopped after {updates} updates; --no-save, so nothing was saved")
        sys.exit(128 + asked.value)
    path = os.path.join(cfg.checkpoint.save_dir, f"checkpoint_last{trainer.checkpoint_suffix}.pt")
    given = cfg.checkpoint.restore_file != "checkpoint_last.pt"
    how = "the same command without --restore-file" if given else "the same command"
    logger.info(f"{asked.name}: saved {updates} updates in {path}; {how} goes on from there")
    sys.exit(signals.status(asked))
