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
    """The highest ratio of perplexities that a run may reach; None if it may reach any.

    Raises:
        UsageError: the variable is not a number above 1, nor 0.
    """
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

    Between the logs it only keeps what the last update was made of. The losses of single batches, which fairseq sums
    up, stay on the device until they are needed. `folder` is `run` of this run, None with `--no-save`.
    """

    def __init__(self, trainer: Any, folder: Path | None) -> None:
        self.trainer = trainer
        self.folder = folder
        self.epoch: int | None = None
        self._samples: Sequence[Any] = ()
        self._losses: list[Any] = []
        ratio = ratio_setting(os.environ)
        vocab_size = None
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
        """End this process with status 1, and with it the run; unless `alone`, all ranks do at the same update.

        Args:
            update: at which it was found.
            reason: completes "the training run has diverged: ".
            good_until: the last update whose checkpoint can be trusted.
            alone: the batches of the other ranks are not known, and they are not waited for.
        """
        trainer = self.trainer
        together = not alone and trainer.data_parallel_world_size > 1
        batches = self._gather(list(self._batches())) if together else list(self._batches())
        if trainer.data_parallel_rank == 0:
            with suppress(Exception):  # an earlier save that failed has been reported, or will be
                saving.finish()
            save_dir = Path(trainer.cfg.checkpoint.save_dir)
            good = last_good_checkpoint(save_dir, good_until)
            culprits = _culprits(batches)
            if self.folder is not None:
                report = self.folder / "bad_batch.json"
                culprits += f" (all ids: {report})"
                content: dict[str, Any] = {"update": update, "epoch": self.epoch, "reason": reason}
                content |= {"data": str(getattr(trainer.cfg.task, "data", "")), "batches": batches}
                content |= {"last_good_checkpoint": good and str(good[0]), "updates_of_it": good and good[1]}
                with suppress(OSError):  # the message must come, even if the disk is full
                    write_json(report, content)
            where = f"update {update}" + ("" if self.epoch is None else f" (epoch {self.epoch})")
            begin = "start" if good is None else f"resume from the last good checkpoint, {good[0]} (update {good[1]}),"
            none = f" ({save_dir} has no good checkpoint from before)" if good is None else ""
            logger.error(
                f"the training run has diverged and stops at {where}: {reason}; {culprits}: check these examples, or "
                f"{begin} with a lower --lr or a stricter --clip-norm{none}"
            )
            for handler in logging.getLogger().handlers:
                handler.flush()
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
        if isinstance(error, FloatingPointError) and "Minimum loss scale reached" in text:
            return "the loss scale is at its minimum (--min-loss-scale), and the gradient still overflows"
        # On several GPUs, fairseq first compares the norms of all ranks, and NaN is not equal to itself.
        inconsistent = "inconsistent between workers" in text
        if isinstance(error, FloatingPointError) and (not inconsistent or "= nan" in text or "= inf" in text):
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
    """The newest checkpoint of a folder that was saved at update `until` or before, is whole and finite; its updates.

    Of copies with the same updates, a numbered one comes before `checkpoint_best.pt` and `checkpoint_last.pt`, which a
    later save replaces.
    """
    found: list[tuple[int, bool, Path]] = []
    for path in save_dir.glob("checkpoint*.pt"):
        updates = files.updates_of(path)
        if 0 <= updates <= until:
            found.append((updates, path.name not in ("checkpoint_last.pt", "checkpoint_best.pt"), path))
    for updates, _, path in sorted(found, reverse=True):
        if files.damage(path) is None and _all_finite(files.unread(path).get("model", {}).values()):
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


def shorten_nan_detector() -> None:
    """Keep the norms and gradients of all parameters, hundreds of lines of nan that fairseq prints, out of the log.

    The module that was the first to compute nan stays in.
    """
    logging.getLogger("fairseq.nan_detector").addFilter(
        lambda record: not str(record.msg).startswith(("norms: ", "gradients: ", "Detected nan/inf grad norm, dumping"))
    )
