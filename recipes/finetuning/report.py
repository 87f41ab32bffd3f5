"""A table of results over tasks and seeds: Markdown, CSV and JSON, beside the paper's."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from linformer_fairseq.checkpoints.checkpoint import atomically

# Dev accuracy in table 2 of the paper (Wang et al. 2020) of models with n = 512 pretrained as RoBERTa-base.
PAPER = {
    "RoBERTa-base (paper)": {"SST-2": 93.1, "IMDB": 94.1, "QNLI": 90.9, "QQP": 90.9},
    "Linformer, k = 256 (paper)": {"SST-2": 93.2, "IMDB": 94.0, "QNLI": 90.6, "QQP": 90.5},
}


@dataclass(frozen=True)
class Row:
    """The best setting of one task.

    Attributes:
        task: its name.
        setting: learning rate and batch size.
        rows: train, dev and broken rows.
        scores: each metric, one value a seed, in percent.
    """

    task: str
    setting: str
    rows: dict[str, Any]
    scores: dict[str, list[float]]


def table(rows: Sequence[Row]) -> str:
    """The Markdown table: median (lowest-highest) over seeds, and the paper's figures of that task."""
    head = ["task", "train", "dev", "metric", "median", "lowest", "highest", "seeds", "setting", *PAPER]
    lines = [f"| {' | '.join(head)} |", "|---|---:|---:|---|---:|---:|---:|---:|---|" + "---:|" * len(PAPER)]
    for row in rows:
        for number, (metric, values) in enumerate(row.scores.items()):
            figures = [f"{median(values):.1f}", f"{min(values):.1f}", f"{max(values):.1f}", str(len(values))]
            paper = [f"{p[row.task]:.1f}" if not number and row.task in p else "" for p in PAPER.values()]
            sizes = [f"{row.rows['train']:,}", f"{row.rows['dev']:,}"]
            lines.append(f"| {' | '.join([row.task, *sizes, metric, *figures, row.setting, *paper])} |")
    return "\n".join(lines)


def write_table(rows: Sequence[Row], out: Path) -> str:
    """Writes results.md, results.csv and results.json; the text of the first."""
    text = table(rows)
    with atomically(out / "results.md", force=True) as path:
        path.write_text(text + "\n", encoding="utf-8")
    with atomically(out / "results.json", force=True) as path:
        path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    with atomically(out / "results.csv", force=True) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "setting", "metric", "seed", "score"])
        for row in rows:
            for metric, values in row.scores.items():
                writer.writerows([row.task, row.setting, metric, seed, v] for seed, v in enumerate(values, start=1))
    return text
