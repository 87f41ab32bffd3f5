"""How a training starts or goes on: alone in its folder, from a whole checkpoint, and not at all if it has ended.

The first rank looks, the others are told.
"""

import copy
import functools
import logging
import math
import sys
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils, file_io
from fairseq.trainer import Trainer
from omegaconf import open_dict

from linformer_fairseq.errors import UsageError, as_one_sentence
from linformer_fairseq.training import damage, files, lock
from linformer_fairseq.training.ranks import from_first_rank

logger = logging.getLogger(__name__)

LAST = "checkpoint_last.pt"


def go_on_from_whole_checkpoints() -> None:
    """Put it before and after fairseq's `load_checkpoint`."""
    load, load_state = checkpoint_utils.load_checkpoint, Trainer.load_checkpoint

    @functools.wraps(load)
    def load_checkpoint(cfg: Any, trainer: Trainer, **options: Any) -> Any:
        with as_one_sentence():
            instead = from_first_rank("checkpoint", functools.partial(prepare, cfg, trainer.checkpoint_suffix))
        if instead:
            cfg = copy.deepcopy(cfg)
            with open_dict(cfg):
                cfg.restore_file, cfg.finetune_from_model = instead, None
        extra_state, epoch_itr = load(cfg, trainer, **options)
        ended = extra_state is not None and why_ended(trainer, epoch_itr)
        if ended:
            logger.info(f"{cfg.save_dir}: this training has ended ({ended}), so there is nothing to do")
            sys.exit(0)
        return extra_state, epoch_itr

    @functools.wraps(load_state)
    def load_then_compare(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        extra_state = load_state(self, *args, **kwargs)
        before = ((extra_state or {}).get("linformer_fairseq") or {}).get("processes")
        if before and before != self.data_parallel_world_size:
            _share_anew(extra_state["train_iterator"], before, self.data_parallel_world_size)
        return extra_state

    checkpoint_utils.load_checkpoint = load_checkpoint
    Trainer.load_checkpoint = load_then_compare


def prepare(cfg: Any, suffix: str) -> str:
    """Lock and clean `--save-dir`, and look at the checkpoint that is to be loaded.

    Args:
        cfg: fairseq's `checkpoint` settings.
        suffix: of the names of this rank's files; with one, they are parts of a checkpoint, and are not looked at.

    Returns:
        The checkpoint to load in its place, or "" to leave it to fairseq.

    Raises:
        UsageError: another training is in the folder, or there is no whole checkpoint to go on from.
    """
    if file_io.PathManager.path_requires_pathmanager(cfg.save_dir):
        return ""
    folder = Path(cfg.save_dir)
    if not cfg.no_save:
        folder.mkdir(parents=True, exist_ok=True)
        lock.take(folder)
        files.sweep(folder)
    if suffix:
        return ""
    if cfg.restore_file != LAST:
        _check_given(cfg.restore_file)
        return ""
    last = folder / LAST
    wrong = damage.damage(last) if last.is_file() else None
    if wrong is None:
        return ""
    found = damage.newest_whole(folder, instead_of=last)
    if found is None:
        raise UsageError(f"{last} is damaged ({wrong}), and {folder} has no other whole one: delete it to start anew")
    logger.warning(f"{last} is damaged ({wrong}); going on from the newest whole one, {found}")
    return str(found)


def _check_given(path: str) -> None:
    if file_io.PathManager.path_requires_pathmanager(path):
        return
    if not Path(path).is_file():
        raise UsageError(f"--restore-file {path}: no such file; without the flag, training starts anew")
    sha256 = files.recorded(Path(path))
    if sha256 is not None and files.digest(Path(path)) != sha256:
        raise UsageError(
            f"--restore-file {path} is damaged (it does not match {files.checksum_file(Path(path)).name}): give another"
        )


def why_ended(trainer: Trainer, epoch_itr: Any) -> str | None:
    """Says which limit of fairseq's a training has reached; it would make one more update to notice."""
    limits = trainer.cfg.optimization
    if 0 < (limits.max_update or 0) <= trainer.get_num_updates():
        return f"{trainer.get_num_updates()} updates, --max-update {limits.max_update}"
    if epoch_itr.next_epoch_idx > (limits.max_epoch or math.inf):
        return f"--max-epoch {limits.max_epoch}"
    if 0 < limits.stop_time_hours < trainer.cumulative_training_time() / 3600:
        return f"--stop-time-hours {limits.stop_time_hours}"
    return None


def _share_anew(position: dict[str, Any], before: int, now: int) -> None:
    """Say where each of `now` processes goes on in the data that `before` have shared, batch by batch in turn."""
    done = position["iterations_in_epoch"] * before
    position["iterations_in_epoch"], again = divmod(done, now)
    logger.info(
        f"Going on with {now} processes instead of {before}: parameters, optimizer, updates and learning rate are "
        f"exactly those saved. An update now has {now}/{before} of the batches (--update-freq can make up for it). "
        f"{done} batches of the epoch are done, {again} of them come again, and dropout differs from here on."
    )
