"""Batches of blocks, and fairseq's iterator over an epoch of them in which nothing is as long as the epoch.

Place i of an epoch's order holds block π(i), π being a permutation that depends on the seed and the epoch (or, where
nothing is shuffled, block i). Batch j holds the places from j·B on, and goes to rank j modulo the number of ranks, so
that no rank has more than one batch more than another. Nothing else decides what a batch holds, so it is the same with
any number of workers, and a position in the epoch is the number of batches that each rank has had, as in fairseq.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from fairseq.data import FairseqDataset
from fairseq.data.iterators import BufferedIterator, CountingIterator, EpochBatchIterator
from torch.utils.data import DataLoader

from linformer_fairseq.errors import UsageError
from linformer_fairseq.tasks.blocks import Blocks
from linformer_fairseq.tasks.masking import Masking
from linformer_fairseq.tasks.permutation import Ints, Permutation
from linformer_fairseq.tasks.token_files import TokenFile


class Request(NamedTuple):
    """What a batch is to hold: the blocks of these numbers, masked as in this epoch."""

    numbers: Ints
    epoch: int


class BlockDataset(FairseqDataset):
    """The blocks of a split, asked for by the batch."""

    def __init__(self, file: TokenFile, blocks: Blocks, masking: Masking, bos: int) -> None:
        super().__init__()
        self.file, self.blocks, self.masking, self.bos = file, blocks, masking, bos
        self.epoch = 1

    def __len__(self) -> int:
        return self.blocks.count

    def set_epoch(self, epoch: int, **unused: Any) -> None:
        """The epoch whose masks an iterator that begins is to have."""
        self.epoch = epoch

    def __getitem__(self, request: Request) -> dict[str, Any]:
        """A batch as fairseq's `masked_lm` makes it, or {} for none: B rows of <s>, a block's tokens, and <pad>.

        Raises:
            UsageError: a token that the dictionary does not have.
        """
        if not len(request.numbers):
            return {}
        starts, lengths = self.blocks.spans(request.numbers)
        read = self.file.read(starts, lengths)
        tokens = np.empty((len(read), read.shape[1] + 1), np.int64)
        tokens[:, 0], tokens[:, 1:] = self.bos, read
        if tokens.max() >= self.masking.symbols:
            raise UsageError(
                f"{self.file.prefix}.bin: token {tokens.max()} is not among the {self.masking.symbols} symbols of "
                "dict.txt; put the dictionary there that the data were binarised with"
            )
        if lengths.min() < read.shape[1]:
            tokens[np.arange(tokens.shape[1]) > lengths[:, None]] = self.masking.pad
        source, target = self.masking(tokens, request.numbers, request.epoch)
        return {
            "id": torch.from_numpy(request.numbers),
            "nsentences": len(source),
            "ntokens": int(lengths.sum()) + len(source),
            "net_input": {"src_tokens": torch.from_numpy(source), "src_lengths": torch.from_numpy(lengths + 1)},
            "target": torch.from_numpy(target),
        }


@dataclass
class Requests:
    """One rank's batches of an epoch, from its batch `offset` on; DataLoader takes it for a sampler."""

    count: int  # blocks
    batch_size: int
    ranks: int
    rank: int
    epoch: int  # of the masks
    offset: int = 0
    order: Permutation | None = None

    def __len__(self) -> int:
        """Batches, the same for all ranks: one that is a batch short gets an empty one."""
        return -(-self.count // (self.batch_size * self.ranks)) - self.offset

    def __iter__(self) -> Iterator[Request]:
        for turn in range(self.offset, self.offset + len(self)):
            first = (turn * self.ranks + self.rank) * self.batch_size
            places = np.arange(first, min(first + self.batch_size, self.count))
            yield Request(self.order(places) if self.order else places, self.epoch)


class BlockIterator(EpochBatchIterator):
    """fairseq's iterator over epochs, with its state in checkpoints, for batches that are computed."""

    dataset: BlockDataset

    def __init__(self, dataset: BlockDataset, batch_size: int, **options: Any) -> None:
        """`options` are those of fairseq's EpochBatchIterator."""
        super().__init__(dataset=dataset, collate_fn=None, batch_sampler=(), **options)
        self._batch_size = batch_size

    def _requests(self) -> Requests:
        return Requests(len(self.dataset), self._batch_size, self.num_shards, self.shard_id, self.dataset.epoch)

    def __len__(self) -> int:
        return len(self._requests())

    @property
    def first_batch(self) -> dict[str, Any]:
        """What a rank computes, and does not count, when it has no batch left."""
        return self.dataset[Request(np.arange(min(self._batch_size, len(self.dataset))), self.dataset.epoch)]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at a saved position."""
        self.dataset.set_epoch(state_dict["epoch"])
        super().load_state_dict(state_dict)

    def _get_iterator_for_epoch(
        self, epoch: int, shuffle: bool, fix_batches_to_gpus: bool = False, offset: int = 0
    ) -> CountingIterator | None:
        requests = self._requests()
        if offset >= len(requests):
            return None
        requests.offset = offset
        if shuffle:
            requests.order = Permutation(len(self.dataset), self.seed, epoch)
        loader: Any = DataLoader  # typed for batches that are lists of examples
        batches = loader(
            self.dataset,
            sampler=requests,
            batch_size=None,  # a request is a whole batch
            collate_fn=_as_it_is,
            num_workers=self.num_workers,
            timeout=self.timeout,
            pin_memory=torch.cuda.is_available(),
        )
        if self.buffer_size > 0:
            batches = BufferedIterator(self.buffer_size, batches)
        counted = CountingIterator(batches, start=offset)
        return counted.take(len(counted) - 1) if self.skip_remainder_batch else counted


def _as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    return batch
