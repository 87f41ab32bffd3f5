"""The stage `dedup`: drops exact and near duplicates across all files and sources, and if asked to repeated paragraphs.

Three steps: the MinHash signatures of each file's documents; the comparison of all signatures, in one process; the
files without duplicates. A document is dropped beside an earlier one that is kept and that it is like.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.corpus import Document, corpus_files, read_file
from data_prep.filters import Dropped, Shortened, Verdict, filter_corpus, filter_file
from data_prep.text.minhash import NearDuplicates, band_hashes, duplicate_groups, own_run, sketches
from linformer_fairseq.io.files import replace_when_done
from linformer_fairseq.io.records import WORK
from linformer_fairseq.io.shards import Done, Shard, run_shards

BATCH = 256  # documents whose text is in memory at once
BLOCK = 1 << 16  # signatures whose bands are hashed at once
COUNTED = 1 << 26  # hashes of paragraphs that are counted at once

Array = np.ndarray[Any, np.dtype[Any]]


def dedup(corpus: Path, out: Path, config: NearDuplicates, workers: int = 1) -> dict[str, Any]:
    """Write the corpus without documents that repeat an earlier one; returns the record of the stage."""
    paths = corpus_files(corpus)

    def compare() -> dict[str, dict[str, Any]]:
        shards = [Shard(f"minhash-{path.stem}", (path, out, config), path.stat().st_size, [path]) for path in paths]
        run_shards(out, shards, sign_file, workers, "dedup: signatures", unit="B")
        return run_shards(out, [Shard("duplicates", (paths, out, config))], find_duplicates, 1, "dedup: comparison")

    return filter_corpus("dedup", corpus, out, asdict(config), partial(_dedup_file, out=out), workers, compare)


def sign_file(path: Path, out: Path, config: NearDuplicates) -> Done:
    """Save what one file's documents are compared by.

    Their signatures, (documents, permutations); half of each SHA-256; samples of their shingles, one document after the
    other, and where each ends; and, if they are wanted, the hashes of the paragraphs of each document, all sorted.
    """
    found = [np.empty((0, config.permutations), np.uint32)]
    samples: list[Array] = []
    hashes: list[int] = []
    paragraphs: list[int] = []
    documents = read_file(path)
    while batch := list(islice(documents, BATCH)):
        signed, sampled = sketches([document.text for document in batch], config)
        found.append(signed)
        samples += sampled
        hashes += [int(document.sha256[:16], 16) for document in batch]
        if config.repeated_paragraphs:
            paragraphs += [h for document in batch for h in {*map(_paragraph_hash, document.text.split("\n"))}]
    arrays: dict[str, Array] = {
        "hashes": np.array(hashes, np.uint64),
        "signatures": np.concatenate(found),
        "samples": np.concatenate([np.empty(0, np.uint64), *samples]),
        "ends": np.cumsum([len(sample) for sample in samples], dtype=np.int64),
        "paragraphs": np.sort(np.array(paragraphs, np.uint64)),
    }
    for kind, array in arrays.items():
        _save(_array_file(out, path, kind), array)
    return Done({"documents": len(hashes)}, [_array_file(out, path, kind) for kind in arrays])


def find_duplicates(paths: list[Path], out: Path, config: NearDuplicates) -> Done:
    """Save for each file, (dropped,) records: the rows that repeat another document, its `FILE:ROW`, and if exactly.

    Also save the hashes of the paragraphs that are in too many documents.
    """
    joined = out / WORK / "signatures.bin"
    with joined.open("wb") as file:
        for path in paths:
            file.write(np.load(_array_file(out, path, "signatures")).data)
    hashes = [np.load(_array_file(out, path, "hashes")) for path in paths]
    exact = np.concatenate(hashes)
    ends = np.cumsum([len(some) for some in hashes])
    starts = np.append(0, ends[:-1])
    everything = np.memmap(joined, np.uint32, "r", shape=(len(exact), config.permutations))
    own_text = _OwnText(paths, out, ends, config.own_words)
    first, _ = duplicate_groups(_Bands(everything, config), everything, config.threshold, exact, own_text)
    for path, start, end in zip(paths, starts.tolist(), ends.tolist(), strict=True):
        rows = np.flatnonzero(first[start:end] >= 0)
        kept = first[start:end][rows]
        files = np.searchsorted(ends, kept, side="right")
        names = [
            f"{paths[n].name}:{row}" for n, row in zip(files.tolist(), (kept - starts[files]).tolist(), strict=True)
        ]
        same = exact[kept] == exact[start:end][rows]
        _save(_array_file(out, path, "duplicates"), np.rec.fromarrays([rows, np.array(names, str), same]))
    del everything
    joined.unlink()
    _save(out / WORK / "paragraphs.npy", _repeated_paragraphs(paths, out, config.repeated_paragraphs))
    saved = [_array_file(out, path, "duplicates") for path in paths]
    return Done({"duplicates": int((first >= 0).sum())}, [*saved, out / WORK / "paragraphs.npy"])


class _Bands:
    """The hashes of each band of the signatures, in turn."""

    def __init__(self, signatures: Array, config: NearDuplicates) -> None:
        self._signatures = signatures
        self._bands, self._rows = config.bands_and_rows()

    def __iter__(self) -> Iterator[Array]:
        blocks = range(0, len(self._signatures), BLOCK)
        for band in range(self._bands):
            columns = slice(band * self._rows, (band + 1) * self._rows)
            yield np.concatenate([band_hashes(self._signatures[b : b + BLOCK, columns]) for b in blocks])


class _OwnText:
    """Whether a document, given by its place in the corpus, has a run of `words` that another lacks."""

    def __init__(self, paths: list[Path], out: Path, ends: Array, words: int) -> None:
        self._paths, self._out, self._ends, self._words = paths, out, ends, words
        self._opened = lru_cache(64)(self._open)

    def _open(self, file: int) -> tuple[Array, Array]:
        of_file = [_array_file(self._out, self._paths[file], kind) for kind in ("samples", "ends")]
        return np.load(of_file[0], mmap_mode="r"), np.append(0, np.load(of_file[1]))

    def _sample(self, document: int) -> Array:
        file = int(np.searchsorted(self._ends, document, side="right"))
        samples, ends = self._opened(file)
        row = document - (int(self._ends[file - 1]) if file else 0)
        return np.asarray(samples[ends[row] : ends[row + 1]])

    def __call__(self, document: int, other: int) -> bool:
        return self._words > 0 and own_run(self._sample(document), self._sample(other)) >= self._words


def _repeated_paragraphs(paths: list[Path], out: Path, most: int) -> Array:
    """The hashes of the paragraphs that are in more than `most` documents; of none if it is 0."""
    sorted_ = [np.load(_array_file(out, path, "paragraphs"), mmap_mode="r") for path in paths] if most else []
    parts = sum(map(len, sorted_)) // COUNTED + 1
    bounds = [part * (2**64 // parts) for part in range(parts)]
    found = [np.empty(0, np.uint64)]
    for low, high in zip(bounds, [*bounds[1:], 2**64 - 1], strict=True):
        slices = [slice(*np.searchsorted(some, np.array([low, high], np.uint64)).tolist()) for some in sorted_]
        within = [some[chosen] for some, chosen in zip(sorted_, slices, strict=True)]
        values, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *within]), return_counts=True)
        found.append(values[counts > most])
    return np.concatenate(found)


def _dedup_file(source: Path, target: Path, out: Path) -> Done:
    duplicates = np.load(_array_file(out, source, "duplicates"))
    repeats = {row: (beside, exact) for row, beside, exact in duplicates.tolist()}
    paragraphs = set(np.load(out / WORK / "paragraphs.npy").tolist())

    def judge(number: int, document: Document) -> Verdict:
        if number in repeats:
            beside, exact = repeats[number]
            return Dropped("exact duplicate" if exact else "near duplicate", beside=beside)
        if not paragraphs:
            return document
        lines = document.text.split("\n")
        kept = [line for line in lines if _paragraph_hash(line) not in paragraphs]
        if not kept:
            return Dropped("repeated paragraphs")
        return Shortened(replace(document, text="\n".join(kept)), {"repeated paragraphs": len(lines) - len(kept)})

    return filter_file(source, target, judge)


def _paragraph_hash(paragraph: str) -> int:
    return int.from_bytes(hashlib.blake2b(paragraph.encode(), digest_size=8).digest())


def _array_file(out: Path, path: Path, kind: str) -> Path:
    return out / WORK / f"{path.stem}.{kind}.npy"


def _save(path: Path, array: Array) -> None:
    content = io.BytesIO()  # to a file, NumPy would say nothing of a full disk if the array is small
    np.save(content, array)
    with replace_when_done(path) as partial_file:
        partial_file.write_bytes(content.getbuffer())
