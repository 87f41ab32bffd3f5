"""GLUE's metrics, computed by scikit-learn and SciPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

Values = Sequence[int] | Sequence[float]


def score(name: str, labels: Values, predictions: Values) -> float:
    """A metric in percent; correlations and Matthews times 100, as on GLUE's leaderboard.

    Args:
        name: a key of `METRICS`.
        labels, predictions: class ids, or scores for pearson and spearman.

    Raises:
        ValueError: different numbers of labels and predictions.
    """
    return 100 * float(METRICS[name](labels, predictions))


def _correlation(of: Callable[..., tuple[float, float]]) -> Callable[[Values, Values], float]:
    def correlation(labels: Values, predictions: Values) -> float:
        if len(labels) != len(predictions):
            raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels")
        # The correlation of a constant is undefined; for a model that predicts one, it is counted as 0.
        return 0.0 if np.ptp(predictions) == 0 or np.ptp(labels) == 0 else of(labels, predictions)[0]

    return correlation


METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": accuracy_score,
    "f1": f1_score,
    "matthews": matthews_corrcoef,
    "pearson": _correlation(pearsonr),
    "spearman": _correlation(spearmanr),
}
