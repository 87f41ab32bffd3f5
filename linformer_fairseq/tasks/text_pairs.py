"""The task `text_pairs`: rows of two or more texts that a criterion compares, each encoded by itself.

DATA has dict.txt and, for each column of a table, a folder of binarised texts: text0 has queries, text1 their passages,
others hard negatives. Which rows of the training data share a batch is drawn anew for every epoch, from seed and epoch.
All processes have as many batches, as they compare their vectors.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fairseq.data import FairseqDataset, data_utils
from fairseq.distributed.utils import get_data_parallel_world_size
from fairseq.tasks import register_task
from fairseq.tasks.masked_lm import MaskedLMConfig, MaskedLMTask
from torch import Tensor

from linformer_fairseq.errors import UsageError


class RowsOfTexts(FairseqDataset):
    """Rows of as many texts as there are `columns`; without a `seed`, in their order."""

    def __init__(self, columns: Sequence[Any], pad: int, seed: int | None) -> None:
        self.columns, self.pad, self.seed, self.epoch = columns, pad, seed, 1
        self.sizes = np.maximum.reduce([column.sizes for column in columns])

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> list[Tensor]:
        return [column[index] for column in self.columns]

    def num_tokens(self, index: int) -> int:
        return int(self.sizes[index])

    size = num_tokens

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        return self.seed is None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def ordered_indices(self) -> npt.NDArray[np.int64]:
        rows = np.arange(len(self))
        return rows if self.seed is None else np.random.default_rng((self.seed, self.epoch)).permutation(rows)

    def batch_by_size(self, indices: Sequence[int], **limits: Any) -> list[Any]:
        """As fairseq, then with the largest batches halved until every process has as many; UsageError for too few."""
        batches = list(super().batch_by_size(indices, **limits))
        processes = get_data_parallel_world_size()
        if len(indices) < processes:
            found = f"DATA has {len(indices)} rows for {processes} processes"
            raise UsageError(f"{found}; use more rows or fewer processes")
        for _ in range(-len(batches) % processes):
            largest = max(range(len(batches)), key=lambda number: len(batches[number]))
            batches[largest : largest + 1] = np.array_split(batches[largest], 2)
        return batches

    def collater(self, samples: list[list[Tensor]]) -> dict[str, Any]:
        """A batch of B rows: the tokens (columns x B, N) of the first column, then of the second, …"""
        texts = [text for column in zip(*samples, strict=True) for text in column]
        tokens = {"src_tokens": data_utils.collate_tokens(texts, self.pad)}
        return {"nsentences": len(samples), "ntokens": sum(map(len, texts)), "net_input": tokens}


@register_task("text_pairs", dataclass=MaskedLMConfig)
class TextPairsTask(MaskedLMTask):
    """Dictionary and inference are those of `masked_lm`, of whose settings data, seed and tokens_per_sample count."""

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        """Opens a split; UsageError if it is missing."""
        folders = sorted(Path(self.cfg.data).glob("text[0-9]*"), key=lambda folder: int(folder.name[4:]))
        columns = [data_utils.load_indexed_dataset(str(folder / split), self.dictionary) for folder in folders]
        if len(columns) < 2 or None in columns[:2]:
            raise UsageError(f"DATA {self.cfg.data}: has no text0/{split} and text1/{split} .idx and .bin")
        seed = self.cfg.seed if split == "train" else None
        self.datasets[split] = RowsOfTexts([*filter(None, columns)], self.dictionary.pad(), seed)
