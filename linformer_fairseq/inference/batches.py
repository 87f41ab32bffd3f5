"""Which sequences are computed together: those of like length, so that few pads are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Order = npt.NDArray[np.int64]


def like_length(lengths: Sequence[int], batch_tokens: int, overhead: int = 64) -> list[Order]:
    """The cheapest batches of sequences in order of length: neither many pads nor many small batches.

    The batch with most tokens comes first, so that one that does not fit into memory fails at once. The others are in a
    mixed order, always the same: a progress bar would go fast with short sequences and slowly with long ones otherwise.

    Args:
        lengths: of the sequences.
        batch_tokens: most tokens in one batch, pads counted; a longer sequence is a batch of its own.
        overhead: what a batch costs by itself, as tokens that could be computed meanwhile.

    Returns:
        The numbers of the sequences in each batch; every one is in one batch.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    # A stable order: the same batches whatever else the machine does, and so the same values to the bit.
    order = np.argsort(sizes, kind="stable")
    # Dynamic programming: the least cost of the first so many sequences, and where their last batch starts.
    cost, starts = np.zeros(len(order) + 1, dtype=np.int64), np.zeros(len(order) + 1, dtype=np.int64)
    for end in range(1, len(order) + 1):
        longest = sizes[order[end - 1]]
        first = max(0, end - max(1, batch_tokens // int(longest)))
        costs = cost[first:end] + overhead + np.arange(end - first, 0, -1) * longest
        best = int(costs.argmin())
        cost[end], starts[end] = costs[best], first + best
    batches, end = [], len(order)
    while end:
        batches.append(order[starts[end] : end])
        end = int(starts[end])
    mixed = np.random.default_rng(0).permutation(len(batches))
    largest = max(range(len(batches)), key=lambda i: len(batches[i]) * int(sizes[batches[i]].max()), default=0)
    return [batches[i] for i in sorted(mixed, key=lambda i: i != largest)]


def as_they_come(lengths: Sequence[int], batch_tokens: int, overhead: int = 0) -> list[Order]:
    """The same limit in the order of the sequences, whatever pads that takes; to compare with."""
    batches, start, longest = [], 0, 0
    for position, size in enumerate(lengths):
        longest = max(longest, size)
        if position > start and (position - start + 1) * longest > batch_tokens:
            batches.append(np.arange(start, position))
            start, longest = position, size
    return [*batches, np.arange(start, len(lengths))] if len(lengths) else []
