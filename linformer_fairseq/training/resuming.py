"""How a training run starts or resumes: alone in its folder, from a whole checkpoint, or not at all if it has ended."""

import copy
import logging
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed
from fairseq.file_io import PathManager
from omegaconf import open_dict

from linformer_fairseq.compat.saved_precision import WRAPPERS
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io import locks
from linformer_fairseq.training import fairseq_state, files, position

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

    Raises:
        UsageError: in the first rank, as `checkpoint_instead`.
        SystemExit: in the other ranks then.
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

    With a `suffix` of this rank's file names, they are parts of a checkpoint, and are not checked.

    Raises:
        UsageError: another run uses the folder, or there is no whole checkpoint to resume from.
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


def refuse_other_shapes(error: Exception, filename: str) -> None:
    """UsageError where fairseq has failed for the parameters of another model, which it does not name."""
    reason = error.__context__
    wrong = re.search(r'(?:size mismatch for |key\(s\) in state_dict: ")([\w.]+)', str(reason))
    if isinstance(reason, RuntimeError) and wrong:
        raise UsageError(
            f"{filename}: its model is another one than that of the flags (see {wrong[1]}): give the flags of its "
            "model, or change its length or k before, with `linformer convert extend`"
        ) from error


def adopt_names(trainer: Any) -> None:
    """Take the state of an equivalent criterion or optimizer for this run's own; fairseq compares names of classes."""
    saved = (trainer._optim_history or [{}])[-1]
    for kind, own in _own_names(trainer).items():
        name = saved.get(f"{kind}_name")
        if name != own and {name, own} <= EQUIVALENT[kind]:
            saved[f"{kind}_name"] = own
            same = "" if "Muon" in (name, own) else ": their states are the same"
            logger.info(f"resuming with the {kind} {own} instead of {name}{same}")


def refuse_other_names(trainer: Any, filename: str) -> None:
    """Explain what fairseq asserts of a checkpoint.

    Raises:
        UsageError: it was saved with a criterion or optimizer whose state this run cannot use.
        SystemExit: likewise, in all ranks but the first.
    """
    saved = (trainer._optim_history or [{}])[-1]
    for kind, own in _own_names(trainer).items():
        name = saved.get(f"{kind}_name")
        if name not in (None, own):
            if trainer.data_parallel_rank > 0:
                sys.exit(1)
            raise UsageError(
                f"{filename} was saved with the {kind} {name}, and this run has {own}: choose the earlier --{kind} and "
                "precision, or drop the state of the optimizer with --reset-optimizer"
            ) from None


def take_position(trainer: Any, filename: str, extra_state: dict[str, Any] | None) -> None:
    """Note the data and their order for this run's checkpoints, and see that a saved position is one in the same.

    With --reset-dataloader, or from the file of --finetune-from-model, training begins with the first batch anyway.

    Raises:
        UsageError: in the first rank, if they differ.
        SystemExit: in the other ranks then.
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


def explain(error: RuntimeError, trainer: Any) -> None:
    """Say what fairseq means by its "dataloader mismatch": a checkpoint that does not tell what it was saved with.

    Raises:
        UsageError: the saved position is beyond the end of the epoch.
        SystemExit: likewise, in all ranks but the first.
    """
    if "dataloader mismatch" in str(error):
        if trainer.data_parallel_rank > 0:
            sys.exit(1)
        raise UsageError(
            "the saved position is beyond the last batch of the epoch: restore the earlier data, --batch-size and "
            "other settings of the data, or begin with the first batch by --reset-dataloader, for one start only"
        ) from None


def _own_names(trainer: Any) -> dict[str, str]:
    own = {"criterion": trainer.get_criterion(), "optimizer": trainer.optimizer}
    return {kind: type(value).__name__ for kind, value in own.items()}


def why_ended(trainer: Any, epoch_itr: Any) -> str | None:
    """Which limit of fairseq's a run has reached; fairseq would make one more update to notice."""
    limits = trainer.cfg.optimization
    if 0 < (limits.max_update or 0) <= trainer.get_num_updates():
        return f"{trainer.get_num_updates()} updates, --max-update {limits.max_update}"
    if epoch_itr.next_epoch_idx > (limits.max_epoch or math.inf):
        return f"--max-epoch {limits.max_epoch}"
    if 0 < limits.stop_time_hours < trainer.cumulative_training_time() / 3600:
        return f"--stop-time-hours {limits.stop_time_hours}"
    if 0 < trainer.cfg.checkpoint.patience <= (worse := fairseq_state.patience().get("num_runs", 0)):
        return f"{worse} validations without a better one, --patience {trainer.cfg.checkpoint.patience}"
    return None
