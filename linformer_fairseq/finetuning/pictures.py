"""Pictures of what a classifier predicts: which classes it takes for which, and how far its probabilities are true."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax
from sklearn.metrics import ConfusionMatrixDisplay

from linformer_fairseq.io.files import replace_when_done
from linformer_fairseq.scores import Array

BINS = 10


def confusion(targets: Array, logits: Array, classes: Sequence[str], path: Path) -> None:
    """Write a PNG of the number of rows by class and predicted class."""
    side = min(20.0, 3 + 0.6 * len(classes))
    figure = Figure(figsize=(side, side), dpi=110, layout="constrained")
    names = [name if len(name) < 25 else f"{name[:22]}…" for name in classes]
    ConfusionMatrixDisplay.from_predictions(
        targets.astype(int),
        logits.argmax(1),
        labels=range(len(classes)),
        display_labels=names,
        xticks_rotation="vertical",
        ax=figure.subplots(),
        colorbar=False,
    )
    _save(figure, path)


def calibration(targets: Array, logits: Array, path: Path) -> float:
    """Write a PNG of accuracy by the probability of the predicted class, and return the expected calibration error.

    That is the mean distance of both over ten bins of equal width, weighted by rows (Guo et al. 2017).
    """
    sure, right = softmax(logits.astype(np.float64), axis=1).max(1), targets.astype(int) == logits.argmax(1)
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    used = np.unique(bins)
    x, y = (np.array([values[bins == one].mean() for one in used]) for values in (sure, right))
    error = float(sum(np.mean(bins == one) * abs(a - b) for one, a, b in zip(used, x, y, strict=True)))
    figure = Figure(figsize=(4.5, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color="gray", label="calibrated")
    axes.plot(x, y, "o-", label=f"expected calibration error {error:.3f}")
    axes.hist(sure, BINS, range=(0, 1), weights=np.full(len(sure), 1 / len(sure)), alpha=0.2, label="share of rows")
    axes.set(xlabel="probability of the predicted class", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize=8)
    _save(figure, path)
    return error


def _save(figure: Figure, path: Path) -> None:
    with replace_when_done(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": ""})
