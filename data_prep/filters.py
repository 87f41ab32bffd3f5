"""What the stages from corpus to corpus share: `clean`, `dedup` and `decontaminate`.

Each input file becomes the output file of the same name. A dropped document is counted under its reason. The first
few of each reason are named in the record of the stage, so that a person can judge the rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.corpus import Document, corpus_files, corpus_fingerprint, read_file, write_file
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.records import begun, finish
from linformer_fairseq.io.shards import Done, Shard, run_shards

EXAMPLES = 3  # dropped documents named per file and reason


@dataclass(frozen=True)
class Dropped:
    """Why a document is dropped."""

    reason: str
    detail: str = ""


def filter_file(source: Path, target: Path, judge: Callable[[int, Document], Document | Dropped]) -> Done:
    """Write the documents of one file that are kept.

    Args:
        source, target: Parquet files.
        judge: from the number of a document in its file, and the document, to the document to keep or the reason
            to drop it.
    """
    dropped: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}

    def kept() -> Iterator[Document]:
        for number, document in enumerate(read_file(source)):
            verdict = judge(number, document)
            if isinstance(verdict, Document):
                yield verdict
                continue
            dropped[verdict.reason] += 1
            named = examples.setdefault(verdict.reason, [])
            if len(named) < EXAMPLES:
                detail = f" ({verdict.detail})" if verdict.detail else ""
                named.append(f"{document.source} {document.id} {document.title}{detail}")

    counts = write_file(kept(), target)
    return Done({**vars(counts), "dropped": dropped, "examples": examples, "removed_lines": {}}, [target])


def filter_corpus(
    stage: str,
    corpus: Path,
    out: Path,
    settings: Mapping[str, Any],
    function: Callable[..., Done],
    workers: int,
    prepare: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Run `function(input file, output file)` over a corpus.

    Args:
        stage: name of the stage and of its record.
        corpus, out: folders.
        settings: everything besides the corpus that the result depends on.
        function: picklable; returns what `filter_file` returns.
        workers: processes.
        prepare: called first, unless the stage is finished; makes what `function` needs.

    Returns:
        The record of the stage.
    """
    paths = corpus_files(corpus)
    if corpus.resolve() == out.resolve():
        raise UsageError(f"--out {out}: is the corpus itself; choose another folder")
    settings = {**settings, "corpus": corpus_fingerprint(corpus)}
    record = out / f"{stage}.json"
    finished = begun(record, settings)
    if finished is not None:
        return finished
    if prepare is not None:
        prepare()
    shards = [Shard(path.stem, (path, out / path.name), path.stat().st_size) for path in paths]
    done = run_shards(out, shards, function, workers, stage, unit="B")
    result = _sum([shard["result"] for shard in done.values()])
    if not result["documents"]:
        raise UsageError(f"{stage}: drops all documents ({result['dropped']}); loosen its rules")
    return finish(record, settings, result, done.values())


def _sum(results: list[dict[str, Any]]) -> dict[str, Any]:
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
