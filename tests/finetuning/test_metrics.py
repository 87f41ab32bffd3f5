"""Metrics beside their definitions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linformer_fairseq.finetuning.metrics import METRICS, score

PAIRS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=50)


@given(PAIRS)
def test_classification_metrics_are_their_definitions(pairs: list[tuple[int, int]]) -> None:
    labels, found = [p[0] for p in pairs], [p[1] for p in pairs]
    tp, tn, fp, fn = (pairs.count(p) for p in ((1, 1), (0, 0), (0, 1), (1, 0)))
    assert score("accuracy", labels, found) == pytest.approx(100 * (tp + tn) / len(pairs))
    assert score("f1", labels, found) == pytest.approx(100 * 2 * tp / (2 * tp + fp + fn) if tp else 0)
    root = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert score("matthews", labels, found) == pytest.approx(100 * (tp * tn - fp * fn) / root if root else 0)


def test_correlations_are_of_values_and_of_ranks() -> None:
    labels, found = [0.0, 1.0, 2.0, 3.0], [1.0, 10.0, 100.0, 1000.0]
    assert score("spearman", labels, found) == pytest.approx(100)
    assert 0 < score("pearson", labels, found) < 99
    assert score("pearson", labels, [-1 * value for value in labels]) == pytest.approx(-100)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_who_says_always_the_same_has_no_correlation(name: str) -> None:
    assert score(name, [1.0, 2.0, 3.0], [2.5, 2.5, 2.5]) == 0


@pytest.mark.parametrize("name", list(METRICS))
def test_a_missing_prediction_is_no_prediction(name: str) -> None:
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        score(name, [0, 1], [1])
