"""GLUE's metrics, computed by scikit-learn and SciPy from labels and predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from linformer_fairseq.errors import UsageError

Values = Sequence[int] | Sequence[float]


def score(name: str, labels: Values, predictions: Values) -> float:
    """One metric, in percent; correlations and Matthews times 100, as GLUE's leaderboard has them.

    Args:
        name: a key of `METRICS`.
        labels, predictions: class ids, or scores for pearson and spearman.

    Raises:
        UsageError: different numbers of labels and predictions.
    """
    if len(labels) != len(predictions):
        raise UsageError(f"{len(predictions)} predictions for {len(labels)} labels")
    return 100 * METRICS[name](labels, predictions)


def _correlation(of: Callable[..., tuple[float, float]]) -> Callable[[Values, Values], float]:
    def correlation(labels: Values, predictions: Values) -> float:
        # A model that says the same of everything has no correlation with anything.
        return 0.0 if np.ptp(predictions) == 0 or np.ptp(labels) == 0 else float(of(labels, predictions)[0])

    return correlation


METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": lambda labels, predictions: float(accuracy_score(labels, predictions)),
    "f1": lambda labels, predictions: float(f1_score(labels, predictions)),
    "matthews": lambda labels, predictions: float(matthews_corrcoef(labels, predictions)),
    "pearson": _correlation(pearsonr),
    "spearman": _correlation(spearmanr),
}
