"""What the stages from corpus to corpus share: `clean`, `dedup` and `decontaminate`.

Each input file becomes the output file of the same name. A dropped document is counted under its reason. The first
few of each reason are named in the record of the stage, so that a person can judge the rule.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.corpus import FORM, Document, corpus_files, read_file, write_file
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import replace_when_done
from linformer_fairseq.io.records import begun, finish, names_and_sizes
from linformer_fairseq.io.shards import Done, Shard, run_shards

DROPPED = ".dropped"  # the folder, in the output, of what was dropped; hidden, as it is no part of the corpus
DROPPED_SCHEMA = pa.schema(
    dict.fromkeys(("row", "characters"), pa.int64()) | dict.fromkeys(("id", "reason", "detail", "beside"), pa.string())
)
EXAMPLES = 3  # documents named per file and reason


class Verdict(NamedTuple):
    """What becomes of a document."""

    document: Document | None  # None if it is dropped
    reasons: Mapping[str, int] = {}  # why it is dropped, or the parts that are taken out by reason
    detail: str = ""
    beside: str = ""  # `FILE:ROW`, in the corpus that is read, of the document that it repeats


def dropped(reason: str, detail: str = "", beside: str = "") -> Verdict:
    """The verdict on a document that is not kept."""
    return Verdict(None, {reason: 1}, detail, beside)


def filter_file(source: Path, target: Path, judge: Callable[[int, Document], Verdict]) -> Done:
    """Write the documents of one file that are kept, and to the folder `DROPPED` beside it which were not and why.

    `judge` gets the number of a document in the file and the document.
    """
    removed: Counter[str] = Counter()
    examples: dict[str, list[str]] = defaultdict(list)
    rows: list[dict[str, Any]] = []

    def kept() -> Iterator[Document]:
        for number, document in enumerate(read_file(source)):
            verdict = judge(number, document)
            reason = next(iter(verdict.reasons), "")
            if (verdict.document is None or verdict.detail) and len(examples[reason]) < EXAMPLES:
                detail = f" ({verdict.detail})" if verdict.detail else ""
                examples[reason].append(f"{document.source} {document.id} {document.title}{detail}")
            if verdict.document is None:
                why = {"reason": reason, "detail": verdict.detail, "beside": verdict.beside}
                rows.append({"row": number, "characters": len(document), "id": document.id, **why})
            else:
                removed.update(verdict.reasons)
                yield verdict.document

    counts = write_file(kept(), target)
    notes = target.parent / DROPPED / target.name
    with replace_when_done(notes) as partial:
        pq.write_table(pa.Table.from_pylist(rows, DROPPED_SCHEMA), partial, **FORM)
    by_reason = Counter(row["reason"] for row in rows)
    return Done({**counts, "dropped": by_reason, "removed": removed, "examples": examples}, [target, notes])


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
    result: dict[str, Any] = {"documents": 0, "characters": 0, "dropped": Counter(), "removed": Counter()}
    examples: dict[str, list[str]] = defaultdict(list)
    for found in (shard["result"] for shard in done.values()):
        for key in ("documents", "characters"):
            result[key] += found[key]
        for key in ("dropped", "removed"):
            result[key] += Counter(found[key])
        for reason, named in found["examples"].items():
            examples[reason] = [*examples[reason], *named][: 4 * EXAMPLES]
    if not result["documents"]:
        why = ", ".join(f"{count:,} {reason}" for reason, count in result["dropped"].items())
        remedy = f"loosen its rules in the section {stage} of a configuration, or leave the stage out"
        raise UsageError(f"{stage}: drops all documents ({why}); {remedy}, under run with {stage}=null")
    result |= {"examples": examples, **(notes or {})}
    return finish(record, settings, result, [*done.values(), *prepared.values()])
