"""Which sequences are computed together: those of like length, so that few pads are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Order = npt.NDArray[np.int64]


def like_length(lengths: Sequence[int], batch_tokens: int) -> list[Order]:
    """Batches of sequences of like length; the sequences in them are in order of length.

    The batch that takes most memory comes first, so that one that does not fit fails at once. The others are in a mixed
    order, always the same: a progress bar would go fast with short sequences and slowly with long ones otherwise.

    Args:
        lengths: of the sequences.
        batch_tokens: most tokens in one batch, pads counted; a longer sequence is a batch of its own.

    Returns:
        The numbers of the sequences in each batch; every one is in one batch.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    # A stable order: the same batches whatever else the machine does, and so the same values to the bit.
    batches = _cut(np.argsort(sizes, kind="stable"), sizes, batch_tokens)
    mixed = np.random.default_rng(0).permutation(len(batches))
    largest = max(range(len(batches)), key=lambda i: len(batches[i]) * int(sizes[batches[i]].max()), default=0)
    return [batches[i] for i in sorted(mixed, key=lambda i: i != largest)]


def as_they_come(lengths: Sequence[int], batch_tokens: int) -> list[Order]:
    """The same limit, but in the order of the sequences, to compare with."""
    return _cut(np.arange(len(lengths)), np.asarray(lengths, dtype=np.int64), batch_tokens)


def _cut(order: Order, sizes: Order, batch_tokens: int) -> list[Order]:
    batches, start, longest = [], 0, 0
    for position, sequence in enumerate(order):
        longer = max(longest, int(sizes[sequence]))
        if position > start and (position - start + 1) * longer > batch_tokens:
            batches.append(order[start:position])
            start, longer = position, int(sizes[sequence])
        longest = longer
    return [*batches, order[start:]] if len(order) else []
