"""What the stages from corpus to corpus share: `clean`, `dedup` and `decontaminate`.

Each input file becomes the output file of the same name. A dropped document is counted under its reason. The first
few of each reason are named in the record of the stage, so that a person can judge the rule.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.corpus import FORM, Document, corpus_files, read_file, write_file
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import replace_when_done
from linformer_fairseq.io.records import begun, finish, names_and_sizes
from linformer_fairseq.io.shards import Done, Shard, run_shards

DROPPED = ".dropped"  # the folder, in the output, of what was dropped; hidden, as it is no part of the corpus
DROPPED_COLUMNS = ("id", "reason", "detail", "beside")
DROPPED_SCHEMA = pa.schema(
    [("row", pa.int64()), ("characters", pa.int64()), *((name, pa.string()) for name in DROPPED_COLUMNS)]
)
EXAMPLES = 3  # dropped documents named per file and reason


@dataclass(frozen=True)
class Dropped:
    """Why a document is dropped."""

    reason: str
    detail: str = ""
    beside: str = ""  # `FILE:ROW`, in the corpus that is read, of the document that it repeats


@dataclass(frozen=True)
class Shortened:
    """A document that is kept without parts of it: their number by reason, and what they are."""

    document: Document
    removed: Mapping[str, int]
    detail: str = ""


Verdict = Document | Shortened | Dropped


def filter_file(source: Path, target: Path, judge: Callable[[int, Document], Verdict]) -> Done:
    """Write the documents of one file that are kept, and to the folder `dropped` beside it which were not and why.

    `judge` gets the number of a document in the file and the document; it returns the document to keep, or why not.
    """
    dropped: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    dropped_rows: list[dict[str, Any]] = []

    def note(document: Document, reason: str, detail: str) -> None:
        named = examples.setdefault(reason, [])
        if len(named) < EXAMPLES:
            named.append(f"{document.source} {document.id} {document.title}{f' ({detail})' if detail else ''}")

    def kept() -> Iterator[Document]:
        for number, document in enumerate(read_file(source)):
            verdict = judge(number, document)
            if isinstance(verdict, Dropped):
                dropped[verdict.reason] += 1
                about = {"row": number, "characters": len(document), "id": document.id}
                dropped_rows.append({**about, **vars(verdict)})
                note(document, verdict.reason, verdict.detail)
            elif isinstance(verdict, Shortened):
                removed.update(verdict.removed)
                if verdict.detail:
                    note(document, next(iter(verdict.removed)), verdict.detail)
                yield verdict.document
            else:
                yield verdict

    counts = write_file(kept(), target)
    notes = target.parent / DROPPED / target.name
    with replace_when_done(notes) as partial:
        pq.write_table(pa.Table.from_pylist(dropped_rows, DROPPED_SCHEMA), partial, **FORM)
    return Done({**counts, "dropped": dropped, "removed": removed, "examples": examples}, [target, notes])


def filter_corpus(
    stage: str,
    corpus: Path,
    out: Path,
    settings: Mapping[str, Any],
    function: Callable[..., Done],
    workers: int,
    prepare: Callable[[], dict[str, dict[str, Any]]] = dict,
    inputs: Sequence[Path] = (),
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run a stage; returns its record.

    `settings` are all that the result depends on besides the corpus. `function` gets an input file and an output file,
    and returns what `filter_file` returns. `prepare` makes what it needs, of other `inputs` than the corpus, and
    returns what `run_shards` returned; it is not called if the stage is finished. `notes` are added to the result.
    """
    paths = corpus_files(corpus)
    if corpus.resolve() == out.resolve():
        raise UsageError(f"--out {out}: is the corpus itself; choose another folder")
    settings = {**settings, "corpus": names_and_sizes(paths)}
    record = out / f"{stage}.json"
    if finished := begun(record, settings, inputs=[*paths, *inputs]):
        return finished
    prepared = prepare()
    shards = [Shard(path.stem, (path, out / path.name), path.stat().st_size, [path]) for path in paths]
    done = run_shards(out, shards, function, workers, stage, unit="B")
    results = [shard["result"] for shard in done.values()]
    result: dict[str, Any] = {key: sum(result[key] for result in results) for key in ("documents", "characters")}
    for key in ("dropped", "removed"):
        result[key] = dict(sum((Counter(result[key]) for result in results), Counter()))
    examples: dict[str, list[str]] = {}
    for reason, named in (item for result in results for item in result["examples"].items()):
        examples.setdefault(reason, []).extend(named)
    result["examples"] = {reason: named[: 4 * EXAMPLES] for reason, named in examples.items()}
    result |= notes or {}
    if not result["documents"]:
        why = ", ".join(f"{count:,} {reason}" for reason, count in result["dropped"].items())
        raise UsageError(
            f"{stage}: drops all documents ({why}); loosen its rules in the section {stage} of a configuration, or "
            f"leave the stage out, under run with {stage}=null"
        )
    return finish(record, settings, result, [*done.values(), *prepared.values()])
