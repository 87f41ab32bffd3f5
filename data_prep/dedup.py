"""The stage `dedup`: drops exact and near duplicates across all files and sources.

Three steps: the MinHash signatures of each file's documents; the comparison of all signatures, in one process; the
files without duplicates. Of each group of duplicates, the first document in corpus order is kept.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.corpus import Document, corpus_files, read_file
from data_prep.filters import Dropped, filter_corpus, filter_file
from data_prep.text.duplicates import duplicate_groups
from data_prep.text.minhash import NearDuplicates, band_hashes, signatures
from linformer_fairseq.io.files import replace_when_done
from linformer_fairseq.io.records import WORK
from linformer_fairseq.io.shards import Done, Shard, run_shards

BATCH = 256  # documents whose text is in memory at once
BLOCK = 1 << 16  # signatures whose bands are hashed at once

Array = np.ndarray[Any, np.dtype[Any]]


def dedup(corpus: Path, out: Path, config: NearDuplicates, workers: int = 1) -> dict[str, Any]:
    """Write the corpus without documents that repeat an earlier one; returns the record of the stage."""
    paths = corpus_files(corpus)

    def compare() -> None:
        shards = [
            Shard(f"signatures-{path.stem}", (path, _signatures(out, path), config), path.stat().st_size)
            for path in paths
        ]
        run_shards(out, shards, sign_file, workers, "dedup: signatures", unit="B")
        run_shards(out, [Shard("groups", (paths, out, config))], find_groups, 1, "dedup: comparison")

    function = partial(_dedup_file, out=out, order=[path.stem for path in paths])
    return filter_corpus("dedup", corpus, out, asdict(config), function, workers, compare)


def sign_file(source: Path, target: Path, config: NearDuplicates) -> Done:
    """Write the signatures of one file's documents, (documents, permutations), and half of each SHA-256."""
    found = [np.empty((0, config.permutations), np.uint32)]
    hashes: list[int] = []
    documents = read_file(source)
    while batch := list(islice(documents, BATCH)):
        found.append(signatures([document.text for document in batch], config))
        hashes += [int(document.sha256[:16], 16) for document in batch]
    _save(target.with_suffix(".hashes.npy"), np.array(hashes, np.uint64))
    _save(target, np.concatenate(found))
    return Done({"documents": len(hashes)})


def find_groups(paths: list[Path], out: Path, config: NearDuplicates) -> Done:
    """Write, for each document of the corpus, the number of the document that it repeats or -1, and if exactly."""
    sizes = [_documents(_signatures(out, path)) for path in paths]
    joined = out / WORK / "signatures.bin"
    with joined.open("wb") as file:
        for path in paths:
            np.load(_signatures(out, path)).tofile(file)
    everything = np.memmap(joined, np.uint32, "r", shape=(sum(sizes), config.permutations))
    bands, rows = config.bands_and_rows()
    first, _ = duplicate_groups((_band(everything, band, rows) for band in range(bands)), everything, config.threshold)
    hashes = np.concatenate([np.load(_signatures(out, path).with_suffix(".hashes.npy")) for path in paths])
    exact = (first >= 0) & (hashes == hashes[np.maximum(first, 0)])
    _save(out / WORK / "duplicates.npy", np.stack([first, exact.astype(first.dtype)]))
    del everything
    joined.unlink()
    return Done({"duplicates": int((first >= 0).sum())})


def _band(everything: Array, band: int, rows: int) -> Array:
    blocks = range(0, len(everything), BLOCK)
    columns = slice(band * rows, (band + 1) * rows)
    return np.concatenate([band_hashes(everything[b : b + BLOCK, columns], 1, rows)[:, 0] for b in blocks])


def _dedup_file(source: Path, target: Path, out: Path, order: list[str]) -> Done:
    before = order[: order.index(source.stem)]
    begin = sum(_documents(_signatures(out, Path(stem))) for stem in before)
    first, exact = np.load(out / WORK / "duplicates.npy", mmap_mode="r")[:, begin:]

    def judge(number: int, document: Document) -> Document | Dropped:
        if first[number] < 0:
            return document
        return Dropped("exact duplicate" if exact[number] else "near duplicate")

    return filter_file(source, target, judge)


def _signatures(out: Path, path: Path) -> Path:
    return out / WORK / f"{path.stem}.npy"


def _save(path: Path, array: Array) -> None:
    with replace_when_done(path) as partial_file, partial_file.open("wb") as file:
        np.save(file, array)


def _documents(signatures: Path) -> int:
    return len(np.load(signatures, mmap_mode="r"))
