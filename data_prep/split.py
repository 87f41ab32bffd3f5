"""The stage ``split``: a document is for training, validation or test by its hash, for good.

The hash is of the text alone: a document keeps its side when the corpus grows, and equal texts are on one side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.config import SplitConfig
from data_prep.corpus import Document, corpus_files, read_file, write_file
from data_prep.filters import corpus_settings
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.records import begun, finish
from linformer_fairseq.io.shards import Done, Shard, run_shards

SPLITS = ("train", "valid", "test")


def split(corpus: Path, out: Path, config: SplitConfig, workers: int = 1) -> dict[str, Any]:
    """Writes ``out/{train,valid,test}/``, each a corpus, with one file for each file of ``corpus``."""
    for flag, share in (("--valid", config.valid), ("--test", config.test)):
        if not 0 <= share < 1:
            raise UsageError(f"{flag} {share}: must be at least 0 and below 1")
    if config.valid + config.test >= 1:
        raise UsageError(f"--valid {config.valid} and --test {config.test}: leave nothing to train on")
    paths = corpus_files(corpus)
    settings = {**vars(config), "corpus": corpus_settings(corpus)}
    record = out / "split.json"
    finished = begun(record, settings)
    if finished is not None:
        return finished
    shards = [Shard(path.stem, (path, out), path.stat().st_size) for path in paths]
    done = run_shards(out, shards, partial(split_file, config=config), workers, "split", unit="B")
    counts = [shard["result"] for shard in done.values()]
    result: dict[str, Any] = {key: sum(c[key] for c in counts) for key in counts[0]}
    for name, share in (("train", 1.0), ("valid", config.valid), ("test", config.test)):
        if share > 0 and not result[f"{name}_documents"]:
            raise UsageError(f"split: no document in {name}; choose another share than {share} (--{name})")
    return finish(record, settings, result, done.values())


def split_of(document: Document, config: SplitConfig) -> str:
    """``train``, ``valid`` or ``test``."""
    place = int(document.sha256[:16], 16) / 2**64
    return "valid" if place < config.valid else "test" if place < config.valid + config.test else "train"


def split_file(source: Path, out: Path, config: SplitConfig) -> Done:
    """Writes the documents of one file to one file of each split that has a share."""
    result: dict[str, Any] = {}
    paths = []
    for name in SPLITS:
        target = out / name / source.name
        if name == "train" or getattr(config, name) > 0:
            counts = write_file(_only(read_file(source), name, config), target)
            paths.append(target)
            result |= {f"{name}_{key}": value for key, value in vars(counts).items()}
        else:
            result |= {f"{name}_documents": 0, f"{name}_characters": 0}
    return Done(result, paths)


def _only(documents: Iterable[Document], name: str, config: SplitConfig) -> Iterator[Document]:
    return (document for document in documents if split_of(document, config) == name)
