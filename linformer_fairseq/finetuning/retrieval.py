"""Retrieval: which documents belong to which queries, and how well a model or BM25 finds them.

Judged documents come from tables of pairs, or from qrels in the forms of TREC and BEIR, with the texts they name.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, encoder_config
from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning import OF_PAIRS
from linformer_fairseq.inference.engine import Engine
from linformer_fairseq.inference.sequences import encode, tokenizer_of
from linformer_fairseq.scores import Array
from linformer_fairseq.tables import Table, read_lines, read_rows

K1, B = 1.2, 0.75  # of BM25
ScoresOf = Callable[[slice], Array]  # of some of the queries, (those queries, documents)


class Retrieval(NamedTuple):
    """Queries, documents, and what a document is worth to a query (queries, documents): 0 if they do not belong."""

    queries: list[str]
    documents: list[str]
    gains: csr_matrix


def of_table(table: Table) -> Retrieval:
    """Of each row a query, a document that belongs to it, and others; only others in a row without a query.

    Texts that are the same are one. UsageError if no row has a query.
    """
    rows = [row for row in table.texts if row[0]]
    if not rows:
        raise UsageError(f"{table.path}: has no row with a query")
    documents = {text: text for row in table.texts for text in row[1:] if text}
    return _retrieval({row[0]: row[0] for row in rows}, documents, {(row[0], row[1]): 1 for row in rows})


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
    documents = {name: found[name] for name in sorted(found, reverse=True)}
    return _retrieval({query: asked[query] for query, _ in grades}, documents, grades)


def _retrieval(
    queries: Mapping[str, str], documents: Mapping[str, str], gains: Mapping[tuple[str, str], int]
) -> Retrieval:
    """Texts by their names, and what a document is worth by the names of a query and a document."""
    rows, columns = ({name: place for place, name in enumerate(texts)} for texts in (queries, documents))
    places = np.array([(rows[query], columns[document]) for query, document in gains])
    matrix = csr_matrix(([*gains.values()], places.T), (len(queries), len(documents)), dtype=float)
    return Retrieval([*queries.values()], [*documents.values()], matrix)


def read_qrels(path: Path) -> dict[tuple[str, str], int]:
    """The grades of pairs of a query and a document, by their ids.

    A line is TREC's `query 0 document grade`, or BEIR's `query document grade` with tabs, whose header may be missing.
    """
    grades: dict[tuple[str, str], int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split("\t") if line.count("\t") == 2 else line.split()
        if not fields or number == 1 and len(fields) == 3 and not _is_grade(fields[-1]):
            continue
        if len(fields) not in (3, 4) or not _is_grade(fields[-1]):
            form = "`query 0 document grade`, or with tabs `query document grade`, with whole numbers as grades"
            raise UsageError(f"{path}: line {number} is not {form}; repair or remove it")
        pair, grade = (fields[0].strip(), fields[-2].strip()), int(fields[-1])
        if grades.setdefault(pair, grade) != grade:
            given = f"gives {' '.join(pair)} another grade than before"
            raise UsageError(f"{path}: line {number} {given}; keep one of them")
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


def scored(retrieval: Retrieval, scores_of: ScoresOf, metrics: Sequence[str] = OF_PAIRS) -> dict[str, float]:
    """Some of `OF_PAIRS` in percent, means over queries; of documents with equal scores the first one comes first.

    nDCG (Järvelin & Kekäläinen 2002): gain / log2(1 + rank), summed over 10 ranks, as a share of the largest possible
    sum. Recall: the share of a query's documents that are among the first 10, or 100.
    """
    found = []
    for start in range(0, len(retrieval.queries), 128):
        rows = slice(start, start + 128)
        own = retrieval.gains[rows].toarray()
        got = np.take_along_axis(own, np.argsort(-scores_of(rows), axis=1, kind="stable")[:, :100], axis=1)
        tops = [values[:, :10] for values in (got, -np.sort(-own, axis=1))]
        dcg, best = ((values / np.log2(np.arange(2, 2 + values.shape[1]))).sum(1) for values in tops)
        found.append([dcg / best, *((got[:, :count] > 0).sum(1) / (own > 0).sum(1) for count in (10, 100))])
    means = dict(zip(OF_PAIRS, map(float, 100 * np.concatenate(found, axis=1).mean(1)), strict=True))
    return {metric: means[metric] for metric in metrics}


def by_bm25(retrieval: Retrieval) -> ScoresOf:
    """BM25 (Robertson & Zaragoza 2009) of words in lower case; log(1 + x) keeps the weight of every word above 0."""
    vectorizer = CountVectorizer(token_pattern=r"\w+|[^\w\s]")
    counts = vectorizer.fit_transform(retrieval.documents).astype(np.float64)
    having = np.bincount(counts.indices, minlength=counts.shape[1])
    weights = np.log1p((len(retrieval.documents) - having + 0.5) / (having + 0.5))
    lengths = np.asarray(counts.sum(1)).ravel()
    room = np.repeat(K1 * (1 - B + B * lengths / lengths.mean()), np.diff(counts.indptr))
    counts.data *= weights[counts.indices] * (K1 + 1) / (counts.data + room)
    queries = vectorizer.transform(retrieval.queries)
    return lambda rows: np.asarray((queries[rows] @ counts.T).toarray())


def by_model(checkpoint: Checkpoint, data: Path | None, pooling: str, retrieval: Retrieval) -> ScoresOf:
    """Cosines of the vectors of texts, of long ones of their heads; `data` is the folder of the tokenizer."""
    texts = [(text,) for text in (*retrieval.queries, *retrieval.documents)]
    ids = encode(texts, tokenizer_of(checkpoint, data), encoder_config(checkpoint).max_positions)
    vectors = normalize(Engine(checkpoint, pooling).rows(ids))
    queries, documents = np.split(vectors, [len(retrieval.queries)])
    return lambda rows: np.asarray(queries[rows] @ documents.T)
