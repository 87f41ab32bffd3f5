"""Measures of retrieval and BM25, against their definitions and scikit-learn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.metrics import ndcg_score

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning import OF_PAIRS
from linformer_fairseq.finetuning.retrieval import Retrieval, by_bm25, of_table, scored
from linformer_fairseq.tables import Table


def found(gains: Any, scores: Any) -> dict[str, float]:
    gains, scores = np.asarray(gains, dtype=float), np.asarray(scores, dtype=float)
    queries, documents = gains.shape
    names = [str(i) for i in range(queries)], [str(i) for i in range(documents)]
    return scored(Retrieval(*names, csr_matrix(gains)), lambda rows: scores[rows])


def test_ndcg_is_that_of_a_small_case_by_hand() -> None:
    """Järvelin and Kekäläinen's discounted gains, with log2(1 + rank)."""
    # The documents are found in the order 2, 0, 1, 3, with gains 0, 3, 1, 2.
    dcg = 0 + 3 / math.log2(3) + 1 / math.log2(4) + 2 / math.log2(5)
    best = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert found([[3, 1, 0, 2]], [[0.5, 0.4, 0.9, 0.1]])["ndcg@10"] == pytest.approx(100 * dcg / best)
    assert found([[0, 1]], [[2, 1]])["ndcg@10"] == pytest.approx(100 / math.log2(3))
    assert found([[0, 1], [1, 0]], [[1, 2], [1, 2]])["ndcg@10"] == pytest.approx(50 * (1 + 1 / math.log2(3)))


def test_recall_is_the_share_of_the_relevant_documents() -> None:
    gains, scores = np.zeros((1, 200)), -np.arange(200.0)[None]
    gains[0, [3, 9, 10, 99, 100]] = 1, 2, 1, 1, 1
    measures = found(gains, scores)
    assert measures["recall@10"] == pytest.approx(40) and measures["recall@100"] == pytest.approx(80)
    assert tuple(measures) == OF_PAIRS


def test_of_equal_scores_the_first_document_comes_first() -> None:
    assert found([[0] * 10 + [1]], [[1.0] * 11]) == {"ndcg@10": 0, "recall@10": 0, "recall@100": 100}
    assert found([[0] * 9 + [1]], [[1.0] * 10])["ndcg@10"] == pytest.approx(100 / math.log2(11))


@pytest.mark.parametrize("documents", [5, 30, 150])
def test_ndcg_is_scikit_learns(documents: int) -> None:
    chance = np.random.default_rng(documents)
    gains = chance.integers(0, 4, (300, documents)) * (chance.random((300, documents)) < 0.3)
    gains[:, 0] = 1  # each query has a document
    scores = chance.random(gains.shape)
    assert found(gains, scores)["ndcg@10"] == pytest.approx(100 * ndcg_score(gains, scores, k=10))


def table(*rows: tuple[str, ...]) -> Table:
    return Table(Path("pairs.tsv"), list(rows))


def test_a_table_is_queries_their_documents_and_others() -> None:
    given = table(("a", "x", "n"), ("", "z", ""), ("b", "y", ""), ("a", "y", "x"), ("a", "x", "n"))
    retrieval = of_table(given)
    assert retrieval[:2] == (["a", "b"], ["x", "n", "z", "y"])
    assert retrieval.gains.toarray().tolist() == [[1, 0, 0, 1], [0, 0, 0, 1]]
    with pytest.raises(UsageError, match="pairs.tsv: has no row with a query"):
        of_table(table(("", "x")))


def test_bm25_is_that_of_its_formula() -> None:
    documents = ["the river and the garden", "The garden", "a teacher, a book", "winter"]
    rows = [("the River the", documents[0]), ("garden!", documents[1]), ("nothing", documents[3]), ("", documents[2])]
    retrieval = of_table(table(*rows))
    words = {text: text.lower().replace(",", " ,").replace("!", " !").split() for text in (*documents, *retrieval[0])}
    mean = sum(len(words[text]) for text in documents) / len(documents)
    scores = by_bm25(retrieval)(slice(0, 3))
    for query, row in zip(retrieval.queries, scores, strict=True):
        for document, score in zip(retrieval.documents, row, strict=True):
            expected = 0.0
            for word in words[query]:
                tf, df = words[document].count(word), sum(word in words[text] for text in documents)
                weight = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
                expected += weight * tf * 2.2 / (tf + 1.2 * (1 - 0.75 + 0.75 * len(words[document]) / mean))
            assert score == pytest.approx(expected)
    assert not scores[2].any() and scored(retrieval, by_bm25(retrieval))["recall@10"] == 100
