"""Measures of retrieval and BM25, and judged documents: the files of TREC and BEIR, and what is refused."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.metrics import ndcg_score

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning import OF_PAIRS
from linformer_fairseq.finetuning.retrieval import Retrieval, by_bm25, of_qrels, of_table, read_qrels, scored
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


TEXTS = ["the river", "a garden", "the teacher reads", "a river in winter", "winter", "the garden and the river"]


def files(folder: Path, qrels: str, queries: Any = None, corpus: Any = None) -> tuple[Path, Path, Path]:
    """qrels beside the queries q1 and q2 and the documents d0 to d5, as in a folder of BEIR."""
    queries = queries or [{"_id": "q1", "text": "river"}, {"_id": "q2", "text": "winter garden"}]
    corpus = corpus or [{"_id": f"d{i}", "title": "", "text": text, "metadata": {}} for i, text in enumerate(TEXTS)]
    for name, rows in (("queries", queries), ("corpus", corpus)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels").write_text(qrels)
    return folder / "qrels", folder / "queries.jsonl", folder / "corpus.jsonl"


TREC = "q1 0 d0 1\nq1 0 d3 3\nq1 Q0 d4 0\n\nq1 0 d5 -1\n"


@pytest.mark.parametrize(
    "text",
    [
        TREC,
        TREC.replace(" ", "\t"),
        "query-id\tcorpus-id\tscore\nq1\td0\t1\nq1\td3\t3\nq1\td4\t0\nq1\td5\t-1\n",
        "q1\td0\t1\r\nq1\td3\t3\r\nq1\td4\t0\r\nq1\td5\t-1\r\n",
    ],
    ids=["TREC", "TREC with tabs", "BEIR", "BEIR without a header, from Windows"],
)
def test_the_usual_files_are_read(text: str, tmp_path: Path) -> None:
    path, queries, corpus = files(tmp_path, text)
    assert read_qrels(path) == {("q1", "d0"): 1, ("q1", "d3"): 3, ("q1", "d4"): 0, ("q1", "d5"): -1}
    found = of_qrels(path, queries, corpus)
    assert found.queries == ["river"] and found.documents == TEXTS[::-1]
    assert found.gains.toarray().tolist() == [[0, 0, 3, 0, 0, 1]]


def test_ids_of_beir_may_have_spaces(tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text("query-id\tcorpus-id\tscore\na query\ta document\t2\n")
    assert read_qrels(tmp_path / "qrels") == {("a query", "a document"): 2}


def test_a_grade_is_the_gain_as_in_trec_eval(tmp_path: Path) -> None:
    found = of_qrels(*files(tmp_path, TREC))
    scores = np.array(
        [[0.0, 0.9, 0.5, 0.1, 0.2, 0.7]]
    )  # d4, d0, d3, d1, d2, d5, with the grades 0, 1, 3, 0, 0, below 0
    dcg, best = 1 / math.log2(3) + 3 / math.log2(4), 3 + 1 / math.log2(3)
    assert scored(found, lambda rows: scores[rows]) == pytest.approx(
        {"ndcg@10": 100 * dcg / best, "recall@10": 100, "recall@100": 100}
    )


@settings(max_examples=20)
@given(chance=st.randoms(use_true_random=False))
def test_no_order_of_lines_changes_the_scores(chance: random.Random, tmp_path_factory: pytest.TempPathFactory) -> None:
    documents = [{"_id": f"d{i}", "title": TEXTS[i % 6], "text": TEXTS[i % 4]} for i in range(30)]  # many are equal
    queries = [{"_id": f"q{i}", "text": text} for i, text in enumerate(TEXTS)]
    lines = [f"q{i} 0 d{(7 * i + 5 * j) % 30} {j}" for i in range(6) for j in range(4)]
    found = []
    for _ in range(2):
        given_files = files(tmp_path_factory.mktemp("order"), "\n".join(lines), queries, documents)
        retrieval = of_qrels(*given_files)
        found.append(scored(retrieval, by_bm25(retrieval)))
        for one in (documents, queries, lines):
            chance.shuffle(one)
    assert found[0] == pytest.approx(found[1], abs=1e-9)


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("q1 0 d0 1\nq1 0 d0 2\n", "line 2 gives q1 d0 another grade than before"),
        ("q1 0 d0 high\n", "line 1 is not `query 0 document grade`"),
        ("q1 0 d0 0.5\n", "line 1 is not"),
        ("q1 d0 1\nq1\n", "line 2 is not"),
        ("q1 0 d9 1\n", "names d9, which .*corpus.jsonl lacks"),
        ("q9 0 d0 1\n", "names q9, which .*queries.jsonl lacks"),
        ("query-id\tcorpus-id\tscore\nq1\td0\t0\n", "no document is relevant"),
        ("", "no document is relevant"),
    ],
)
def test_wrong_files_are_refused(qrels: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        of_qrels(*files(tmp_path, qrels))


def test_an_id_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="queries.jsonl: row 2 has the _id q1 of another"):
        of_qrels(*files(tmp_path, "q1 0 d0 1", [{"_id": "q1", "text": "a"}, {"_id": "q1", "text": "b"}]))
    with pytest.raises(UsageError, match="missing: no such file"):
        read_qrels(tmp_path / "missing")
