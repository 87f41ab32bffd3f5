"""Lines as pictures, all in one style."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no screen needed
import matplotlib.pyplot as plt

Points = Sequence[tuple[float, float]]
Style = Callable[[str], str]


@dataclass(frozen=True)
class Panel:
    """One plot of a picture; `scale` is that of x: linear, log, or symlog for one that includes 0."""

    xlabel: str
    lines: Mapping[str, Points]
    title: str = ""
    scale: str = "linear"


def plot_lines(path: Path, ylabel: str, panels: Sequence[Panel], style: Style, scale: str = "log") -> None:
    """Draw panels side by side to a PNG, with one y axis of a scale, and a colour and a `style` ("o-") for a label."""
    labels = list(dict.fromkeys(label for panel in panels for label in panel.lines))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels) + 3, 4.4), dpi=110, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, panel in zip(axes[0], panels, strict=True):
        for label, points in panel.lines.items():
            color = f"C{labels.index(label) % 10}"
            axis.plot(*zip(*points, strict=True), style(label), color=color, markersize=3, label=label)
        axis.set(xlabel=panel.xlabel, yscale=scale)
        axis.set_xscale(panel.scale, **{"log": {"base": 2}, "symlog": {"linthresh": 100}}.get(panel.scale, {}))
        axis.set_title(panel.title, fontsize=8)
        axis.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel(ylabel)
    lines = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside right upper", fontsize=8)
    figure.savefig(path)
    plt.close(figure)


def plot_curve(metrics: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw perplexity over updates, training and validation, to a PNG; `metrics` are those of `read_metrics`."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for figures in metrics:
        lines.setdefault(figures["split"], []).append((figures["update"], figures["perplexity"]))
    panel = Panel("updates", lines, title)
    plot_lines(path, "perplexity of masked tokens", [panel], lambda split: "o--" if split == "valid" else "-")
