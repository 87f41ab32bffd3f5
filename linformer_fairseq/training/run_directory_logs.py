"""A log file for each process of a training, `run/logs/rank-N.log`, which also gets the traceback of one that dies.

Otherwise all processes write into one stream, those other than rank 0 warnings only, and the traceback of the one that
failed stands among those of the many that then lose their connection.
"""

from __future__ import annotations

import faulthandler
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairseq.distributed import utils as distributed_utils
from fairseq.logging import progress_bar
from omegaconf import DictConfig

from linformer_fairseq.errors import UsageError, as_one_sentence
from linformer_fairseq.training.run_directory import run_folder

logger = logging.getLogger(__name__)


def write_rank_logs() -> None:
    """Let fairseq's training, in every process that `call_main` starts or joins, keep its log.

    Also refuses `--tensorboard-logdir` where nothing could write it: fairseq says so once and trains on.
    """
    start_all = distributed_utils.call_main

    @functools.wraps(start_all)
    def call_main(cfg: DictConfig, main: Callable[..., object], **kwargs: Any) -> None:
        if getattr(main, "__module__", "") == "fairseq_cli.train":
            with as_one_sentence():
                refuse_missing_tensorboard(cfg)
            main = LoggedMain(main)
        start_all(cfg, main, **kwargs)

    distributed_utils.call_main = call_main


def refuse_missing_tensorboard(cfg: DictConfig) -> None:
    """Stop `--tensorboard-logdir` before anything is loaded, if TensorBoard is missing.

    Raises:
        UsageError: neither `tensorboard` nor `tensorboardX` can be imported.
    """
    if cfg.common.tensorboard_logdir and progress_bar.SummaryWriter is None:
        raise UsageError(
            "--tensorboard-logdir needs a package that is not installed: pip install tensorboard (or tensorboardX), or "
            "leave the flag out (metrics.jsonl beside the checkpoints has the same figures)"
        )


class LoggedMain:
    """fairseq's `main` with a log file around it; a class, because spawned processes get it pickled."""

    def __init__(self, main: Callable[..., object]) -> None:
        functools.update_wrapper(self, main)
        self.main = main

    def __call__(self, cfg: DictConfig, **kwargs: Any) -> None:
        """Train, with the log of this process in a file, and the reason for its end if it fails."""
        keep_log(cfg)
        try:
            self.main(cfg, **kwargs)
        except Exception as error:
            _only_to_file(logging.ERROR, "this process ends with an error", error)
            raise
        except (SystemExit, KeyboardInterrupt) as end:
            _only_to_file(logging.INFO, f"this process ends: {end!r}")
            raise


def keep_log(cfg: DictConfig) -> None:
    """Append this process's log to its file, and the stacks of its threads if it crashes; does so once.

    The file gets what rank 0 prints (level INFO), of every rank. What the others print stays as fairseq has it: from
    warnings on.
    """
    root = logging.getLogger()
    if any(isinstance(handler, _RankLog) for handler in root.handlers):
        return
    folder = run_folder(cfg)
    if folder is None:
        return
    rank = cfg.distributed_training.distributed_rank
    handler = _RankLog(folder, rank)
    for other in root.handlers:
        other.setLevel(max(other.level, root.level))
    root.setLevel(min(root.level, logging.INFO))
    root.addHandler(handler)
    assert handler.stream is not None
    faulthandler.enable(handler.stream)
    _only_to_file(logging.INFO, f"rank {rank} of {cfg.distributed_training.distributed_world_size} starts")


class _RankLog(logging.FileHandler):
    """The log file of one rank, in fairseq's format."""

    def __init__(self, folder: Path, rank: int) -> None:
        (folder / "logs").mkdir(exist_ok=True)
        super().__init__(folder / "logs" / f"rank-{rank}.log", encoding="utf-8")
        self.setFormatter(logging.Formatter("%(asctime)s | %(levelname)s | %(name)s | %(message)s"))


def _only_to_file(level: int, message: str, error: BaseException | None = None) -> None:
    """Log to this process's file, and not to the terminal, where it would only repeat what stands there anyway."""
    reason = None if error is None else (type(error), error, error.__traceback__)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _RankLog):
            handler.handle(logger.makeRecord(logger.name, level, __file__, 0, message, (), reason))
