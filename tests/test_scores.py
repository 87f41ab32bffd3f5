"""Scores of predictions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linformer_fairseq.finetuning import METRICS, OF_CLASSES
from linformer_fairseq.scores import constant, score, score_logits

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


def test_more_than_two_classes_are_averaged() -> None:
    targets, found = [0, 0, 1, 2], [0, 1, 1, 2]
    assert score("f1", targets, found) == score("macro-f1", targets, found) == pytest.approx(100 * (4 / 3 + 1) / 3)
    assert score("micro-f1", targets, found) == 75
    assert score("precision", targets, found) == pytest.approx(100 * (1 + 0.5 + 1) / 3)
    assert score("recall", targets, found) == pytest.approx(100 * (0.5 + 1 + 1) / 3)


def test_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    logits = np.array([[0, 1.0], [0, 3.0], [0, 2.0], [0, 4.0]])
    assert score_logits("auc", np.array([0, 0, 1, 1]), logits) == 75
    assert score_logits("auc", np.array([1, 1, 1, 1]), logits) == 50
    several = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    assert score_logits("auc", several, np.where(several, 2.0, 1.0)) == 100
    assert score_logits("auc", np.array([0, 1, 2, 2]), np.eye(3)[[0, 1, 2, 2]]) == 100


def test_of_several_labels_each_is_counted() -> None:
    targets, logits = np.array([[1.0, 0], [1, 1]]), np.array([[0.5, -1], [2, -3]])
    assert score_logits("accuracy", targets, logits) == 50  # whole rows
    assert score_logits("micro-f1", targets, logits) == pytest.approx(80)
    assert score_logits("macro-f1", targets, logits) == 50


@pytest.mark.parametrize("name", METRICS)
def test_a_guess_without_text_has_a_score_of_every_metric(name: str) -> None:
    targets = np.array([0.0, 1, 1, 1])
    logits = np.tile(constant(targets, 2 if name in OF_CLASSES else 0), (4, 1))
    known = {
        "accuracy": 75,
        "micro-f1": 75,
        "auc": 50,
        "precision": 75,
        "recall": 100,
        "f1": 600 / 7,
        "macro-f1": 300 / 7,
    }
    assert score_logits(name, targets, logits) == pytest.approx(known.get(name, 0))
