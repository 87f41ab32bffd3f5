"""Texts to the model's input, <s> A </s> or <s> A </s></s> B </s>, and to batches of sequences of similar length."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep import encoders
from linformer_fairseq.checkpoints.checkpoint import Checkpoint, encoder_config
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import digest

BOS, EOS = 0, 2
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sequences:
    """Tokenised rows."""

    ids: list[Ids]  # of each sequence, special symbols included
    owners: Ids  # (sequences,) the row that each belongs to, ascending; with `chunks`, a row may have several
    longer: int  # number of rows that are longer than the model reads


def tokenizer_of(checkpoint: Checkpoint, data: Path | None) -> encoders.Encoder:
    """The tokenizer in `data`, by default the one that the checkpoint was trained with.

    UsageError if there is none, or it is not the checkpoint's.
    """
    folder = data or checkpoint.data
    try:
        encoder = encoders.load(folder)
    except UsageError as error:
        raise UsageError(f"{error}; --data names the folder that the checkpoint was pretrained on") from error
    size = encoder_config(checkpoint).vocab_size
    if encoder.symbols != size:
        found = f"its dictionary has {encoder.symbols} symbols and the checkpoint {size}"
        raise UsageError(f"{folder}: {found}; --data must name the folder that the checkpoint was pretrained on")
    for note in checkpoint.notes:
        if note.get("dictionary", own := dictionary_digest(folder)) != own:
            raise UsageError(f"{folder}: dict.txt is not the one of the fine-tuning; --data must name its folder")
    return encoder


def dictionary_digest(tokenizer: Path) -> str:
    """SHA-256 of a tokenizer folder's dictionary."""
    return digest(tokenizer / "dict.txt")


def encode(texts: Sequence[tuple[str, ...]], encoder: encoders.Encoder, longest: int, keep: str = "head") -> Sequences:
    """Tokenise rows, all of one text or all of two, for a model that reads `longest` tokens.

    `keep` is what is read of longer rows: `head`; `head-tail`, a quarter from the beginning and the rest from the end
    (Sun et al. 2019 take 128 and 382 of 510 tokens); or `chunks`, all of it, as sequences of equal length, which two
    texts cannot have (UsageError). Of two texts, the longer one is shortened first.
    """
    if keep == "chunks" and texts and len(texts[0]) > 1:
        raise UsageError("--keep chunks is for one text a row; with two, choose head or head-tail")
    columns = []
    for column in zip(*texts, strict=True):
        together, lengths = encoder.encode(list(column))
        columns.append(np.split(together.astype(np.int64), np.cumsum(lengths)[:-1]))
    return arrange(list(zip(*columns, strict=True)), longest, keep)


def arrange(rows: Sequence[tuple[Ids, ...]], longest: int, keep: str = "head") -> Sequences:
    """The same of rows that are tokenised."""
    ids: list[Ids] = []
    owners: list[int] = []
    longer = 0
    for number, row in enumerate(rows):
        room = longest - 2 * len(row)
        kept = fit([len(text) for text in row], room)
        too_long = sum(kept) < sum(map(len, row))
        longer += too_long
        if too_long and keep == "chunks":
            sequences = [[chunk] for chunk in np.array_split(row[0], -(-len(row[0]) // room))]
        else:
            sequences = [[_shorten(text, length, keep) for text, length in zip(row, kept, strict=True)]]
        for sequence in sequences:
            parts = [part for text in sequence for part in ([EOS], text, [EOS])]
            ids.append(np.concatenate(parts).astype(np.int64))
            ids[-1][0] = BOS
        owners += [number] * len(sequences)
    return Sequences(ids, np.array(owners, dtype=np.int64), longer)


def fit(lengths: Sequence[int], room: int) -> list[int]:
    """The lengths of one or two texts, of which the longer one is shortened first, so that both fit into `room`."""
    if sum(lengths) <= room:
        return list(lengths)
    if len(lengths) == 1:
        return [room]
    first = min(lengths[0], max(room // 2, room - lengths[1]))
    return [first, room - first]


def _shorten(ids: Ids, length: int, keep: str) -> Ids:
    head = length // 4 if keep == "head-tail" and length < len(ids) else length
    return np.concatenate([ids[:head], ids[len(ids) - (length - head) :]])


def like_length(lengths: Sequence[int], batch_tokens: int, overhead: int = 64) -> list[Ids]:
    """The numbers of the sequences in each of the length-bucketed batches that cost least.

    A batch has at most `batch_tokens`, padding included, unless one sequence is longer, and costs its tokens and
    `overhead`. That with most tokens comes first: if it does not fit into memory, it fails at once. The others are in a
    fixed random order, so that the remaining time can be estimated.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    # A stable sort gives the same batches on every machine, and so the same values to the bit.
    order = np.argsort(sizes, kind="stable")
    # Dynamic programming: the least cost of the first n sequences, and where their last batch starts.
    cost, starts = np.zeros((2, len(order) + 1), dtype=np.int64)
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
