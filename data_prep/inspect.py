"""The command `inspect`: random documents of a corpus, random blocks of data, or why a document is not there."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_prep import encoders
from data_prep.corpus import Document, corpus_files, read_file
from data_prep.encoded import read_data
from data_prep.fairseq_dict import EOS, FILLER, UNK
from data_prep.filters import DROPPED
from linformer_fairseq.errors import UsageError

PERCENTILES = (1, 10, 50, 90, 99)
SHOWN = 600  # characters
SAMPLED = 2_000  # characters of a document that are kept
# Documents that are read for the figures: enough for two digits, and quick on any corpus.
READ = 200_000


class DataSample(NamedTuple):
    """What is shown of one pair of .bin and .idx."""

    encoder: encoders.Encoder
    documents: NDArray[np.int64]  # tokens of each
    sizes: NDArray[np.int32]  # tokens of each item
    counts: NDArray[np.int64]  # of each symbol in the items that were read, (symbols,)
    blocks: list[str]  # decoded


def inspect(folder: Path, samples: int, seed: int, document: str | None = None, html: Path | None = None) -> None:
    """Print samples and figures of a run, a corpus or binarised data, or what became of a document.

    `seed` chooses the samples; `document` is an id; with `html`, a page is written there instead.
    """
    if document is not None:
        explain(folder, document)
        return
    corpora, data = contents(folder)
    if html is not None:
        from data_prep.inspect_page import write_page

        write_page(folder, samples, seed, html)
        return
    for path in corpora[:1]:
        inspect_corpus(path, samples, seed)
    for path in data:
        inspect_data(path, samples, seed)


def contents(folder: Path) -> tuple[list[Path], list[Path]]:
    """The corpora in a folder, the last stage first, and the prefixes of its data; UsageError if there are none."""
    below = (folder, folder / "split/train", folder / "train", *reversed(_stages(folder)))
    corpora = [path for path in dict.fromkeys(below) if any(path.glob("*.parquet"))]
    data = sorted(path for below in ("", "shard*/", "data/", "data/shard*/") for path in folder.glob(f"{below}*.idx"))
    if not corpora and not data:
        raise UsageError(f"{folder}: neither a corpus (.parquet) nor fairseq's data (.idx) here")
    return corpora, [path.with_suffix("") for path in data]


def dropped_rows(folder: Path, **filters: Any) -> Iterator[tuple[Path | None, Path, Path, list[dict[str, Any]]]]:
    """The corpus that a stage of a run has read, the stage, a file, and what was dropped of it (`filters.Dropped`).

    `folder` may be that of one stage; then the corpus is None. `filters` are pyarrow's.
    """
    stages = _stages(folder)
    for before, stage in zip([None, *stages], stages, strict=False):
        for path in sorted((stage / DROPPED).glob("*.parquet")):
            yield before, stage, path, pq.read_table(path, **filters).to_pylist()


def _stages(folder: Path) -> list[Path]:
    of_run = [folder / name for name in ("corpus", "clean", "dedup", "decontaminate")]
    return [stage for stage in of_run if any(stage.glob("*.parquet"))] or [folder]


def document_at(corpus: Path, place: str) -> Document:
    """The document at `FILE:ROW`."""
    name, _, number = place.rpartition(":")
    return next(islice(read_file(corpus / name), int(number), None))


def explain(folder: Path, document: str) -> None:
    """Print why a stage of a run has dropped a document, and beside which other, or else where it is."""
    found = False
    for before, stage, path, rows in dropped_rows(folder, filters=[("id", "==", document)]):
        for row in rows:
            found = True
            detail = f" ({row['detail']})" if row["detail"] else ""
            print(f"\n{stage} has dropped {document}: {row['reason']}{detail}")
            for place, word in ((f"{path.name}:{row['row']}", ""), (row["beside"], "beside ")):
                if place and before is None:
                    print(f"  {word}{place}; the folder of the run has its text")
                elif place and before is not None:
                    one = document_at(before, place)
                    print(f"\n  {word}{place} [{one.source} {one.id}] {one.title}\n{_indented(one.text)}")
    if found:
        return
    kept = [path for path in corpus_files(_stages(folder)[-1]) for one in read_file(path) if one.id == document]
    if not kept:
        raise UsageError(f"--document {document}: neither kept nor dropped here; `inspect` without it shows some ids")
    print("\n".join(f"{document} is kept in {path}" for path in kept))


def sample_corpus(folder: Path, samples: int, seed: int) -> tuple[list[int], list[Document]]:
    """The characters of each document that was read, and random documents, of each the beginning."""
    choose = random.Random(seed)
    files = corpus_files(folder)
    choose.shuffle(files)
    lengths: list[int] = []
    kept: list[Document] = []
    for number, document in enumerate(islice((d for path in files for d in read_file(path)), READ)):
        lengths.append(len(document.text))
        # Reservoir sampling: the number of documents is not known.
        place = number if number < samples else choose.randrange(number + 1)
        if place < samples:
            kept[place : place + 1] = [replace(document, text=document.text[:SAMPLED])]
    return lengths, kept


def inspect_corpus(folder: Path, samples: int, seed: int) -> None:
    """Print random documents and the lengths of a corpus."""
    lengths, kept = sample_corpus(folder, samples, seed)
    print(f"\n{folder}: {len(lengths):,} documents read, {sum(lengths):,} characters")
    print(f"  characters per document: {percentiles(lengths)}")
    for document in kept:
        print(f"\n  [{document.source} {document.id}] {document.title}\n{_indented(document.text)}")


def sample_data(prefix: Path, samples: int, seed: int) -> DataSample:
    """Lengths, counts of symbols, and random blocks of one pair of .bin and .idx."""
    encoder = encoders.load(prefix.parent)
    data = read_data(prefix)
    sizes, ends = data.sizes, np.cumsum(data.sizes, dtype=np.int64)
    starts, items = ends - sizes, range(len(sizes))
    counts = np.zeros(encoder.symbols, np.int64)
    choose = random.Random(seed)
    for item in choose.sample(items, min(len(items), READ // 10)):
        counts += np.bincount(data.tokens[starts[item] : ends[item]], minlength=encoder.symbols)
    blocks = []
    for _ in range(samples):
        begin = starts[choose.randrange(len(items))]
        last = np.searchsorted(ends, begin + SHOWN // 4)  # the item with which the block is long enough
        block = data.tokens[begin : ends[min(last, len(ends) - 1)]]
        paragraphs = np.split(block, np.flatnonzero(block == EOS) + 1)
        blocks.append("\n".join(encoder.decode(paragraph) for paragraph in paragraphs))
    return DataSample(encoder, np.diff(ends[sizes == 1], prepend=0), sizes, counts, blocks)


def inspect_data(prefix: Path, samples: int, seed: int) -> None:
    """Print random blocks, the vocabulary coverage and the lengths of one pair of .bin and .idx."""
    encoder, documents, sizes, counts, blocks = sample_data(prefix, samples, seed)
    counted = max(1, int(counts.sum()))
    used = int(np.count_nonzero(counts[UNK + 1 : -1]))
    real = sum(not name.startswith(FILLER) for name in encoder.names) - UNK - 2
    print(f"\n{prefix}: {len(documents):,} documents, {len(sizes):,} items, {sizes.sum(dtype=np.int64):,} tokens")
    print(f"  tokens per document: {percentiles(documents)}")
    print(f"  tokens per item: {percentiles(sizes)}")
    print(f"  vocabulary: {used:,} of {real:,} symbols in {counted:,} tokens read; {counts[UNK] / counted:.4%} unknown")
    for text in blocks:
        print(f"\n  [block]\n{_indented(text)}")


def percentiles(lengths: Sequence[int] | np.ndarray[tuple[int, ...], np.dtype[np.integer]]) -> str:
    """`1 % 12, 10 % 80, …`."""
    if not len(lengths):
        return "none"
    values = np.percentile(lengths, PERCENTILES)
    return ", ".join(f"{p} % {value:,.0f}" for p, value in zip(PERCENTILES, values, strict=True))


def _indented(text: str) -> str:
    cut = text[:SHOWN] + (" …" if len(text) > SHOWN else "")
    return "\n".join(f"    {line}" for line in cut.split("\n"))
