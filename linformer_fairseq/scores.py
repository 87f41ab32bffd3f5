"""Scores of predictions in percent, by scikit-learn and SciPy. Shapes: R rows, C classes.

Targets and logits are of one of three kinds: classes, ids (R,) and logits (R, C); several labels a row, zeros and ones
(R, C) and logits (R, C), where a label is predicted if its logit is positive; scores, (R,) and (R, 1).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax
from scipy.stats import pearsonr, spearmanr
from sklearn import metrics
from sklearn.utils import check_consistent_length

CORRELATIONS = {"pearson": pearsonr, "spearman": spearmanr}
Array = npt.NDArray[Any]


def score(
    name: str, targets: Sequence[Any] | Array, found: Sequence[Any] | Array, logits: Array | None = None
) -> float:
    """A metric of `finetuning.METRICS`, of ids, zeros and ones, or scores; `auc` needs logits. Correlations times 100.

    f1, precision and recall are those of the second class where there are two, else the means over classes; macro-f1
    is always the mean. What is undefined counts as chance: 50 for auc, 0 for the others. ValueError for different
    numbers of targets and predictions.
    """
    check_consistent_length(targets, found)
    y, x = np.asarray(targets), np.asarray(found)
    if name in CORRELATIONS:  # the correlation of a constant is undefined
        return 0.0 if np.ptp(x) == 0 or np.ptp(y) == 0 else 100 * float(CORRELATIONS[name](y, x)[0])
    if name == "auc":
        assert logits is not None
        return 100 * _auc(y, logits)
    if name in ("accuracy", "matthews"):
        return 100 * float({"accuracy": metrics.accuracy_score, "matthews": metrics.matthews_corrcoef}[name](y, x))
    classes = logits.shape[1] if logits is not None else int(max(y.max(), x.max())) + 1
    average = "macro" if y.ndim > 1 or classes > 2 else "binary"
    function = {"precision": metrics.precision_score, "recall": metrics.recall_score}.get(name, metrics.f1_score)
    kind = name.removesuffix("-f1") if "-" in name else average
    return 100 * float(function(y, x, average=kind, zero_division=0))


def scores_of(names: Sequence[str], targets: Array, logits: Array) -> dict[str, float]:
    """Several metrics of what the logits predict."""
    return {name: score_logits(name, targets, logits) for name in names}


def score_logits(name: str, targets: Array, logits: Array) -> float:
    """A metric of what the logits predict."""
    if name in CORRELATIONS:
        return score(name, targets.ravel(), logits[:, 0])
    if targets.shape == logits.shape:
        return score(name, targets.astype(int), (logits > 0).astype(int), logits)
    return score(name, targets.ravel().astype(int), logits.argmax(1), logits)


def constant(targets: Array, classes: int) -> Array:
    """The logits, (C,), of what the targets of the training rows are without regard to the text."""
    if targets.ndim > 1:
        share = np.clip(targets.mean(0), 1e-6, 1 - 1e-6)
        return np.asarray(np.log(share / (1 - share)))
    if not classes:
        return np.array([targets.mean()])
    return np.asarray(np.log(np.bincount(targets.astype(int), minlength=classes) + 1e-6))


def _auc(targets: Array, logits: Array) -> float:
    """Mean area under the curve of each class against the others; of two classes, that of the second."""
    several = targets.ndim > 1
    scores = logits if several else log_softmax(logits.astype(np.float64), axis=1)
    wanted = targets if several else targets[:, None] == np.arange(logits.shape[1])
    columns = [1] if not several and logits.shape[1] == 2 else range(logits.shape[1])
    areas = [metrics.roc_auc_score(wanted[:, c], scores[:, c]) for c in columns if 0 < wanted[:, c].mean() < 1]
    return float(np.mean(areas)) if areas else 0.5
