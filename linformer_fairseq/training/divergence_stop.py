"""Ending a training that has diverged: which examples, which checkpoint to go on from, exit status 1."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import torch
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from torch import Tensor

from linformer_fairseq.training import saving
from linformer_fairseq.training.divergence import VARIABLE, PerplexityRule, ratio_setting
from linformer_fairseq.training.divergence_checkpoint import last_good_checkpoint
from linformer_fairseq.training.divergence_report import ids_of, sentence
from linformer_fairseq.training.run_directory import write_json

logger = logging.getLogger(__name__)


class Watch:
    """Looks at what fairseq has brought from the device anyway; every rank has one, and all of them stop together.

    Between the logs it only keeps what the last update was made of. The losses of single batches, which fairseq sums
    up, stay on the device until they are asked for.

    Args:
        trainer: of this process.
        folder: `run` of this training, None with `--no-save`.

    Raises:
        UsageError: the variable in `divergence` is set to something that it cannot be.
    """

    def __init__(self, trainer: Trainer, folder: Path | None) -> None:
        self.trainer = trainer
        self.folder = folder
        self.epoch: int | None = None
        self._samples: Sequence[Any] = ()
        self._losses: list[Any] = []
        ratio = ratio_setting(os.environ)
        self._rule = None if ratio is None else PerplexityRule(ratio, _vocab_size(trainer.task))
        trainer.task.train_step = self._keeping_losses(trainer.task.train_step)

    def _keeping_losses(self, train_step: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(train_step)
        def keeping(*arguments: Any, **named: Any) -> Any:
            result = train_step(*arguments, **named)
            with suppress(AttributeError, IndexError, TypeError):  # another task's result may be of another form
                self._losses.append(result[2].get("loss"))
            return result

        return keeping

    def before_update(self, samples: Sequence[Any]) -> None:
        """Keep the batches of this rank, one for each of --update-freq."""
        self._samples, self._losses = samples, []

    def gradient_failed(self, error: BaseException) -> None:
        """Stop where fairseq has found that the gradient is not a number, or the loss scale at its minimum.

        fairseq has not changed the parameters then. Other errors are not judged here.
        """
        reason = _reason(error)
        if reason is not None:
            update = int(self.trainer.get_num_updates())
            self.stop(update + 1, reason, good_until=update)

    def after_log(self, stats: Mapping[str, Any], update: int) -> None:
        """Judge the loss of a log interval, which is the same number on every rank."""
        meter = metrics.get_meter("train_inner", "loss")
        if meter is None or not float(getattr(meter, "count", 0)) > 0:  # no masked token at all
            return
        loss = float(meter.avg)
        if not math.isfinite(loss):
            self.stop(update, f"the mean loss since the last log is {loss}", good_until=update - 1)
        if self._rule is None or "ppl" not in stats or self.trainer.cfg.optimization.use_bmuf:
            return
        reason = self._rule.broken_by(update, loss)
        if reason is not None:
            self.stop(update, f"{reason} ({VARIABLE}=0 lets it go on)", good_until=self._rule.last_good_update())

    def after_validation(self, stats: Mapping[str, Any], subset: str) -> None:
        """Judge the loss of a validation before it decides which checkpoint is the best."""
        loss = stats.get("loss")
        if loss is not None and not math.isfinite(float(loss)):
            update = int(self.trainer.get_num_updates())
            self.stop(update, f"the loss of its validation on {subset} is {float(loss)}", good_until=update - 1)

    def before_save(self) -> None:
        """Stop instead of saving parameters or a state of the optimizer that are not finite.

        Only ranks that save look, and stop without the others, which need not have come as far.
        """
        if self.trainer.should_save_checkpoint_on_current_rank and not _all_finite(_saved_tensors(self.trainer)):
            update = int(self.trainer.get_num_updates())
            reason = "its parameters or the state of its optimizer are not finite any more, so they were not saved"
            self.stop(update, reason, good_until=update - 1, alone=True)

    def stop(self, update: int, reason: str, good_until: int, alone: bool = False) -> NoReturn:
        """End this process, and with it the training; unless `alone`, all ranks call this at the same update.

        Args:
            update: at which it was found.
            reason: after "the training has diverged: ".
            good_until: the last update whose checkpoint can be trusted.
            alone: the batches of the other ranks are not known, and they are not waited for.

        Raises:
            SystemExit: with status 1.
        """
        together = not alone and self.trainer.data_parallel_world_size > 1
        batches = self._gather(self._batches()) if together else self._batches()
        if self.trainer.data_parallel_rank == 0:
            with suppress(Exception):  # it has been told of already, or will be
                saving.finish()
            save_dir = Path(self.trainer.cfg.checkpoint.save_dir)
            good = last_good_checkpoint(save_dir, good_until)
            report = None if self.folder is None else self.folder / "bad_batch.json"
            if report is not None:
                content: dict[str, Any] = {"update": update, "epoch": self.epoch, "reason": reason}
                content |= {"data": str(getattr(self.trainer.cfg.task, "data", "")), "batches": batches}
                content |= {"last_good_checkpoint": good and str(good[0]), "updates_of_it": good and good[1]}
                with suppress(OSError):  # the sentence must come, even if the disk is full
                    write_json(report, content)
            logger.error(sentence(update, self.epoch, reason, batches, report, good, save_dir))
            _flush()
        if together:  # a process that ends early takes the others with it, and rank 0 must have said why
            with suppress(RuntimeError):
                torch.distributed.barrier(group=self.trainer.data_parallel_process_group)
        sys.exit(1)

    def _batches(self) -> list[dict[str, Any]]:
        """This rank's batches of the last update. Waits for the device."""
        kept = self._losses[: len(self._samples)]  # fairseq runs the update again, to see where nan begins
        losses = [None if loss is None else float(torch.as_tensor(loss).sum()) for loss in kept]
        losses += [None] * (len(self._samples) - len(losses))
        rank = int(self.trainer.data_parallel_rank)
        return [
            {
                "rank": rank,
                "ids": ids_of(sample),
                "loss_is_finite": None if loss is None else math.isfinite(loss),
                "loss_sum": loss if loss is None or math.isfinite(loss) else str(loss),
            }
            for sample, loss in zip(self._samples, losses, strict=True)
        ]

    def _gather(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The batches of all ranks; of this one alone if another is gone."""
        gathered: list[Any] = [None] * self.trainer.data_parallel_world_size
        try:
            torch.distributed.all_gather_object(gathered, batches, group=self.trainer.data_parallel_process_group)
        except RuntimeError as error:
            logger.warning(f"the batches of the other ranks are not known: {error}")
            return batches
        return [batch for one in gathered for batch in one]


def _reason(error: BaseException | None) -> str | None:
    """What fairseq's error, or one that came up while it was handled, says; None if it is about something else."""
    while error is not None:
        text = str(error)
        if isinstance(error, FloatingPointError) and "Minimum loss scale reached" in text:
            return "the loss scale is at its minimum (--min-loss-scale), and the gradient still overflows"
        # On several GPUs, fairseq first compares the norms of all ranks, and NaN is not equal to itself.
        inconsistent = "inconsistent between workers" in text
        if isinstance(error, FloatingPointError) and (not inconsistent or "= nan" in text or "= inf" in text):
            return "the gradient is nan or infinite"
        error = error.__context__
    return None


def _vocab_size(task: Any) -> int | None:
    with suppress(NotImplementedError, AttributeError, TypeError):
        return len(task.target_dictionary)
    return None


def _saved_tensors(trainer: Trainer) -> Iterator[Tensor]:
    yield from trainer.get_model().parameters()
    states = getattr(getattr(trainer.optimizer, "optimizer", None), "state", {})
    for state in list(states.values()):
        yield from (value for value in state.values() if isinstance(value, Tensor))


def _all_finite(tensors: Iterator[Tensor]) -> bool:
    """Waits for each device once. A sum is finite only if all of it is, and takes far less time than isfinite."""
    sums: dict[torch.device, list[Tensor]] = {}
    kept = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    for tensor in kept:
        sums.setdefault(tensor.device, []).append(tensor.sum(dtype=torch.float32))
    if all(bool(torch.isfinite(torch.stack(each)).all()) for each in sums.values()):
        return True
    return all(bool(torch.isfinite(tensor).all()) for tensor in kept)  # or else only their sum was too large


def shorten_nan_detector() -> None:
    """Leave out of the log the norms and gradients of all parameters, which fairseq prints before such an end.

    They are hundreds of lines, mostly of nan. The module that was the first to compute nan stays in.
    """
    logging.getLogger("fairseq.nan_detector").addFilter(
        lambda record: not str(record.msg).startswith(("norms: ", "gradients: ", "Detected nan/inf grad norm, dumping"))
    )


def _flush() -> None:
    for handler in logging.getLogger().handlers:
        handler.flush()
