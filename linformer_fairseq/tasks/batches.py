"""Batches of blocks: their order, which of their tokens are masked, and fairseq's iterator over an epoch of them.

Nothing is as long as an epoch. Place i of an epoch's order holds block π(i), where π is a permutation computed from the
seed and the epoch (or block i, if nothing is shuffled). Batch j holds the places from j·B on and goes to rank j modulo
the number of ranks, so that no rank has more than one batch more than another. Nothing else decides what a batch holds:
it is the same with any number of workers, and the position in an epoch is the number of batches that each rank has had,
as in fairseq.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from fairseq.data import FairseqDataset
from fairseq.data.iterators import BufferedIterator, CountingIterator, EpochBatchIterator
from torch.utils.data import DataLoader

from linformer_fairseq.errors import UsageError
from linformer_fairseq.tasks.blocks import Blocks, Ints, TokenFile

Hashes: TypeAlias = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 8


def mix(values: Hashes) -> Hashes:
    """Each value's 64 bits spread over all 64 (the output function of SplitMix64); any shape but ()."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hashed(*parts: int | Ints) -> Hashes:
    """A random number for each combination of `parts`, whole numbers or arrays of them, which are broadcast."""
    state: Hashes = np.zeros(1, np.uint64)
    for part in parts:
        state = mix(state ^ mix(np.atleast_1d(np.asarray(part)).astype(np.uint64) + _GOLDEN))
    return state


