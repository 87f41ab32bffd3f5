"""A look at what has been made: random documents of a corpus, or random blocks of binarised data, decoded."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import numpy as np

from data_prep import encoders
from data_prep.corpus import Document, corpus_files, read_file
from data_prep.fairseq_dict import EOS, MADE_UP, UNK
from linformer_fairseq.errors import UsageError

PERCENTILES = (1, 10, 50, 90, 99)
SHOWN = 600  # characters
# Documents or items that are read for the figures: enough for two digits, and quick on any corpus.
READ = 200_000


def inspect(folder: Path, samples: int, seed: int) -> None:
    """Prints samples and figures.

    Args:
        folder: of a run, a corpus, or binarised data.
        samples: how many to show.
        seed: chooses them.
    """
    data = [path.parent for path in sorted([*folder.glob("*.idx"), *folder.glob("shard*/*.idx")])]
    if data:
        for prefix in sorted({path.with_suffix("") for part in dict.fromkeys(data) for path in part.glob("*.idx")}):
            inspect_data(prefix, samples, seed)
    elif any(folder.glob("*.parquet")):
        inspect_corpus(folder, samples, seed)
    elif (folder / "data").is_dir() and (folder / "split" / "train").is_dir():
        inspect_corpus(folder / "split" / "train", samples, seed)
        inspect(folder / "data", samples, seed)
    elif (folder / "train").is_dir():
        inspect_corpus(folder / "train", samples, seed)
    else:
        raise UsageError(f"{folder}: neither a corpus (.parquet) nor fairseq's data (.idx) here")


def inspect_corpus(folder: Path, samples: int, seed: int) -> None:
    """Random documents and the lengths of a corpus."""
    choose = random.Random(seed)
    files = corpus_files(folder)
    choose.shuffle(files)
    lengths: list[int] = []
    kept: list[Document] = []
    for number, document in enumerate(islice((d for path in files for d in read_file(path)), READ)):
        lengths.append(len(document.text))
        # A sample of fixed size from a stream whose length is not known (reservoir sampling).
        place = number if number < samples else choose.randrange(number + 1)
        if place < samples:
            kept[place : place + 1] = [document]
    print(f"\n{folder}: {len(lengths):,} documents read, {sum(lengths):,} characters")
    print(f"  characters per document: {percentiles(lengths)}")
    for document in kept:
        print(f"\n  [{document.source} {document.id}] {document.title}\n{_shown(document.text)}")


def inspect_data(prefix: Path, samples: int, seed: int) -> None:
    """Random blocks, the coverage of the vocabulary and the lengths of one .bin/.idx."""
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    encoder = encoders.load(prefix.parent)
    dataset = MMapIndexedDataset(str(prefix))
    sizes = np.asarray(dataset.sizes)
    ends = np.flatnonzero(sizes == 1)
    documents = np.diff(np.concatenate([[0], np.cumsum(sizes)[ends]]))
    counts = np.zeros(encoder.symbols, np.int64)
    choose = random.Random(seed)
    for position in choose.sample(range(len(sizes)), min(len(sizes), READ // 10)):
        counts += np.bincount(dataset[position].numpy(), minlength=encoder.symbols)
    counted = max(1, int(counts.sum()))
    used = int(np.count_nonzero(counts[UNK + 1 : -1]))
    real = sum(not name.startswith(MADE_UP) for name in encoder.names) - UNK - 2
    print(f"\n{prefix}: {len(documents):,} documents, {len(sizes):,} items, {int(sizes.sum()):,} tokens")
    print(f"  tokens per document: {percentiles(documents)}")
    print(f"  tokens per item: {percentiles(sizes)}")
    print(f"  vocabulary: {used:,} of {real:,} symbols in {counted:,} tokens read; {counts[UNK] / counted:.4%} unknown")
    for _ in range(samples):
        block: list[int] = []
        for position in range(choose.randrange(len(sizes)), len(sizes)):
            block += dataset[position].tolist()
            if len(block) >= SHOWN // 4:
                break
        text = "\n".join(encoder.decode(part) for part in _paragraphs(block))
        print(f"\n  [block]\n{_shown(text)}")


def percentiles(lengths: list[int] | np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> str:
    """``1 % 12, 10 % 80, …``."""
    if not len(lengths):
        return "none"
    values = np.percentile(lengths, PERCENTILES)
    return ", ".join(f"{p} % {value:,.0f}" for p, value in zip(PERCENTILES, values, strict=True))


def _paragraphs(block: list[int]) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token in block:
        if token == EOS:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _shown(text: str) -> str:
    cut = text[:SHOWN] + (" …" if len(text) > SHOWN else "")
    return "\n".join(f"    {line}" for line in cut.split("\n"))
