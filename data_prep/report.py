"""What a run made: ``manifest.json`` for programs, ``report.md`` and ``lengths.png`` for people.

The manifest is the same for equal input, settings and versions: no times in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from linformer_fairseq.io.files import replace_when_done, write_text

# Packages on which the bytes of the output depend.
PACKAGES = ("ftfy", "datasketch", "numpy", "pyarrow", "sentencepiece", "tokenizers")


def write_report(config: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """Writes the three files.

    Args:
        config: of the run.
        records: of its stages, in order; the last is that of ``binarize``.
        out: folder of the run.
    """
    manifest = {
        "config": config,
        "versions": {name: metadata.version(name) for name in ("linformer-fairseq", *PACKAGES) if _installed(name)},
        "stages": {
            stage: {"settings": record["settings"], "result": record["result"], "files": record["files"]}
            for stage, record in records.items()
        },
    }
    write_text(out / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    write_text(out / "report.md", report(records))
    final = records["binarize"]["result"]
    with replace_when_done(out / "lengths.png") as temporary:
        plot_lengths(final["length_edges"], final["lengths"], temporary)
    print("\n" + table(records))


def report(records: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of report.md."""
    text = f"# Data\n\n{table(records)}\n\nSeconds are those of all processes together.\n\n"
    text += "![Tokens per document](lengths.png)\n"
    for stage, record in records.items():
        examples = record["result"].get("examples") or {}
        skipped = record["result"].get("skipped") or []
        if examples:
            text += f"\n## Dropped by {stage}, for example\n\n"
            text += "".join(f"- {reason}: {'; '.join(named)}\n" for reason, named in examples.items())
        if skipped:
            text += f"\n## Input that could not be read by {stage}\n\n" + "".join(f"- {line}\n" for line in skipped)
    return text


def table(records: Mapping[str, Mapping[str, Any]]) -> str:
    """A row per stage."""
    rows = ["| stage | documents | characters | tokens | seconds | dropped and why |", "|---|---:|---:|---:|---:|---|"]
    for stage, record in records.items():
        result = record["result"]
        cells = [str(sum(v for k, v in result.items() if k == key or k.endswith(f"_{key}"))) for key in _COUNTED]
        why = {**result.get("left_out", {}), **result.get("dropped", {})}
        if result.get("skipped"):
            why["could not be read"] = len(result["skipped"])
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(why.items(), key=lambda item: -item[1]))
        numbers = " | ".join("" if cell == "0" else f"{int(cell):,}" for cell in cells)
        rows.append(f"| {stage} | {numbers} | {record['seconds']:,.1f} | {reasons} |")
    return "\n".join(rows)


_COUNTED = ("documents", "characters", "tokens")


def plot_lengths(edges: list[int], counts: list[int], path: Path) -> None:
    """A histogram of the tokens per document.

    Args:
        edges: of the bins, (B + 1,), in tokens.
        counts: documents in each bin, (B,).
        path: of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.stairs(counts, edges, fill=True, alpha=0.7)
    axes.set_xscale("log", base=2)
    used = [edge for edge, count in zip(edges, counts, strict=False) if count]
    if used:
        axes.set_xlim(used[0] / 2, used[-1] * 4)
    axes.set(xlabel="tokens", ylabel="documents", title="Tokens per document")
    axes.grid(alpha=0.3)
    figure.savefig(path, format="png", dpi=110)


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
