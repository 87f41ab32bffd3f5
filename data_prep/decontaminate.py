"""The stage `decontaminate`: drops documents that contain an example of a benchmark's dev or test files."""

from functools import partial
from pathlib import Path
from typing import Any

from data_prep.config import DecontaminateConfig
from data_prep.corpus import Document
from data_prep.filters import Dropped, filter_corpus, filter_file
from data_prep.text.benchmarks import benchmark_examples
from data_prep.text.ngrams import NgramIndex
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import fingerprint
from linformer_fairseq.io.records import WORK
from linformer_fairseq.io.shards import Done


def decontaminate(corpus: Path, out: Path, config: DecontaminateConfig, workers: int = 1) -> dict[str, Any]:
    """Write the corpus without contaminated documents; returns the record of the stage."""
    folders = benchmark_folders(config)
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    settings = {"benchmarks": [[path.name, fingerprint(path)] for path in files]}
    index = out / WORK / "ngrams.npz"

    def build_index() -> None:
        if index.exists():  # of another task
            return
        texts = [text for folder in folders for text in benchmark_examples(folder)]
        if not texts:
            raise UsageError(f"--benchmarks: no dev or test examples of 8 words or more in {folders[0]}")
        NgramIndex.build(texts).save(index)

    function = partial(_decontaminate_file, index=index)
    return filter_corpus("decontaminate", corpus, out, settings, function, workers, build_index)


def benchmark_folders(config: DecontaminateConfig) -> list[Path]:
    """The folders of benchmarks; UsageError if there are none, or one is missing."""
    folders = [Path(folder) for folder in config.folders]
    if not folders:
        raise UsageError("--benchmarks: name at least one folder of dev and test files, such as GLUE's")
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"--benchmarks {folder}: no such folder; name those of GLUE, IMDB, … as downloaded")
    return folders


def _decontaminate_file(source: Path, target: Path, index: Path) -> Done:
    ngrams = NgramIndex.load(index)

    def judge(_: int, document: Document) -> Document | Dropped:
        found = ngrams.matches(document.text)
        return document if found is None else Dropped("benchmark example", found[:100])

    return filter_file(source, target, judge)
