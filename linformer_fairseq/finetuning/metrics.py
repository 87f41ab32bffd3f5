"""GLUE's metrics, computed by scikit-learn and SciPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from sklearn.utils import check_consistent_length

Values = Sequence[int] | Sequence[float]


def score(name: str, labels: Values, predictions: Values) -> float:
    """One of `METRICS` in percent, of class ids or scores; correlations times 100, as on GLUE's leaderboard.

    Raises:
        ValueError: different numbers of labels and predictions.
    """
    check_consistent_length(labels, predictions)
    return 100 * float(METRICS[name](labels, predictions))


def _correlation(of: Callable[..., tuple[float, float]], labels: Values, predictions: Values) -> float:
    # The correlation of a constant is undefined; for a model that predicts one, it is counted as 0.
    return 0.0 if np.ptp(predictions) == 0 or np.ptp(labels) == 0 else of(labels, predictions)[0]


METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": accuracy_score,
    "f1": f1_score,
    "matthews": matthews_corrcoef,
    "pearson": partial(_correlation, pearsonr),
    "spearman": partial(_correlation, spearmanr),
}
