"""Judged documents: the files of TREC and BEIR, their grades in the scores, and what is refused."""

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

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.qrels import of_qrels, read_qrels
from linformer_fairseq.finetuning.retrieval import by_bm25, scored

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
    with pytest.raises(UsageError, match="missing: cannot be read"):
        read_qrels(tmp_path / "missing")
