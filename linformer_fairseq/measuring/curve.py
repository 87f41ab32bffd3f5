"""The loss curve of a run as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no screen needed
import matplotlib.pyplot as plt


def plot_curve(metrics: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draws perplexity over updates, training and validation, to a PNG.

    Args:
        metrics: figures as `training.metrics.read_metrics` returns them.
        path: the picture.
        title: what was trained on what.
    """
    figure, axes = plt.subplots(figsize=(7, 4.5), dpi=120, layout="constrained")
    for split, style in (("train", "-"), ("valid", "o--")):
        points = [(figures["update"], figures["perplexity"]) for figures in metrics if figures["split"] == split]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=split)
    axes.set(yscale="log", xlabel="updates", ylabel="perplexity of masked tokens", title=title)
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path)
    plt.close(figure)
