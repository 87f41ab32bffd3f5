"""The stage `split`: the hash of a document decides if it is for training, validation or test.

The hash is of the text alone: a document keeps its split when the corpus grows, and equal texts are in one split.
"""

from functools import partial
from pathlib import Path
from typing import Any

from data_prep.config import SplitConfig
from data_prep.corpus import Document, corpus_files, corpus_fingerprint, read_file, write_file
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.records import begun, finish
from linformer_fairseq.io.shards import Done, Shard, run_shards

SPLITS = ("train", "valid", "test")


def split(corpus: Path, out: Path, config: SplitConfig, workers: int = 1) -> dict[str, Any]:
    """Write `out/{train,valid,test}/`, each a corpus, with one file for each file of `corpus`."""
    for flag, share in (("--valid", config.valid), ("--test", config.test)):
        if not 0 <= share < 1:
            raise UsageError(f"{flag} {share}: must be at least 0 and below 1")
    if config.valid + config.test >= 1:
        raise UsageError(f"--valid {config.valid} and --test {config.test}: leave nothing to train on")
    paths = corpus_files(corpus)
    settings = {**vars(config), "corpus": corpus_fingerprint(corpus)}
    record = out / "split.json"
    if finished := begun(record, settings):
        return finished
    shards = [Shard(path.stem, (path, out), path.stat().st_size) for path in paths]
    done = run_shards(out, shards, partial(split_file, config=config), workers, "split", unit="B")
    counts = [shard["result"] for shard in done.values()]
    result = {key: sum(count[key] for count in counts) for key in counts[0]}
    for name in SPLITS:
        share = getattr(config, name, 1.0)
        if share > 0 and not result[f"{name}_documents"]:
            raise UsageError(f"split: no document in {name}; choose another share than {share} (--{name})")
    return finish(record, settings, result, done.values())


def split_of(document: Document, config: SplitConfig) -> str:
    """`train`, `valid` or `test`."""
    place = int(document.sha256[:16], 16) / 2**64
    return "valid" if place < config.valid else "test" if place < config.valid + config.test else "train"


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
