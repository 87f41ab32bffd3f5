"""The stage `dedup`: drops exact and near duplicates across all files and sources, and if asked to repeated paragraphs.

Its steps: the MinHash signatures of each file's documents; these joined in one file; the comparison, a band a task, for
any number of workers; the bands joined; the files without duplicates. A document is dropped beside an earlier one that
is kept and that it is like. One process holds 8 bytes a document some times over, and what is joined is written by one.
"""

import hashlib
import io
from dataclasses import asdict, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.corpus import Document, corpus_files, read_file
from data_prep.filters import Dropped, Shortened, Verdict, filter_corpus, filter_file
from data_prep.text.minhash import Comparison, NearDuplicates, band_hashes, first_equal, own_run, sketches
from linformer_fairseq.io.files import replace_when_done
from linformer_fairseq.io.records import WORK
from linformer_fairseq.io.shards import Done, Shard, run_shards

BATCH = 256  # documents whose text is in memory at once
RANGES = 64  # of the hashes of paragraphs, each counted by a task

Array = np.ndarray[Any, np.dtype[Any]]


def dedup(corpus: Path, out: Path, config: NearDuplicates, workers: int = 1) -> dict[str, Any]:
    """Write the corpus without documents that repeat an earlier one; returns the record of the stage."""
    paths = corpus_files(corpus)

    def compare() -> dict[str, dict[str, Any]]:
        shards = [Shard(f"minhash-{path.stem}", (path, out, config), path.stat().st_size, [path]) for path in paths]
        signed = run_shards(out, shards, sign_file, workers, "dedup: signatures", unit="B")
        done = run_shards(out, [Shard("joined", (paths, out))], join_files, workers, "dedup: joined")
        bands = config.bands_and_rows()[0]
        shards = [Shard(f"band-{band:03d}", (band, out, config)) for band in range(bands)]
        done |= run_shards(out, shards, compare_band, workers, "dedup: comparison")
        if config.repeated_paragraphs:
            shards = [Shard(f"paragraphs-{part:02d}", (part, out, config)) for part in range(RANGES)]
            done |= run_shards(out, shards, count_paragraphs, workers, "dedup: paragraphs")
        done |= run_shards(out, [Shard("duplicates", (out, config))], join_bands, workers, "dedup: duplicates")
        return done | {"signed": {"files": {}, "seconds": sum(shard["seconds"] for shard in signed.values())}}

    record = filter_corpus("dedup", corpus, out, asdict(config), partial(_dedup_file, out=out), workers, compare)
    (out / WORK / "signatures.bin").unlink(missing_ok=True)  # another task may have done it
    return record


