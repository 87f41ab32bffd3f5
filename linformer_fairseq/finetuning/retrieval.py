"""Retrieval: which documents belong to which queries, and how well a model or BM25 finds them."""

from collections.abc import Callable, Sequence
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
from linformer_fairseq.tables import Table

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
    queries = {row[0]: None for row in rows}
    documents = {text: None for row in table.texts for text in row[1:] if text}
    places = [{text: place for place, text in enumerate(texts)} for texts in (queries, documents)]
    pairs = np.array(sorted({(places[0][row[0]], places[1][row[1]]) for row in rows}))
    gains = csr_matrix((np.ones(len(pairs)), pairs.T), (len(queries), len(documents)))
    return Retrieval([*queries], [*documents], gains)


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
