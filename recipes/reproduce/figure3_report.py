"""Table and plot of perplexity curves."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

Curve = list[dict[str, Any]]


def write_report(curves: dict[str, Curve], tokens_per_update: int, folder: Path) -> None:
    """Writes results.json, table.md and curves.png.

    Args:
        curves: for each variant its points, with `num_updates`, `split`, `ppl` and `cpu_seconds`.
        tokens_per_update: tokens of one update.
        folder: where to write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    packages = {name: version(name) for name in ("torch", "ve-fairseq", "numpy")}
    record = {"processor": _processor(), "python": platform.python_version(), **packages, "curves": curves}
    (folder / "results.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / "table.md").write_text(table(curves, tokens_per_update) + "\n")
    _plot(curves, tokens_per_update, folder / "curves.png")


def table(curves: dict[str, Curve], tokens_per_update: int) -> str:
    """A Markdown table: perplexity at equal tokens, and at the minutes in which the first variant was done."""
    minutes = _valid(next(iter(curves.values())))[-1]["cpu_seconds"] / 60
    points = [p["num_updates"] for p in _valid(next(iter(curves.values())))]
    shown = [points[i] for i in (len(points) // 4, len(points) // 2, len(points) - 1)]
    tokens = [f"{n * tokens_per_update / 1e6:.0f} M tokens" for n in shown]
    rows = [
        ["", *tokens, f"at {minutes:.0f} min", "minutes for all"],
        ["---"] + ["---:"] * (len(shown) + 2),
    ]
    for name, curve in curves.items():
        at = {p["num_updates"]: p["ppl"] for p in _valid(curve)}
        whole = _valid(curve)[-1]["cpu_seconds"] / 60
        rows.append(
            [
                name,
                *(f"{at[n]:.1f}" for n in shown),
                f"{perplexity_at(curve, minutes * 60):.1f}",
                f"{whole:.0f}",
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def perplexity_at(curve: Curve, seconds: float) -> float:
    """Validation perplexity after that many processor seconds, interpolated; the last one for a run that was done."""
    valid = _valid(curve)
    for before, after in zip(valid, valid[1:], strict=False):
        if before["cpu_seconds"] <= seconds < after["cpu_seconds"]:
            share = (seconds - before["cpu_seconds"]) / (after["cpu_seconds"] - before["cpu_seconds"])
            return float(before["ppl"] * (after["ppl"] / before["ppl"]) ** share)
    return float(valid[-1]["ppl"] if seconds >= valid[-1]["cpu_seconds"] else valid[0]["ppl"])


def _valid(curve: Curve) -> Curve:
    return [p for p in curve if p["split"] == "valid"]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _plot(curves: dict[str, Curve], tokens_per_update: int, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (by_tokens, by_minutes) = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for name, curve in curves.items():
        valid = _valid(curve)
        ppl = [p["ppl"] for p in valid]
        style = "-" if "Linformer" in name else "--" if "no attention" not in name else ":"
        by_tokens.plot([p["num_updates"] * tokens_per_update / 1e6 for p in valid], ppl, style, label=name)
        by_minutes.plot([p["cpu_seconds"] / 60 for p in valid], ppl, style, label=name)
    by_tokens.set(xlabel="million tokens", ylabel="validation perplexity", yscale="log")
    by_minutes.set(xlabel="minutes of one processor core")
    by_tokens.legend(fontsize=8)
    for axis in (by_tokens, by_minutes):
        axis.grid(alpha=0.3, which="both")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