def sign_file(path: Path, out: Path, config: NearDuplicates) -> Done:
    """Save what one file's documents are compared by.

    Their signatures, (documents, permutations), and the hash of each band of these, (bands, documents); half of each
    SHA-256; samples of their shingles, one document after the other, and where each ends; and, if they are wanted, the
    hashes of the paragraphs of each document, all sorted.
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
    signatures = np.concatenate(found)
    bands, rows = config.bands_and_rows()
    arrays: dict[str, Array] = {
        "hashes": np.array(hashes, np.uint64),
        "signatures": signatures,
        "bands": np.stack([band_hashes(band) for band in np.split(signatures[:, : bands * rows], bands, axis=1)]),
        "samples": np.concatenate([np.empty(0, np.uint64), *samples]),
        "ends": np.cumsum([len(sample) for sample in samples], dtype=np.int64),
        "paragraphs": np.sort(np.array(paragraphs, np.uint64)),
    }
    for kind, array in arrays.items():
        _save(_array_file(out, path.stem, kind), array)
    return Done({"documents": len(hashes)}, [_array_file(out, path.stem, kind) for kind in arrays])


def join_files(paths: list[Path], out: Path) -> Done:
    """Save the names of files and where their documents end, the first document equal to each, and all signatures."""
    names = [path.stem for path in paths]
    exact = [np.load(_array_file(out, name, "hashes")) for name in names]
    joined = {"ends": np.cumsum([len(some) for some in exact]), "first": first_equal(np.concatenate(exact))}
    for kind, array in {"names": np.array(names, str), **joined}.items():
        _save(out / WORK / f"{kind}.npy", array)
    with replace_when_done(out / WORK / "signatures.bin") as partial_file, partial_file.open("wb") as file:
        for name in names:
            file.write(np.load(_array_file(out, name, "signatures")).data)
    return Done({}, [out / WORK / name for name in ("names.npy", "ends.npy", "first.npy", "signatures.bin")])


def compare_band(band: int, out: Path, config: NearDuplicates) -> Done:
    """Save what `Comparison.band` finds in one band."""
    first = np.load(out / WORK / "first.npy")
    alive = np.flatnonzero(first == np.arange(len(first)))
    hashes = [np.load(_array_file(out, name, "bands"), mmap_mode="r")[band] for name in _names(out)]
    target = out / WORK / f"band-{band:03d}.npy"
    _save(target, _comparison(out, config).band(np.concatenate(hashes), alive))
    return Done({}, [target])


def count_paragraphs(part: int, out: Path, config: NearDuplicates) -> Done:
    """Save the hashes of the paragraphs of one range that are in too many documents, sorted."""
    bounds = np.array([part * (2**64 // RANGES), (part + 1) * (2**64 // RANGES) - 1], np.uint64)
    found = []
    for name in _names(out):
        hashes = np.load(_array_file(out, name, "paragraphs"), mmap_mode="r")
        found.append(hashes[np.searchsorted(hashes, bounds[0]) : np.searchsorted(hashes, bounds[1], "right")])
    values, counts = np.unique(np.concatenate(found), return_counts=True)
    target = out / WORK / f"repeated-{part:02d}.npy"
    _save(target, values[counts > config.repeated_paragraphs])
    return Done({}, [target])


def join_bands(out: Path, config: NearDuplicates) -> Done:
    """Save for each file, (dropped,) records: the rows that repeat another document, its `FILE:ROW`, and if exactly.

    Also save the hashes of the paragraphs that are in too many documents, sorted.
    """
    bands = [np.load(path, mmap_mode="r") for path in sorted((out / WORK).glob("band-*.npy"))]
    exact = np.load(out / WORK / "first.npy")
    first = _comparison(out, config).join(bands, exact.copy())
    names, ends = _names(out), np.load(out / WORK / "ends.npy")
    starts = np.append(0, ends[:-1])
    for name, start, end in zip(names, starts.tolist(), ends.tolist(), strict=True):
        rows = np.flatnonzero(first[start:end] >= 0)
        kept = first[start:end][rows]
        files = np.searchsorted(ends, kept, side="right")
        beside = [
            f"{names[n]}.parquet:{row}" for n, row in zip(files.tolist(), (kept - starts[files]).tolist(), strict=True)
        ]
        same = exact[kept] == exact[start:end][rows]
        _save(_array_file(out, name, "duplicates"), np.rec.fromarrays([rows, np.array(beside, str), same]))
    repeated = [np.load(path) for path in sorted((out / WORK).glob("repeated-*.npy"))]
    _save(out / WORK / "paragraphs.npy", np.concatenate([np.empty(0, np.uint64), *repeated]))
    saved = [_array_file(out, name, "duplicates") for name in names]
    return Done({"duplicates": int((first >= 0).sum())}, [*saved, out / WORK / "paragraphs.npy"])


def _names(out: Path) -> list[str]:
    names: list[str] = np.load(out / WORK / "names.npy").tolist()
    return names


def _comparison(out: Path, config: NearDuplicates) -> Comparison:
    ends = np.load(out / WORK / "ends.npy")
    signatures = np.memmap(out / WORK / "signatures.bin", np.uint32, "r", shape=(int(ends[-1]), config.permutations))
    return Comparison(signatures, config.threshold, _OwnText(_names(out), out, ends, config.own_words))


class _OwnText:
    """Whether a document, given by its place in the corpus, has a run of `words` that another lacks."""

    def __init__(self, names: list[str], out: Path, ends: Array, words: int) -> None:
        self._names, self._out, self._ends, self._words = names, out, ends, words
        self._opened = lru_cache(64)(self._open)

    def _open(self, file: int) -> list[Array]:
        kinds = ("samples", "ends")
        return [np.load(_array_file(self._out, self._names[file], kind), mmap_mode="r") for kind in kinds]

    def _sample(self, document: int) -> Array:
        file = int(np.searchsorted(self._ends, document, side="right"))
        samples, ends = self._opened(file)
        row = document - (int(self._ends[file - 1]) if file else 0)
        return np.asarray(samples[ends[row - 1] if row else 0 : ends[row]])

    def __call__(self, document: int, other: int) -> bool:
        return self._words > 0 and own_run(self._sample(document), self._sample(other)) >= self._words


def _dedup_file(source: Path, target: Path, out: Path) -> Done:
    duplicates = np.load(_array_file(out, source.stem, "duplicates"))
    repeats = {row: (beside, exact) for row, beside, exact in duplicates.tolist()}
    repeated, own = np.load(out / WORK / "paragraphs.npy", "r"), np.load(_array_file(out, source.stem, "paragraphs"))
    paragraphs = {*own[np.searchsorted(repeated, own) < np.searchsorted(repeated, own, "right")].tolist()}

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


def _array_file(out: Path, name: str, kind: str) -> Path:
    return out / WORK / f"{name}.{kind}.npy"


def _save(path: Path, array: Array) -> None:
    content = io.BytesIO()  # to a file, NumPy would say nothing of a full disk if the array is small
    np.save(content, array)
    with replace_when_done(path) as partial_file:
        partial_file.write_bytes(content.getbuffer())
