"""A log file for each process of a training run, `run/logs/rank-N.log`, which also holds the traceback of its end.

On the terminal, it stands among those of all the processes that then lose their connection.
"""

import faulthandler
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, cast

from fairseq.logging import progress_bar
from omegaconf import DictConfig

from linformer_fairseq.errors import UsageError
from linformer_fairseq.training.run_directory import run_folder

logger = logging.getLogger(__name__)
_log: logging.FileHandler | None = None  # the log file of this process


class _LogFile(logging.FileHandler):
    """On a full disk it says nothing, where `logging` would print a traceback for each line of the log."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


def refuse_missing_packages(cfg: DictConfig) -> None:
    """Stop `--tensorboard-logdir` and `--wandb-project` before anything is loaded, if nothing could write there.

    fairseq only warns. UsageError if `tensorboard` and `tensorboardX`, or `wandb`, cannot be imported.
    """
    needed = (
        ("tensorboard_logdir", "tensorboard (or tensorboardX)", progress_bar.SummaryWriter),
        ("wandb_project", "wandb", progress_bar.wandb),
    )
    for setting, package, found in needed:
        if cfg.common.get(setting) and found is None:
            raise UsageError(
                f"--{setting.replace('_', '-')} needs a package that is not installed: pip install {package}, or "
                "leave the flag out (metrics.jsonl beside the checkpoints has the same figures)"
            )


@contextmanager
def logged(cfg: DictConfig) -> Iterator[None]:
    """Keep the log of this process in a file, with the reason for its end if it fails."""
    keep_log(cfg)
    try:
        yield
    except Exception as error:
        _only_to_file(logging.ERROR, "this process ends with an error", error)
        raise
    except (SystemExit, KeyboardInterrupt) as end:
        _only_to_file(logging.INFO, f"this process ends: {end!r}")
        raise
    else:
        _close()


def keep_log(cfg: DictConfig) -> None:
    """Append the log of this process to its file, from level INFO on, and the stacks of its threads if it crashes.

    What is printed stays as fairseq has it: of ranks other than 0, from warnings on.
    """
    global _log
    folder, root = run_folder(cfg), logging.getLogger()
    if folder is None or _log in root.handlers:
        return
    rank = cfg.distributed_training.distributed_rank
    (folder / "logs").mkdir(exist_ok=True)
    _log = _LogFile(folder / "logs" / f"rank-{rank}.log", encoding="utf-8")
    _log.setFormatter(logging.Formatter("%(asctime)s | %(levelname)s | %(name)s | %(message)s"))  # fairseq's
    for other in root.handlers:
        other.setLevel(max(other.level, root.level))
    root.setLevel(min(root.level, logging.INFO))
    root.addHandler(_log)
    faulthandler.enable(cast(TextIO, _log.stream))
    _only_to_file(logging.INFO, f"rank {rank} of {cfg.distributed_training.distributed_world_size} starts")


def _close() -> None:
    """Let the next run of this process have a log of its own."""
    global _log
    if _log is not None:
        faulthandler.disable()
        logging.getLogger().removeHandler(_log)
        _log.close()
        _log = None


def _only_to_file(level: int, message: str, error: BaseException | None = None) -> None:
    """Log to this process's file, and not to the terminal, where it would repeat what is there anyway."""
    reason = None if error is None else (type(error), error, error.__traceback__)
    if _log is not None:
        _log.handle(logger.makeRecord(logger.name, level, __file__, 0, message, (), reason))
