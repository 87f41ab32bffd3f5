"""Ending a training run that has diverged: with the examples and the checkpoint to resume from, and exit status 1.

A run has diverged if its loss, gradient or parameters are not finite, or if its perplexity has risen and stays high. Of
the losses of the last 40 log intervals, the median is compared with the lowest such median since this start; the run
stops if that means a perplexity more than 3 times as high. That takes 20 such log intervals, so neither a shorter spike
nor the scattered losses of small batches stop a run. While there are only 10 to 40 intervals, the median is compared
with a uniform guess over the vocabulary: a model 3 times worse than that after 10 intervals will not learn.

The environment variable LINFORMER_MAX_PERPLEXITY_RATIO replaces the 3; with 0, no perplexity stops a run.
"""

import logging
import math
import os
import statistics
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

import torch
from fairseq.logging import metrics
from torch import Tensor

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import write_json
from linformer_fairseq.training import files, saving

logger = logging.getLogger(__name__)

VARIABLE = "LINFORMER_MAX_PERPLEXITY_RATIO"
WINDOW, FEWEST = 40, 10  # log intervals
_SHOWN = 8  # examples that the message names; the file has all


def ratio_setting(environ: Mapping[str, str]) -> float | None:
    """The highest ratio of perplexities that a run may reach, None for any; UsageError unless it is above 1, or 0."""
    text = environ.get(VARIABLE, "3")
    with suppress(ValueError):
        ratio = float(text)
        if ratio == 0 or ratio > 1:
            return ratio or None
    raise UsageError(
        f"{VARIABLE} is {text!r}: give how many times the lowest perplexity of a run may be exceeded before it stops, "
        "a number above 1, or 0 to let it continue at any perplexity"
    )


class PerplexityRule:
    """The rule above, for perplexities up to `ratio` times the lowest; `vocab_size` is None if it is not known."""

    def __init__(self, ratio: float, vocab_size: int | None) -> None:
        self.ratio = ratio
        self._lowest = math.inf if vocab_size is None else math.log2(vocab_size)
        self._at: int | None = None
        self._last: deque[tuple[int, float]] = deque(maxlen=WINDOW)

    def broken_by(self, update: int, loss: float) -> str | None:
        """Add the mean loss, in bits, of a log interval that ends at `update`; returns why the run should stop."""
        self._last.append((update, loss))
        if len(self._last) < FEWEST:
            return None
        median = statistics.median(loss for _, loss in self._last)
        if median > self._lowest + math.log2(self.ratio):
            lowest = "a uniform guess" if self._at is None else f"the lowest so far, at update {self._at}"
            return (
                f"its perplexity over the last {len(self._last)} log intervals is {_perplexity(median)}, more than "
                f"{self.ratio:g} times the {_perplexity(self._lowest)} of {lowest}"
            )
        if median < self._lowest and len(self._last) == WINDOW:
            self._lowest, self._at = median, update
        return None

    def last_good_update(self) -> int:
        """The end of the last log interval that was below the limit; 0 if none of those kept was."""
        limit = self._lowest + math.log2(self.ratio)
        return max((update for update, loss in self._last if loss <= limit), default=0)


def _perplexity(bits: float) -> str:
    return f"{2**bits:,.4g}" if bits < 60 else f"2^{bits:.0f}"


