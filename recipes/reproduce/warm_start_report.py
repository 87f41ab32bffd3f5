"""Table and plot of what a warm start saves."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

NEAR = 1.02  # within 2 % of the original's perplexity


@dataclass
class Result:
    """Attributes:
    start: perplexity right after conversion; None from scratch.
    curve: update and validation perplexity, in order of updates.
    updates: that the schedule was for.
    seconds: that the conversion took.
    steps: of attention transfer.
    errors: of attention transfer, before and after.
    """

    start: float | None
    curve: list[tuple[int, float]]
    updates: int
    seconds: float
    steps: int
    errors: list[float]


def updates_until(result: Result, target: float) -> int | None:
    """The first validation with a perplexity of at most `target`; 0 right after conversion, None for never."""
    points = [(0, result.start), *result.curve] if result.start is not None else result.curve
    return next((update for update, found in points if found is not None and found <= target), None)


def write_report(study: Mapping[str, Any], results: Mapping[str, Result], folder: Path) -> str:
    """Writes results.json, table.md and curves.png; returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    packages = {name: version(name) for name in ("torch", "ve-fairseq", "numpy")}
    record = {"python": platform.python_version(), **packages, "study": study}
    record["results"] = {
        way: asdict(result) | {"updates_until_near": updates_until(result, study["original"]["ppl"] * NEAR)}
        for way, result in results.items()
    }
    (folder / "results.json").write_text(json.dumps(record, indent=1) + "\n")
    text = table(study, results)
    (folder / "table.md").write_text(text + "\n")
    _plot(study, results, folder / "curves.png")
    return text


def table(study: Mapping[str, Any], results: Mapping[str, Result]) -> str:
    """The Markdown table, below a sentence about the original."""
    ppl, trained = study["original"]["ppl"], study["original"]["updates"]
    lines = [
        f"The RoBERTa: perplexity {ppl:.1f} after {trained:,.0f} updates. k = {study['projected_length']}, "
        f"{study['sharing']} sharing.",
        "",
        "| start of E and F | seconds to convert | perplexity, converted | updates to within 2 % | of the original's | "
        "perplexity at the end | after updates |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for way, result in results.items():
        until = updates_until(result, ppl * NEAR)
        share = "" if until is None or not trained else f"{until / trained:.1%}"
        cells = [
            way,
            "" if result.start is None else f"{result.seconds:.0f}",
            "" if result.start is None else f"{result.start:.1f}",
            "not reached" if until is None else f"{until:,}",
            share,
            f"{result.curve[-1][1]:.1f}",
            f"{result.curve[-1][0]:,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _plot(study: Mapping[str, Any], results: Mapping[str, Result], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for way, result in results.items():
        start = [] if result.start is None else [(0, result.start)]
        axes.plot(*zip(*start, *result.curve, strict=True), "o-", markersize=3, label=way)
    ppl = study["original"]["ppl"]
    axes.axhspan(ppl, ppl * NEAR, color="grey", alpha=0.3, label="RoBERTa, and 2 % above")
    axes.axvline(study["original"]["updates"] / 10, color="grey", linestyle=":", label="10 % of its updates")
    # Linear up to 100 updates, so that 0 has a place.
    axes.set_xscale("symlog", linthresh=100)
    axes.set(xlabel="updates", ylabel="validation perplexity", yscale="log", xlim=(0, None))
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)
