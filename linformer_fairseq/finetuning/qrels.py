"""Judged documents of a retrieval benchmark: qrels in the forms of TREC and BEIR, with the texts they name."""

from collections.abc import Sequence
from pathlib import Path

from scipy.sparse import csr_matrix

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.retrieval import Retrieval
from linformer_fairseq.tables import read_rows


def of_qrels(qrels: Path, queries: Path, corpus: Path) -> Retrieval:
    """The queries that have a relevant document, and all documents: their titles and texts, as in BEIR.

    `queries` has the columns `_id` and `text`, `corpus` also `title`. What a document is worth is its grade, as in
    trec_eval, not 2^grade - 1; below 0 it is 0. Of documents with equal scores the one with the last `_id` comes
    first, as in trec_eval, so that no order of lines matters. UsageError for ids without a text, or grades that differ.
    """
    grades = {pair: grade for pair, grade in sorted(read_qrels(qrels).items()) if grade > 0}
    if not grades:
        raise UsageError(f"{qrels}: no document is relevant; name a file with grades above 0")
    asked, found = _texts(queries, ["text"]), _texts(corpus, ["title", "text"])
    for query, document in grades:
        for name, texts, path in ((query, asked, queries), (document, found, corpus)):
            if name not in texts:
                raise UsageError(f"{qrels}: names {name}, which {path} lacks; add its text or remove the line")
    names = [list(dict.fromkeys(query for query, _ in grades)), sorted(found, reverse=True)]
    rows, columns = ({name: place for place, name in enumerate(one)} for one in names)
    places = zip(*((rows[query], columns[document]) for query, document in grades), strict=True)
    gains = csr_matrix(([*grades.values()], (*places,)), tuple(map(len, names)), dtype=float)
    return Retrieval([asked[name] for name in names[0]], [found[name] for name in names[1]], gains)


def read_qrels(path: Path) -> dict[tuple[str, str], int]:
    """The grades of pairs of a query and a document, by their ids.

    A line is TREC's `query 0 document grade`, or BEIR's `query document grade` with tabs, whose header may be missing.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); name a text file of judged documents") from error
    grades: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.split("\t") if line.count("\t") == 2 else line.split()
        if not fields or number == 1 and len(fields) == 3 and not _is_grade(fields[-1]):
            continue
        if len(fields) not in (3, 4) or not _is_grade(fields[-1]):
            form = "`query 0 document grade`, or with tabs `query document grade`, with whole numbers as grades"
            raise UsageError(f"{path}: line {number} is not {form}; repair or remove it")
        pair, grade = (fields[0].strip(), fields[-2].strip()), int(fields[-1])
        if grades.setdefault(pair, grade) != grade:
            raise UsageError(
                f"{path}: line {number} gives {' '.join(pair)} another grade than before; keep one of them"
            )
    return grades


def _is_grade(text: str) -> bool:
    return text.strip().removeprefix("-").isdecimal()


def _texts(path: Path, columns: Sequence[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, row in read_rows(path, ["_id", *columns]):
        if row["_id"] in texts:
            raise UsageError(f"{path}: row {number} has the _id {row['_id']} of another; each needs its own")
        texts[row["_id"]] = " ".join(" ".join(row[name] for name in columns).split())
    return texts
