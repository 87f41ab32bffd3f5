"""Tokens per second over n, both logarithmic."""

from __future__ import annotations

from pathlib import Path

from recipes.reproduce.efficiency.contestants import CONTESTANTS
from recipes.reproduce.efficiency.results import Results, speed

K = 256


def plot(results: Results, file: Path) -> None:
    """One panel for each mode, dtype and attention dropout that has cells; of k = 256, or else of the least k."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = [
        (conditions, rows) for conditions in results.conditions() if (rows := list(results.time_rows(conditions)))
    ]
    if not panels:
        return
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels) + 2, 4.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (conditions, rows) in zip(axes[0], panels, strict=True):
        k = K if any(found == K for _, found, _ in rows) else min(found for _, found, _ in rows)
        for number, name in enumerate(CONTESTANTS):
            points = [(n, fast) for n, found, entries in rows if found == k and (fast := speed(entries.get(name, {})))]
            if points:
                style = "--" if not CONTESTANTS[name].core else "-"
                width = 2.5 if name == "ours" else 1.2
                axis.plot(
                    *zip(*points, strict=True),
                    "o" + style,
                    color=f"C{number % 10}",
                    markersize=3,
                    linewidth=width,
                    label=name,
                )
        axis.set(title=f"{conditions}\nk = {k}", xlabel="n", xscale="log", yscale="log")
        axis.title.set_fontsize(8)
        axis.set_xscale("log", base=2)
        axis.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("tokens per second")
    handles = {
        label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)
