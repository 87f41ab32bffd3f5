"""The stage `split`: the hash of a document decides if it is for training, validation or test.

The hash is of the text alone: a document keeps its split when the corpus grows, and equal texts are in one split.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.config import SplitConfig
from data_prep.corpus import Document, corpus_files, read_file, read_hashes, write_file
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.records import begun, finish, names_and_sizes
from linformer_fairseq.io.shards import Done, Shard, run_shards

SPLITS = ("train", "valid", "test")
SURELY = 50  # documents that a split is expected to have, so that it has some: all are elsewhere with probability e^-50


def split(corpus: Path, out: Path, config: SplitConfig, workers: int = 1) -> dict[str, Any]:
    """Write `out/{train,valid,test}/`, each a corpus, with one file for each file of `corpus`."""
    paths = corpus_files(corpus)
    settings = {**vars(config), "corpus": names_and_sizes(paths)}
    record = out / "split.json"
    if not record.exists():
        _check_shares(paths, config)
    if finished := begun(record, settings, inputs=paths):
        return finished
    shards = [Shard(path.stem, (path, out), path.stat().st_size, [path]) for path in paths]
    done = run_shards(out, shards, partial(split_file, config=config), workers, "split", unit="B")
    counts = [shard["result"] for shard in done.values()]
    result = {key: sum(count[key] for count in counts) for key in counts[0]}
    return finish(record, settings, result, done.values())


def _check_shares(paths: list[Path], config: SplitConfig) -> None:
    """Raise UsageError if a split would have no documents; the message names shares with which each has one."""
    documents = sum(pq.read_metadata(path).num_rows for path in paths)
    shares = [share for share in (config.valid, config.test, 1 - config.valid - config.test) if share > 0]
    if documents * min(shares) > SURELY:
        return
    places = sorted(place for path in paths for place in map(_place, read_hashes(path)))
    empty = {*SPLITS} - {_split_at(place, config) for place in places}
    empty -= {name for name in ("valid", "test") if not getattr(config, name)}
    if empty:
        raise UsageError(
            f"--valid {config.valid} --test {config.test}: of {documents} documents, none is in "
            f"{' and '.join(sorted(empty))}; {_better_shares(places, config)}; if a text file holds many documents, "
            "extract it with --document-end blank or line"
        )


def _better_shares(places: list[float], config: SplitConfig) -> str:
    """Advise shares of at least those given with which no split is empty, or more documents."""
    valid, test = config.valid, config.test
    for cents in range(1, 100):
        share = cents / 100
        found = {_split_at(place, SplitConfig(share if valid else 0.0, share if test else 0.0)) for place in places}
        if len(found) == 1 + (valid > 0) + (test > 0):
            return f"choose {f'--valid {share}' if valid else ''} {f'--test {share}' if test else ''}".strip()
    return "these are too few, so give more"


def _place(sha256: str) -> float:
    return int(sha256[:16], 16) / 2**64


def _split_at(place: float, config: SplitConfig) -> str:
    return "valid" if place < config.valid else "test" if place < config.valid + config.test else "train"


def split_of(document: Document, config: SplitConfig) -> str:
    """`train`, `valid` or `test`."""
    return _split_at(_place(document.sha256), config)


def split_file(source: Path, out: Path, config: SplitConfig) -> Done:
    """Write the documents of one file to one file of each split whose share is not 0."""
    result = {f"{name}_{key}": 0 for name in SPLITS for key in ("documents", "characters")}
    paths = []
    for name in SPLITS:
        if getattr(config, name, 1.0) > 0:
            paths.append(out / name / source.name)
            chosen = (document for document in read_file(source) if split_of(document, config) == name)
            result |= {f"{name}_{key}": count for key, count in write_file(chosen, paths[-1]).items()}
    return Done(result, paths)