def _fractions(hashes: Hashes) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), of 53 bits."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Permutation:
    """A random order of 0 … size - 1 that can be evaluated at single places, in constant time and memory.

    A Feistel network over pairs (a, b) with a·b just above `size`; results outside are sent through again until they
    are inside, which leaves a permutation.
    """

    def __init__(self, size: int, *key: int) -> None:
        """`size` is at least 1; each `key` gives an order of its own."""
        self.size = size
        self._rows = math.isqrt(size - 1) + 1
        self._columns = -(-size // self._rows)
        self._keys = [hashed(*key, number) for number in range(_ROUNDS)]

    def __call__(self, places: Ints) -> Ints:
        """What is at each of `places`; both of shape (P,)."""
        found = self._once(places)
        while len(outside := np.flatnonzero(found >= self.size)):
            found[outside] = self._once(found[outside])
        return found

    def _once(self, values: Ints) -> Ints:
        rows, columns = np.uint64(self._rows), np.uint64(self._columns)
        row, column = np.divmod(values.astype(np.uint64), columns)
        for number, key in enumerate(self._keys):
            if number % 2:
                column = (column + mix(row ^ key) % columns) % columns
            else:
                row = (row + mix(column ^ key) % rows) % rows
        return (row * columns + column).astype(np.int64)


@dataclass(frozen=True)
class Masking:
    """Which tokens of a batch are predicted, and what the model sees in their place, for all rows at once.

    As fairseq's MaskTokensDataset: a share of each row's tokens, rounded up or down at random, without replacement;
    most of them become <mask>, some a random token, some stay. Unlike there, special symbols are neither predicted nor
    drawn. The masks of a row depend only on seed, epoch and block, not on its batch.
    """

    probability: float  # that a token is predicted
    leave: float  # that a predicted token stays as it is
    random: float  # that a predicted token becomes another one
    special: int  # ids below this one are special symbols
    mask: int  # id of <mask>
    pad: int  # id of <pad>, the target where nothing is predicted
    symbols: int  # size of the vocabulary
    seed: int

    def __call__(self, tokens: Ints, numbers: Ints, epoch: int) -> tuple[Ints, Ints]:
        """The model's input and its targets, (B, N) each, for tokens (B, N) of the blocks `numbers` (B,)."""
        ordinary = (tokens >= self.special) & (tokens != self.mask)
        rows = hashed(self.seed, epoch, numbers)
        draws = mix(rows[:, None] + hashed(np.arange(tokens.shape[1])))
        # Of each row, the `count` tokens with the lowest draws.
        count = (self.probability * ordinary.sum(1) + _fractions(mix(rows))).astype(np.int64)
        draws32 = np.where(ordinary, (draws >> np.uint64(32)).astype(np.uint32), np.uint32(0xFFFFFFFF))
        highest = np.take_along_axis(np.sort(draws32, 1), np.maximum(count - 1, 0)[:, None], 1)
        chosen = ordinary & (draws32 <= highest) & (count > 0)[:, None]

        more = mix(draws[chosen])
        fraction = _fractions(more)
        seen = np.where(fraction < self.leave, tokens[chosen], self.mask)
        drawn = self.special + (mix(more) % np.uint64(self.symbols - self.special - 1)).astype(np.int64)
        drawn += drawn >= self.mask
        source = tokens.copy()
        source[chosen] = np.where(fraction >= 1 - self.random, drawn, seen)
        return source, np.where(chosen, tokens, self.pad)


class BlockDataset(FairseqDataset):
    """The blocks of a split."""

    def __init__(self, file: TokenFile, blocks: Blocks, masking: Masking, bos: int) -> None:
        super().__init__()
        self.file, self.blocks, self.masking, self.bos = file, blocks, masking, bos
        self.epoch = 1

    def __len__(self) -> int:
        return self.blocks.count

    def set_epoch(self, epoch: int, **unused: Any) -> None:
        """Sets the epoch whose masks the next iterator uses."""
        self.epoch = epoch

    def numbered(self, number: int, size: int, order: Permutation | None, epoch: int) -> dict[str, Any]:
        """Batch `number` of all ranks, of `size` blocks; the last one may have fewer, and those after it have none."""
        places = np.arange(number * size, min((number + 1) * size, len(self)))
        return self.batch(order(places) if order else places, epoch)

    def batch(self, numbers: Ints, epoch: int) -> dict[str, Any]:
        """The blocks of these numbers, masked as in this epoch, as fairseq's `masked_lm` makes a batch; {} without any.

        Rows are <s>, a block's tokens, and <pad>. A UsageError refuses a token that the dictionary does not have.
        """
        if not len(numbers):
            return {}
        starts, lengths = self.blocks.spans(numbers)
        tokens = np.pad(self.file.read(starts, lengths).astype(np.int64), ((0, 0), (1, 0)), constant_values=self.bos)
        if tokens.max() >= self.masking.symbols:
            raise UsageError(
                f"{self.file.prefix}.bin: token {tokens.max()} is not among the {self.masking.symbols} symbols of "
                "dict.txt; put the dictionary there that the data were binarised with"
            )
        tokens[np.arange(tokens.shape[1]) > lengths[:, None]] = self.masking.pad
        source, target = self.masking(tokens, numbers, epoch)
        return {
            "id": torch.from_numpy(numbers),
            "nsentences": len(source),
            "ntokens": int(lengths.sum()) + len(source),
            "net_input": {"src_tokens": torch.from_numpy(source), "src_lengths": torch.from_numpy(lengths + 1)},
            "target": torch.from_numpy(target),
        }


class BlockIterator(EpochBatchIterator):
    """fairseq's iterator over epochs, with its options and its state in checkpoints, for batches that are computed."""

    dataset: BlockDataset

    def __init__(self, dataset: BlockDataset, batch_size: int, **options: Any) -> None:
        super().__init__(dataset=dataset, collate_fn=None, batch_sampler=(), **options)
        self._batch_size = batch_size

    def __len__(self) -> int:
        """The same for all ranks: one that is a batch short gets an empty one."""
        batches: int = -(-len(self.dataset) // (self._batch_size * self.num_shards))
        return batches

    @property
    def first_batch(self) -> dict[str, Any]:
        """What a rank computes, and does not count, when it has no batch left."""
        return self.dataset.batch(np.arange(min(self._batch_size, len(self.dataset))), self.dataset.epoch)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes at a saved position."""
        self.dataset.set_epoch(state_dict["epoch"])
        super().load_state_dict(state_dict)

    def _get_iterator_for_epoch(
        self, epoch: int, shuffle: bool, fix_batches_to_gpus: bool = False, offset: int = 0
    ) -> CountingIterator | None:
        numbers: Any = range(self.shard_id, len(self) * self.num_shards, self.num_shards)[offset:]
        if not numbers:
            return None
        order = Permutation(len(self.dataset), self.seed, epoch) if shuffle else None
        batches: Any = DataLoader(
            numbers,
            batch_size=None,  # an item is a whole batch
            collate_fn=partial(self.dataset.numbered, size=self._batch_size, order=order, epoch=self.dataset.epoch),
            num_workers=self.num_workers,
            timeout=self.timeout,
            pin_memory=torch.cuda.is_available(),
        )
        if self.buffer_size > 0:
            batches = BufferedIterator(self.buffer_size, batches)
        counted = CountingIterator(batches, start=offset)
        return counted.take(len(counted) - 1) if self.skip_remainder_batch else counted
