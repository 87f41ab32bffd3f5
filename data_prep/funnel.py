"""What each stage has kept and left out, from the records of a run: for its report and for pages."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linformer_fairseq.io.records import read_record

STAGES = ("extract", "clean", "dedup", "decontaminate", "split", "tokenizer", "binarize")
FOLDERS = {stage: {"extract": "corpus", "binarize": "data"}.get(stage, stage) for stage in STAGES}
COUNTED = ("documents", "characters", "tokens")
COLUMNS = ("stage", "what", *COUNTED)

Row = tuple[str, str, int | None, int | None, int | None]
Dropped = Mapping[str, Counter[str]]  # characters of what a stage has dropped, by stage and reason


def read_records(run: Path) -> dict[str, dict[str, Any]]:
    """The records of the stages that have finished, by name, in their order; `run` may be the folder of one stage."""
    found = {}
    for stage, folder in FOLDERS.items():
        for path in sorted({*run.glob(f"{stage}*.json"), *(run / folder).glob(f"{stage}*.json")}):
            if (record := read_record(path)) and "result" in record:
                found[path.stem.replace("-", " ", 1)] = record
    return found


def totals(result: Mapping[str, Any]) -> list[int]:
    """Documents, characters and tokens of a result, (3,); the splits have keys such as train_documents."""
    return [sum(n for key, n in result.items() if key.split("_")[-1] == counted) for counted in COUNTED]


def left_out(result: Mapping[str, Any]) -> list[tuple[str, int]]:
    """What a stage has left out, documents by reason, most first."""
    why = {**result.get("left_out", {}), **result.get("dropped", {})}
    if result.get("skipped"):
        why["could not be read"] = len(result["skipped"])
    return sorted(why.items(), key=lambda item: (-item[1], item[0]))


def rows(results: Mapping[str, Mapping[str, Any]], dropped: Dropped | None = None) -> list[Row]:
    """The results of stages as a table of `COLUMNS`: what is kept, and what is not, by reason.

    Where `dropped` has the characters of a stage, those taken out of documents that it keeps are the rest.
    """
    found: list[Row] = []
    before = 0
    for name, result in results.items():
        documents, characters, tokens = totals(result)
        found.append((name, "kept", documents or None, characters or None, tokens or None))
        of_reason = (dropped or {}).get(name, Counter())
        found += [(name, reason, count, of_reason.get(reason), None) for reason, count in left_out(result)]
        if dropped is not None and name in dropped and (cut := before - characters - of_reason.total()) > 0:
            found.append((name, "taken out of kept documents", None, cut, None))
        before = before + characters if name.startswith("extract") else characters
    return found
