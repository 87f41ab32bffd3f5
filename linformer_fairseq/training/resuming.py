"""How a training run starts or resumes: alone in its folder, from a whole checkpoint, or not at all if it has ended."""

import copy
import logging
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch.distributed
from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.logging import metrics, progress_bar
from omegaconf import open_dict

from linformer_fairseq.compat.precision import WRAPPERS
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io import locks
from linformer_fairseq.training import files, position

logger = logging.getLogger(__name__)

LAST = "checkpoint_last.pt"
EQUIVALENT = {
    "criterion": {"MaskedLmLoss", "FusedMaskedLmLoss"},
    "optimizer": {"FairseqAdam", "FusedAdamW", "Muon", *WRAPPERS},
}
"""Names of classes each of which resumes from what the other has saved."""


class Ended(SystemExit):
    """The run that was started had ended before."""


def goes_back(cfg: Any) -> bool:
    """Whether `--restore-file` names an earlier checkpoint of the run itself."""
    return cfg.restore_file != LAST and Path(cfg.restore_file).resolve().parent == Path(cfg.save_dir).resolve()


def prepare(cfg: Any, trainer: Any) -> Any:
    """fairseq's `checkpoint` settings, with the checkpoint that the first rank has found; every rank calls this.

    The first rank raises a UsageError as `checkpoint_instead`, and the others a SystemExit then.
    """
    found = _of_first_rank(lambda: checkpoint_instead(cfg, trainer.checkpoint_suffix), trainer.device)
    if found is not None:
        cfg = copy.deepcopy(cfg)
        with open_dict(cfg):
            if cfg.restore_file != LAST:  # what was to be reset was so in the start from elsewhere
                cfg.reset_optimizer = cfg.reset_dataloader = cfg.reset_meters = cfg.reset_lr_scheduler = False
                cfg.optimizer_overrides = "{}"
            cfg.restore_file, cfg.finetune_from_model = found, None
    return cfg


def _of_first_rank(find: Callable[[], Any], device: Any) -> Any:
    """What the first rank finds, in every rank; its UsageError is a silent SystemExit in the others."""
    several = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    first = not several or torch.distributed.get_rank() == 0
    found: list[Any] = [None]
    if first:
        try:
            found = [find()]
        except UsageError as error:
            found = [error]
    if several:
        torch.distributed.broadcast_object_list(found, src=0, device=device)
    if isinstance(found[0], UsageError):
        if several:
            torch.distributed.barrier()  # before the first rank ends, which the others would report instead
        raise found[0] if first else SystemExit(1)
    return found[0]


def checkpoint_instead(cfg: Any, suffix: str) -> str | None:
    """Lock and clean `--save-dir`, and return the checkpoint to load instead of the one that the flags name, if any.

    That is the run's own checkpoint_last.pt instead of one from elsewhere, and the newest whole one if it is damaged.
    Parts of a checkpoint, whose names have a `suffix` of this rank, are not checked. UsageError if another run uses the
    folder, or there is no whole checkpoint to resume from.
    """
    if PathManager.path_requires_pathmanager(cfg.save_dir):
        return None
    folder = Path(cfg.save_dir)
    if not cfg.no_save:
        folder.mkdir(parents=True, exist_ok=True)
        locks.hold(folder, "training run")
        files.sweep(folder)
    if suffix or PathManager.path_requires_pathmanager(cfg.restore_file):
        return None
    last = folder / LAST
    elsewhere = cfg.restore_file != LAST and last.is_file() and not goes_back(cfg)
    if elsewhere:
        logger.info(
            f"this run resumes from its own {last}, not from --restore-file {cfg.restore_file}, with which it began "
            "(--finetune-from-model begins with parameters alone)"
        )
    elif cfg.restore_file != LAST:
        given = Path(cfg.restore_file)
        if not given.is_file():
            raise UsageError(f"--restore-file {given}: no such file; without the flag, training starts from scratch")
        if files.recorded(given) and (wrong := files.damage(given)):
            raise UsageError(f"--restore-file {given} is damaged ({wrong}): choose another one")
        return None
    wrong = files.damage(last) if last.is_file() else None
    if wrong is None:
        return str(last) if elsewhere else None
    found = files.newest_whole(folder, instead_of=last)
    if found is None:
        raise UsageError(f"{last} is damaged ({wrong}), and {folder} has no other whole one: delete it to start over")
    logger.warning(f"{last} is damaged ({wrong}); resuming from the newest whole one, {found}")
    return str(found)


def mend_last(cfg: Any, loaded: str, trainer: Any) -> None:
    """Put a copy of the loaded checkpoint in the place of a damaged last one, since nothing more will be saved."""
    last = Path(cfg.save_dir) / LAST
    if loaded not in (cfg.restore_file, str(last)) and trainer.is_data_parallel_master and not cfg.no_save:
        files.copy(Path(loaded), last, own=True)