class Watch:
    """Judges what fairseq has brought from the device anyway; every rank has one, and all of them stop together.

    Losses of single batches stay on the device until they are needed. `folder` is `run`, or None with `--no-save`.
    """

    def __init__(self, trainer: Any, folder: Path | None) -> None:
        logging.getLogger("fairseq.nan_detector").addFilter(_is_short)
        self.trainer, self.folder = trainer, folder
        self.epoch: int | None = None
        self._samples: Sequence[Any] = ()
        self._losses: list[Any] = []
        ratio, vocab_size = ratio_setting(os.environ), None
        with suppress(NotImplementedError, AttributeError, TypeError):  # not every task has one
            vocab_size = len(trainer.task.target_dictionary)
        self._rule = None if ratio is None else PerplexityRule(ratio, vocab_size)
        fairseq_train_step = trainer.task.train_step

        @wraps(fairseq_train_step)
        def train_step(*arguments: Any, **named: Any) -> Any:
            result = fairseq_train_step(*arguments, **named)
            with suppress(AttributeError, IndexError, TypeError):  # another task's result may have another form
                self._losses.append(result[2].get("loss"))
            return result

        trainer.task.train_step = train_step

    def before_update(self, samples: Sequence[Any]) -> None:
        """Keep the batches of this rank, one for each of --update-freq."""
        self._samples, self._losses = samples, []

    def gradient_failed(self, error: BaseException) -> None:
        """Stop where fairseq has found a gradient that is not finite; it has not changed the parameters then."""
        if reason := _reason(error):
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
            self.stop(update, f"{reason} ({VARIABLE}=0 lets it continue)", good_until=self._rule.last_good_update())

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
        optimizer = getattr(self.trainer.optimizer, "optimizer", None)
        states = [value for state in getattr(optimizer, "state", {}).values() for value in state.values()]
        tensors = [*self.trainer.get_model().parameters(), *states]
        if self.trainer.should_save_checkpoint_on_current_rank and not _all_finite(tensors):
            update = int(self.trainer.get_num_updates())
            reason = "its parameters or the state of its optimizer are not finite any more, so they were not saved"
            self.stop(update, reason, good_until=update - 1, alone=True)

    def stop(self, update: int, reason: str, good_until: int, alone: bool = False) -> NoReturn:
        """End this process with status 1, and with it the run, for a `reason` found at an update.

        Checkpoints until the update `good_until` can be trusted. Unless this rank is `alone`, all ranks stop at the
        same update, and the batches of all are named.
        """
        trainer = self.trainer
        together = not alone and trainer.data_parallel_world_size > 1
        batches = list(self._batches())
        if together:
            batches = self._gather(batches)
        if trainer.data_parallel_rank == 0:
            with suppress(Exception):  # an earlier save that failed has been reported, or will be
                saving.finish()
            save_dir = Path(trainer.cfg.checkpoint.save_dir)
            good, good_update = last_good_checkpoint(save_dir, good_until) or (None, None)
            culprits = _culprits(batches)
            if self.folder is not None:
                report = self.folder / "bad_batch.json"
                culprits += f" (all ids: {report})"
                content: dict[str, Any] = {"update": update, "epoch": self.epoch, "reason": reason}
                content |= {"data": str(getattr(trainer.cfg.task, "data", "")), "batches": batches}
                content |= {"last_good_checkpoint": good and str(good), "updates_of_it": good_update}
                with suppress(OSError):  # the message must come, even if the disk is full
                    write_json(report, content)
            where = f"update {update}" + ("" if self.epoch is None else f" (epoch {self.epoch})")
            begin = "start" if good is None else f"resume from the last good checkpoint, {good} (update {good_update}),"
            none = f" ({save_dir} has no good checkpoint from before)" if good is None else ""
            logger.error(
                f"the training run has diverged and stops at {where}: {reason}; {culprits}: check these examples, or "
                f"{begin} with a lower --lr or a stricter --clip-norm{none}"
            )
        if together:  # a process that ends early takes the others with it, and rank 0 must have said why
            with suppress(RuntimeError):
                torch.distributed.barrier(group=trainer.data_parallel_process_group)
        sys.exit(1)

    def _batches(self) -> Iterator[dict[str, Any]]:
        """This rank's batches of the last update. Waits for the device."""
        rank = int(self.trainer.data_parallel_rank)
        for sample, loss in zip_longest(self._samples, self._losses[: len(self._samples)]):
            total = None if loss is None else float(torch.as_tensor(loss).sum())
            finite = None if total is None else math.isfinite(total)
            total_or_text = str(total) if finite is False else total  # JSON has no nan
            yield {"rank": rank, "ids": _ids(sample), "loss_is_finite": finite, "loss_sum": total_or_text}

    def _gather(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The batches of all ranks; of this one alone if another is gone."""
        gathered: list[Any] = [None] * self.trainer.data_parallel_world_size
        try:
            torch.distributed.all_gather_object(gathered, batches, group=self.trainer.data_parallel_process_group)
        except RuntimeError as error:
            logger.warning(f"the batches of the other ranks are not known: {error}")
            return batches
        return [batch for of_rank in gathered for batch in of_rank]


def _reason(error: BaseException | None) -> str | None:
    """What fairseq's error, or one that it was raised in the handling of, says; None if it is about something else."""
    while error is not None:
        text = str(error)
        if isinstance(error, FloatingPointError):
            if "Minimum loss scale reached" in text:
                return "the loss scale is at its minimum (--min-loss-scale), and the gradient still overflows"
            # On several GPUs, fairseq first compares the norms of all ranks, and NaN is not equal to itself.
            if "inconsistent between workers" not in text or "= nan" in text or "= inf" in text:
                return "the gradient is nan or infinite"
        error = error.__context__
    return None


def _culprits(batches: Sequence[Mapping[str, Any]]) -> str:
    """Which batches of the update to check."""
    bad = [batch for batch in batches if batch["loss_is_finite"] is False]
    named = [f"{_list(batch['ids'])} on rank {batch['rank']}" for batch in (bad or batches)[:3]]
    more = len(bad or batches) - len(named)
    examples = "of the examples " + ", ".join(named) + (f" and in {more} more batches" if more else "")
    return f"the loss {examples} is not finite" if bad else f"that update was made {examples}"


def _list(ids: Sequence[int] | None) -> str:
    if ids is None:
        return "without ids"
    return ", ".join(map(str, ids[:_SHOWN])) + (f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else "")


def _ids(sample: Any) -> list[int] | None:
    """The positions of a batch's examples in the data set; [] where a rank had no batch left, None if not known."""
    if not sample:
        return []
    ids = sample.get("id") if isinstance(sample, Mapping) else None
    return [int(number) for number in ids.flatten().tolist()] if isinstance(ids, Tensor) else None


def last_good_checkpoint(save_dir: Path, until: int) -> tuple[Path, int] | None:
    """The newest checkpoint of a folder until update `until` that is whole and finite, and its updates."""
    for path, updates in files.newest_first(save_dir):
        if 0 <= updates <= until and files.damage(path) is None:
            if _all_finite(files.unread(path).get("model", {}).values()):
                return path, updates
    return None


def _all_finite(values: Iterable[Any]) -> bool:
    """Waits for each device once. A sum is finite only if all of it is, and takes far less time than isfinite."""
    tensors = [value.detach() for value in values if isinstance(value, Tensor) and value.is_floating_point()]
    sums: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        sums.setdefault(tensor.device, []).append(tensor.sum(dtype=torch.float32))
    if all(bool(torch.isfinite(torch.stack(each)).all()) for each in sums.values()):
        return True
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)  # or else only their sum was too large


def _is_short(record: logging.LogRecord) -> bool:
    """Not one of the norms and gradients of all parameters; the first module that has computed nan stays in the log."""
    return not str(record.msg).startswith(("norms: ", "gradients: ", "Detected nan/inf grad norm, dumping"))
