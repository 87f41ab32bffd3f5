"""Stages that go from corpus to corpus, file by file: what they share, and the two that need no more than one file.

Each file of the input becomes the file of the same name in the output. A dropped document is counted under its
reason, and the first few of each reason are named in the stage's record, to judge the rule by.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.config import DecontaminateConfig
from data_prep.corpus import Document, corpus_files, read_file, write_file
from data_prep.problems import Problems
from data_prep.text.benchmarks import benchmark_examples
from data_prep.text.ngrams import NgramIndex
from data_prep.text.rules import CleanConfig
from data_prep.text.rules import clean as clean_text
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import fingerprint, replace_when_done
from linformer_fairseq.io.records import WORK, begun, finish
from linformer_fairseq.io.shards import Done, Shard, run_shards

EXAMPLES = 3  # dropped documents named per file and reason


class Dropped:
    """Documents that a stage drops, by reason."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, document: Document, reason: str, detail: str = "") -> None:
        """Counts one document."""
        self.counts[reason] += 1
        named = self.examples.setdefault(reason, [])
        if len(named) < EXAMPLES:
            named.append(f"{document.source} {document.id} {document.title}{detail and f' ({detail})'}")


def filter_file(
    source: Path, target: Path, keep: Callable[[Iterator[Document], Dropped, Counter[str]], Iterator[Document]]
) -> Done:
    """Writes what ``keep`` leaves of one file; its counter is for lines removed within documents."""
    dropped = Dropped()
    removed: Counter[str] = Counter()
    counts = write_file(keep(read_file(source), dropped, removed), target)
    result = {**vars(counts), "dropped": dropped.counts, "examples": dropped.examples, "removed_lines": removed}
    return Done(result, [target])


def filter_corpus(
    stage: str,
    corpus: Path,
    out: Path,
    settings: Mapping[str, Any],
    function: Callable[..., Done],
    workers: int,
    before: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Runs ``function(input file, output file)`` over a corpus.

    Args:
        stage: name, of the record too.
        corpus, out: folders.
        settings: all that the result depends on beside the corpus.
        function: picklable; see :func:`filter_file`.
        workers: processes.
        before: prepares what ``function`` needs; called before it, unless the stage is finished.

    Returns:
        The stage's record.
    """
    paths = corpus_files(corpus)
    if corpus.resolve() == out.resolve():
        raise UsageError(f"--out {out}: is the corpus itself; choose another folder")
    settings = {**settings, "corpus": corpus_settings(corpus)}
    record = out / f"{stage}.json"
    finished = begun(record, settings)
    if finished is not None:
        return finished
    if before is not None:
        before()
    shards = [Shard(path.stem, (path, out / path.name), path.stat().st_size) for path in paths]
    done = run_shards(out, shards, function, workers, stage, unit="B")
    result = filter_result([shard["result"] for shard in done.values()])
    if not result["documents"]:
        raise UsageError(f"{stage}: drops all documents ({result['dropped']}); loosen its rules")
    return finish(record, settings, result, done.values())


def corpus_settings(corpus: Path) -> list[list[str]]:
    """What tells one corpus from another."""
    return [[path.name, fingerprint(path)] for path in corpus_files(corpus)]


def filter_result(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over files."""
    dropped: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for result in results:
        dropped.update(result["dropped"])
        removed.update(result["removed_lines"])
        for reason, named in result["examples"].items():
            examples.setdefault(reason, []).extend(named)
    return {
        "documents": sum(result["documents"] for result in results),
        "characters": sum(result["characters"] for result in results),
        "dropped": dict(sorted(dropped.items())),
        "removed_lines": dict(sorted(removed.items())),
        "examples": {reason: named[: 4 * EXAMPLES] for reason, named in sorted(examples.items())},
    }


def clean(corpus: Path, out: Path, config: CleanConfig, workers: int = 1) -> dict[str, Any]:
    """Repairs the text of each document and drops those that break a rule of ``config``."""
    return filter_corpus("clean", corpus, out, asdict(config), partial(_clean_file, config=config), workers)


def _clean_file(source: Path, target: Path, config: CleanConfig) -> Done:
    def keep(documents: Iterator[Document], dropped: Dropped, removed: Counter[str]) -> Iterator[Document]:
        for document in documents:
            cleaned = clean_text(document.text, config)
            removed.update(cleaned.removed)
            if cleaned.dropped is None:
                yield replace(document, text=cleaned.text)
            else:
                dropped.add(document, cleaned.dropped)

    return filter_file(source, target, keep)


def decontaminate(corpus: Path, out: Path, config: DecontaminateConfig, workers: int = 1) -> dict[str, Any]:
    """Drops documents that contain an example of a benchmark's dev or test files."""
    folders = [Path(folder) for folder in config.folders]
    if not folders:
        raise UsageError("--benchmarks: name at least one folder of dev and test files, such as GLUE's")
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"--benchmarks {folder}: no such folder")
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    settings = {"benchmarks": [[path.name, fingerprint(path)] for path in files]}
    index = out / WORK / "ngrams.npz"

    def build() -> None:
        if not index.exists():
            texts = [text for folder in folders for _, text in benchmark_examples(folder, Problems())]
            if not texts:
                raise UsageError(f"--benchmarks: no dev or test examples of 8 words or more in {folders[0]}")
            with replace_when_done(index) as temporary:
                NgramIndex.build(texts).save(temporary)

    return filter_corpus(
        "decontaminate", corpus, out, settings, partial(_decontaminate_file, index=index), workers, build
    )


def _decontaminate_file(source: Path, target: Path, index: Path) -> Done:
    ngrams = NgramIndex.load(index)

    def keep(documents: Iterator[Document], dropped: Dropped, removed: Counter[str]) -> Iterator[Document]:
        for document in documents:
            found = ngrams.matches(document.text)
            if found is None:
                yield document
            else:
                dropped.add(document, "benchmark example", found[:100])

    return filter_file(source, target, keep)