def adopt_names(trainer: Any) -> None:
    """Take the state of an equivalent criterion or optimizer for this run's own; fairseq compares names of classes."""
    for kind, saved, own in _other_names(trainer):
        if {saved, own} <= EQUIVALENT[kind]:
            trainer._optim_history[-1][f"{kind}_name"] = own
            same = "" if "Muon" in (saved, own) else ": their states are the same"
            logger.info(f"resuming with the {kind} {own} instead of {saved}{same}")


def _other_names(trainer: Any) -> list[tuple[str, str, str]]:
    """Of the criterion and the optimizer, each that is of another class than the one that was saved: both names."""
    saved = (trainer._optim_history or [{}])[-1]
    own = {"criterion": trainer.get_criterion(), "optimizer": trainer.optimizer}
    pairs = [(kind, saved.get(f"{kind}_name"), type(value).__name__) for kind, value in own.items()]
    return [(kind, name, now) for kind, name, now in pairs if name not in (None, now)]


def explain(error: Exception, trainer: Any, filename: str) -> None:
    """Say what fairseq means by an error while it loads a checkpoint, if that is known.

    UsageError for the parameters of another model, in every rank. In the first rank, and SystemExit in the others, for
    a criterion or optimizer whose state this run cannot use, and for a position beyond the end of the data.
    """
    wrong = re.search(r'(?:size mismatch for |key\(s\) in state_dict: ")([\w.]+)', str(error.__context__))
    if isinstance(error.__context__, RuntimeError) and wrong:
        raise UsageError(
            f"{filename}: its model is another one than that of the flags (see {wrong[1]}): give the flags of its "
            "model, or change its length or k before, with `linformer convert extend`"
        ) from error
    reason = None
    if isinstance(error, AssertionError) and (others := _other_names(trainer)):
        kind, name, own = others[0]
        reason = (
            f"{filename} was saved with the {kind} {name}, and this run has {own}: choose the earlier --{kind} and "
            "precision, or drop the state of the optimizer with --reset-optimizer"
        )
    elif "dataloader mismatch" in str(error):  # a checkpoint that does not tell what it was saved with
        reason = (
            "the saved position is beyond the last batch of the epoch: restore the earlier data, --batch-size and "
            "other settings of the data, or begin with the first batch by --reset-dataloader, for one start only"
        )
    if reason:
        raise (SystemExit(1) if trainer.data_parallel_rank > 0 else UsageError(reason)) from None


def take_position(trainer: Any, filename: str, extra_state: dict[str, Any] | None) -> None:
    """Note the data and their order for this run's checkpoints, and see that a saved position is one in the same.

    If they differ, the first rank raises a UsageError, and the others a SystemExit. With --reset-dataloader, or from
    the file of --finetune-from-model, training begins with the first batch anyway.
    """
    settings, saved = trainer.cfg.checkpoint, (extra_state or {}).get("linformer_fairseq") or {}

    def compared() -> position.Position:
        now = position.of(trainer.cfg)
        changed = position.changes(saved.get("position") or {}, now)
        begins = settings.reset_dataloader or filename == settings.finetune_from_model
        if saved.get("position") and changed and not begins:
            raise UsageError(
                f"{filename} was saved in the middle of other data, or of the same in another order (changed: "
                f"{', '.join(changed)}): restore these, or begin with the first batch by --reset-dataloader, for one "
                "start only"
            )
        return now

    trainer.linformer_position = _of_first_rank(compared, trainer.device)
    position.share_among(trainer.data_parallel_world_size, extra_state)


def why_ended(trainer: Any, epoch_itr: Any) -> str | None:
    """Which limit of fairseq's a run has reached; fairseq would make one more update to notice."""
    limits = trainer.cfg.optimization
    if 0 < (limits.max_update or 0) <= trainer.get_num_updates():
        return f"{trainer.get_num_updates()} updates, --max-update {limits.max_update}"
    if epoch_itr.next_epoch_idx > (limits.max_epoch or math.inf):
        return f"--max-epoch {limits.max_epoch}"
    if 0 < limits.stop_time_hours < trainer.cumulative_training_time() / 3600:
        return f"--stop-time-hours {limits.stop_time_hours}"
    if 0 < trainer.cfg.checkpoint.patience <= (worse := patience().get("num_runs", 0)):
        return f"{worse} validations without a better one, --patience {trainer.cfg.checkpoint.patience}"
    return None


def train_modules() -> Iterator[Any]:
    """The module of `fairseq-train`, under each name that it has here."""
    for name in ("fairseq_cli.train", "__main__"):
        if hasattr(sys.modules.get(name), "should_stop_early"):
            yield sys.modules[name]


def forget_earlier_runs() -> None:
    """Forget what fairseq keeps of them in its functions and modules, as after `fairseq-hydra-train --multirun`."""
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
