"""Which examples a training has diverged at, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

_SHOWN = 8  # examples that the sentence names; the file has all


def sentence(
    update: int,
    epoch: int | None,
    reason: str,
    batches: Sequence[Mapping[str, Any]],
    report: Path | None,
    good: tuple[Path, int] | None,
    save_dir: Path,
) -> str:
    """What rank 0 says at the end.

    Args:
        update: at which it was found; of `epoch`, if that is known.
        reason: in words, without a full stop.
        batches: of the update: each with `rank`, `ids` and `loss_is_finite` (None if not known).
        report: the file that has all ids, if there is one.
        good: the checkpoint to go on from, and its updates.
        save_dir: where the checkpoints are.
    """
    where = f"update {update}" + ("" if epoch is None else f" (epoch {epoch})")
    start = "start" if good is None else f"go on from the last good checkpoint, {good[0]} (update {good[1]}),"
    return (
        f"the training has diverged and stops at {where}: {reason}; {_culprits(batches, report)}: look at these "
        f"examples, or {start} with a lower --lr or a stricter --clip-norm"
        + (f" ({save_dir} has no good checkpoint from before)" if good is None else "")
    )


def _culprits(batches: Sequence[Mapping[str, Any]], report: Path | None) -> str:
    """Which batches of the update to look at."""
    bad = [batch for batch in batches if batch["loss_is_finite"] is False]
    named = [f"{_list(batch['ids'])} on rank {batch['rank']}" for batch in (bad or batches)[:3]]
    more = len(bad or batches) - len(named)
    examples = "of the examples " + ", ".join(named) + (f" and in {more} more batches" if more else "")
    text = f"the loss {examples} is not finite" if bad else f"that update was made {examples}"
    return text + ("" if report is None else f" (all ids: {report})")


def _list(ids: Sequence[int] | None) -> str:
    if ids is None:
        return "without ids"
    return ", ".join(map(str, ids[:_SHOWN])) + (f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else "")


def ids_of(sample: Any) -> list[int] | None:
    """The positions of a batch's examples in the data set; [] where a rank had no batch left, None if not known."""
    if not sample:
        return []
    ids = sample.get("id") if isinstance(sample, Mapping) else None
    return [int(number) for number in ids.flatten().tolist()] if isinstance(ids, Tensor) else None
