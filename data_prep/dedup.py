"""The stage `dedup`: drops exact and near duplicates across all files and sources.

Three steps: the MinHash signatures of each file's documents; the comparison of all signatures, in one process; the
files without duplicates. Of each group of duplicates, the first document in corpus order is kept.
"""

import io
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.corpus import Document, corpus_files, read_file
from data_prep.filters import Dropped, filter_corpus, filter_file
from data_prep.text.minhash import NearDuplicates, band_hashes, duplicate_groups, signatures
from linformer_fairseq.io.files import replace_when_done
from linformer_fairseq.io.records import WORK
from linformer_fairseq.io.shards import Done, Shard, run_shards

BATCH = 256  # documents whose text is in memory at once
BLOCK = 1 << 16  # signatures whose bands are hashed at once

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
    """Save the signatures of one file's documents, (documents, permutations), and half of each SHA-256."""
    found = [np.empty((0, config.permutations), np.uint32)]
    hashes: list[int] = []
    documents = read_file(path)
    while batch := list(islice(documents, BATCH)):
        found.append(signatures([document.text for document in batch], config))
        hashes += [int(document.sha256[:16], 16) for document in batch]
    files = [_array_file(out, path, kind) for kind in ("hashes", "signatures")]
    _save(files[0], np.array(hashes, np.uint64))
    _save(files[1], np.concatenate(found))
    return Done({"documents": len(hashes)}, files)


def find_duplicates(paths: list[Path], out: Path, config: NearDuplicates) -> Done:
    """Save for each file, (2, documents): the document of the corpus that each repeats, or -1; and if exactly."""
    joined = out / WORK / "signatures.bin"
    with joined.open("wb") as file:
        for path in paths:
            file.write(np.load(_array_file(out, path, "signatures")).data)
    of_files = [np.load(_array_file(out, path, "hashes")) for path in paths]
    hashes = np.concatenate(of_files)
    everything = np.memmap(joined, np.uint32, "r", shape=(len(hashes), config.permutations))
    bands, rows = config.bands_and_rows()
    first, _ = duplicate_groups((_band(everything, band, rows) for band in range(bands)), everything, config.threshold)
    exact = (first >= 0) & (hashes == hashes[np.maximum(first, 0)])
    duplicates = np.stack([first, exact.astype(first.dtype)])
    ends = np.cumsum([len(some) for some in of_files])
    for path, some in zip(paths, np.split(duplicates, ends[:-1], axis=1), strict=True):
        _save(_array_file(out, path, "duplicates"), some)
    del everything
    joined.unlink()
    return Done({"duplicates": int((first >= 0).sum())}, [_array_file(out, path, "duplicates") for path in paths])


def _band(everything: Array, band: int, rows: int) -> Array:
    blocks = range(0, len(everything), BLOCK)
    columns = slice(band * rows, (band + 1) * rows)
    return np.concatenate([band_hashes(everything[b : b + BLOCK, columns]) for b in blocks])


def _dedup_file(source: Path, target: Path, out: Path) -> Done:
    first, exact = np.load(_array_file(out, source, "duplicates"))

    def judge(number: int, document: Document) -> Document | Dropped:
        if first[number] < 0:
            return document
        return Dropped("exact duplicate" if exact[number] else "near duplicate")

    return filter_file(source, target, judge)


def _array_file(out: Path, path: Path, kind: str) -> Path:
    return out / WORK / f"{path.stem}.{kind}.npy"


def _save(path: Path, array: Array) -> None:
    content = io.BytesIO()  # to a file, NumPy would say nothing of a full disk if the array is small
    np.save(content, array)
    with replace_when_done(path) as partial_file:
        partial_file.write_bytes(content.getbuffer())
