"""The stage `split`: the hash of a document decides if it is for training, validation or test.

The hash is of the text alone: a document keeps its split when the corpus grows, and equal texts are in one split.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.config import SplitConfig
from data_prep.corpus import corpus_files, read_file, read_hashes, write_file
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
    hashes = [sha256 for path in paths for sha256 in read_hashes(path)]
    wanted = {name for name in SPLITS if getattr(config, name, 1) > 0}
    if empty := wanted - {split_of(sha256, config.valid, config.test) for sha256 in hashes}:
        none = f"of {documents} documents, none is in {' and '.join(sorted(empty))}"
        remedy = "if a text file holds many documents, extract it with --document-end blank or line"
        given = f"--valid {config.valid} --test {config.test}"
        raise UsageError(f"{given}: {none}; {_better_shares(hashes, wanted)}; {remedy}")


def _better_shares(hashes: list[str], wanted: set[str]) -> str:
    """Advise shares with which no split is empty, or more documents."""
    for share in (cents / 100 for cents in range(1, 100)):
        shares = {name: share for name in ("valid", "test") if name in wanted}
        if {split_of(sha256, **shares) for sha256 in hashes} == wanted:
            return f"choose {' '.join(f'--{name} {share}' for name in shares)}"
    return "these are too few, so give more"


def split_of(sha256: str, valid: float = 0, test: float = 0) -> str:
    """`train`, `valid` or `test`, from the hash of a document and the shares of two of them."""
    place = int(sha256[:16], 16) / 2**64
    return "valid" if place < valid else "test" if place < valid + test else "train"


def split_file(source: Path, out: Path, config: SplitConfig) -> Done:
    """Write the documents of one file to one file of each split whose share is not 0."""
    result = {f"{name}_{key}": 0 for name in SPLITS for key in ("documents", "characters")}
    paths = []
    for name in SPLITS:
        if getattr(config, name, 1.0) > 0:
            paths.append(out / name / source.name)
            of = partial(split_of, valid=config.valid, test=config.test)
            chosen = (document for document in read_file(source) if of(document.sha256) == name)
            result |= {f"{name}_{key}": count for key, count in write_file(chosen, paths[-1]).items()}
    return Done(result, paths)
