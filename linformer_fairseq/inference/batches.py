"""Which sequences are computed together: those of about the same length, which need little padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Order = npt.NDArray[np.int64]


def like_length(lengths: Sequence[int], batch_tokens: int, overhead: int = 64) -> list[Order]:
    """Length-bucketed batches that cost least: neither much padding nor many small batches.

    The batch with most tokens comes first: if it does not fit into memory, it fails at once. The others come in a fixed
    random order, so that the remaining time can be estimated from those that are done.

    Args:
        lengths: of the sequences.
        batch_tokens: tokens in a batch at most, padding included; a longer sequence is a batch of its own.
        overhead: fixed cost of a batch, in tokens that could be computed meanwhile.

    Returns:
        The numbers of the sequences in each batch.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    # A stable sort gives the same batches on every machine, and so the same values to the bit.
    order = np.argsort(sizes, kind="stable")
    # Dynamic programming: the least cost of the first n sequences, and where their last batch starts.
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
    """Batches within the same limit, in the order of the sequences; for comparison."""
    batches, start, longest = [], 0, 0
    for position, size in enumerate(lengths):
        longest = max(longest, size)
        if position > start and (position - start + 1) * longest > batch_tokens:
            batches.append(np.arange(start, position))
            start, longest = position, size
    return [*batches, np.arange(start, len(lengths))] if len(lengths) else []
