"""The stage `dedup`: drops exact and near duplicates across all files and sources, and if asked to repeated paragraphs.

Its steps: the MinHash signatures of each file's documents; these joined in one file; the comparison, a band a task; the
bands joined; the files without duplicates. A document is dropped beside an earlier one that is kept and that it is
like. One process holds 8 bytes a document some times over, and what is joined is written by one.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.corpus import Document, corpus_files, read_file
from data_prep.filters import Verdict, dropped, filter_corpus, filter_file
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
        done = {"signed": {"files": {}, "seconds": sum(shard["seconds"] for shard in signed.values())}}

        def step(label: str, shards: Sequence[Shard], function: Callable[..., Done]) -> None:
            done.update(run_shards(out, shards, function, workers, f"dedup: {label}"))

        step("joined", [Shard("joined", (paths, out))], join_files)
        bands = range(config.bands_and_rows()[0])
        step("comparison", [Shard(f"band-{band:03d}", (band, out, config)) for band in bands], compare_band)
        ranges = range(RANGES if config.repeated_paragraphs else 0)
        step("paragraphs", [Shard(f"paragraphs-{part:02d}", (part, out, config)) for part in ranges], count_paragraphs)
        step("duplicates", [Shard("duplicates", (out, config))], join_bands)
        return done

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
    saved = [_save(out, f"{path.stem}.{kind}", array) for kind, array in arrays.items()]
    return Done({"documents": len(hashes)}, saved)


def join_files(paths: list[Path], out: Path) -> Done:
    """Save the names of files and where their documents end, the first document equal to each, and all signatures."""
    names = [path.stem for path in paths]
    exact = [_load(out, f"{name}.hashes") for name in names]
    ends, first = np.cumsum([len(some) for some in exact]), first_equal(np.concatenate(exact))
    saved = [_save(out, "names", np.array(names, str)), _save(out, "ends", ends), _save(out, "first", first)]
    with replace_when_done(out / WORK / "signatures.bin") as partial_file, partial_file.open("wb") as file:
        for name in names:
            file.write(_load(out, f"{name}.signatures").data)
    return Done({}, [*saved, out / WORK / "signatures.bin"])


def compare_band(band: int, out: Path, config: NearDuplicates) -> Done:
    """Save what `Comparison.band` finds in one band."""
    first = _load(out, "first")
    alive = np.flatnonzero(first == np.arange(len(first)))
    hashes = np.concatenate([np.array(_load(out, f"{name}.bands", "r")[band]) for name in _load(out, "names")])
    return Done({}, [_save(out, f"band-{band:03d}", _comparison(out, config).band(hashes, alive))])


def count_paragraphs(part: int, out: Path, config: NearDuplicates) -> Done:
    """Save the hashes of the paragraphs of one range that are in too many documents, sorted."""
    bounds = np.array([part * (2**64 // RANGES), (part + 1) * (2**64 // RANGES) - 1], np.uint64)
    found = []
    for name in _load(out, "names"):
        hashes = _load(out, f"{name}.paragraphs", "r")
        some = slice(np.searchsorted(hashes, bounds[0]), np.searchsorted(hashes, bounds[1], "right"))
        found.append(np.array(hashes[some]))
    values, counts = np.unique(np.concatenate(found), return_counts=True)
    return Done({}, [_save(out, f"repeated-{part:02d}", values[counts > config.repeated_paragraphs])])


def join_bands(out: Path, config: NearDuplicates) -> Done:
    """Save for each file, (dropped,) records: the rows that repeat another document, its `FILE:ROW`, and if exactly.

    Also save the hashes of the paragraphs that are in too many documents, sorted.
    """
    bands = [_load(out, path.stem, "r") for path in sorted((out / WORK).glob("band-*.npy"))]
    exact = _load(out, "first")
    first = _comparison(out, config).join(bands, exact.copy())
    names, ends = _load(out, "names"), _load(out, "ends")
    starts = np.append(0, ends[:-1])
    saved = []
    for name, start, end in zip(names, starts, ends, strict=True):
        rows = np.flatnonzero(first[start:end] >= 0)
        kept = first[start:end][rows]
        files = np.searchsorted(ends, kept, side="right")
        places = zip(files.tolist(), (kept - starts[files]).tolist(), strict=True)
        beside = [f"{names[file]}.parquet:{row}" for file, row in places]
        same = exact[kept] == exact[start:end][rows]
        saved.append(_save(out, f"{name}.duplicates", np.rec.fromarrays([rows, np.array(beside, str), same])))
    repeated = [_load(out, path.stem) for path in sorted((out / WORK).glob("repeated-*.npy"))]
    saved.append(_save(out, "paragraphs", np.concatenate([np.empty(0, np.uint64), *repeated])))
    return Done({"duplicates": int((first >= 0).sum())}, saved)


def _comparison(out: Path, config: NearDuplicates) -> Comparison:
    names, ends = _load(out, "names"), _load(out, "ends")
    starts = np.append(0, ends[:-1])

    @lru_cache(64)
    def opened(file: int) -> tuple[Array, Array]:
        return _load(out, f"{names[file]}.samples", "r"), _load(out, f"{names[file]}.ends", "r")

    def sample(document: int) -> Array:
        file = int(np.searchsorted(ends, document, side="right"))
        samples, sample_ends = opened(file)
        row = document - starts[file]
        return np.asarray(samples[sample_ends[row - 1] if row else 0 : sample_ends[row]])

    def own_text(document: int, other: int) -> bool:
        return config.own_words > 0 and own_run(sample(document), sample(other)) >= config.own_words

    signatures = np.memmap(out / WORK / "signatures.bin", np.uint32, "r", shape=(int(ends[-1]), config.permutations))
    return Comparison(signatures, config.threshold, own_text)


def _dedup_file(source: Path, target: Path, out: Path) -> Done:
    duplicates = _load(out, f"{source.stem}.duplicates")
    repeats = {row: (beside, exact) for row, beside, exact in duplicates.tolist()}
    repeated, own = _load(out, "paragraphs", "r"), _load(out, f"{source.stem}.paragraphs")
    paragraphs = {*own[np.searchsorted(repeated, own) < np.searchsorted(repeated, own, "right")].tolist()}

    def judge(number: int, document: Document) -> Verdict:
        if number in repeats:
            beside, exact = repeats[number]
            return dropped("exact duplicate" if exact else "near duplicate", beside=beside)
        if not paragraphs:
            return Verdict(document)
        lines = document.text.split("\n")
        kept = [line for line in lines if _paragraph_hash(line) not in paragraphs]
        if not kept:
            return dropped("repeated paragraphs")
        return Verdict(replace(document, text="\n".join(kept)), {"repeated paragraphs": len(lines) - len(kept)})

    return filter_file(source, target, judge)


def _paragraph_hash(paragraph: str) -> int:
    return int.from_bytes(hashlib.blake2b(paragraph.encode(), digest_size=8).digest())


def _load(out: Path, name: str, mode: Literal["r"] | None = None) -> Array:
    """The array that was saved under a name; with mode "r" mapped, which holds a file open."""
    found: Array = np.load(out / WORK / f"{name}.npy", mmap_mode=mode)
    return found


def _save(out: Path, name: str, array: Array) -> Path:
    path = out / WORK / f"{name}.npy"
    content = io.BytesIO()  # to a file, NumPy would say nothing of a full disk if the array is small
    np.save(content, array)
    with replace_when_done(path) as partial_file:
        partial_file.write_bytes(content.getbuffer())
    return path
