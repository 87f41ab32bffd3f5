"""Tables of results over tasks and seeds, Markdown, CSV, JSON and PNG, beside other models and the paper's."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import matplotlib

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import replace_when_done

matplotlib.use("Agg")  # no screen needed
import matplotlib.pyplot as plt  # noqa: E402

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
        setting: learning rate, batch size and epochs.
        rows: of train and of each evaluation.
        scores: each metric, one value a seed, in percent; a metric of several evaluations has their name before it.
        constant: each metric of the most frequent answer in training, given to every row.
    """

    task: str
    setting: str
    rows: dict[str, int]
    scores: dict[str, list[float]]
    constant: dict[str, float]

    @property
    def headline(self) -> str:
        """The metric to look at: the first one, on the last evaluation, which is the test set where there is one."""
        first = next(iter(self.scores)).split()[-1]
        return [metric for metric in self.scores if metric.split()[-1] == first][-1]

    def scored(self, metric: str) -> int:
        """Rows behind a metric."""
        evaluations = [name for name in self.rows if name != "train"]
        return self.rows[metric.split()[0] if len(evaluations) > 1 else evaluations[0]]


Grids = Mapping[str, Sequence[Row]]


def read_rows(folder: Path) -> list[Row]:
    """The rows of an earlier table.

    Raises:
        UsageError: none there.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise UsageError(f"{path}: no such file; finetune_glue.py writes it when all runs of a grid are finished")
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def table(grids: Grids) -> str:
    """The Markdown table: a line a task and metric, a column a model with its median and spread over seeds."""
    head = ["task", "train", "scored", "metric", "constant answer", *grids, *PAPER, "setting"]
    lines = [f"| {' | '.join(head)} |", "|---|---:|---:|---|---:|" + "---:|" * (len(head) - 6) + "---|"]
    for row in _rows(grids):
        for metric in row.scores:
            found = [_cell(_find(rows, row.task), metric) for rows in grids.values()]
            paper = [f"{p[row.task]:.1f}" if metric == row.headline and row.task in p else "" for p in PAPER.values()]
            sizes = [f"{row.rows['train']:,}", f"{row.scored(metric):,}"]
            cells = [row.task, *sizes, metric, f"{row.constant[metric]:.1f}", *found, *paper, row.setting]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Row | None, metric: str) -> str:
    values = row.scores.get(metric, []) if row else []
    if len(values) < 2:
        return f"{values[0]:.1f} (one seed)" if values else ""
    return f"{median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def _rows(grids: Grids) -> list[Row]:
    """One row of each task, in order."""
    found: dict[str, Row] = {}
    for rows in grids.values():
        for row in rows:
            found.setdefault(row.task, row)
    return list(found.values())


def _find(rows: Sequence[Row], task: str) -> Row | None:
    return next((row for row in rows if row.task == task), None)


def write_table(rows: Sequence[Row], out: Path, name: str = "median (range)", beside: Grids | None = None) -> str:
    """Writes results.md, results.csv, results.json and results.png; the text of the first.

    Args:
        rows: of this grid.
        out: folder; results.json holds only this grid, so that it can stand beside another.
        name: of this grid's model.
        beside: other models and their rows.
    """
    grids = {name: rows, **(beside or {})}
    text = table(grids)
    out.mkdir(parents=True, exist_ok=True)
    with replace_when_done(out / "results.md") as path:
        path.write_text(text + "\n", encoding="utf-8")
    with replace_when_done(out / "results.json") as path:
        path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    with replace_when_done(out / "results.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "task", "setting", "metric", "seed", "score"])
        for model, found in grids.items():
            for row in found:
                for metric, values in row.scores.items():
                    for seed, value in enumerate(values, start=1):
                        writer.writerow([model, row.task, row.setting, metric, seed, value])
    with replace_when_done(out / "results.png") as path:
        _plot(grids, path)
    return text


def _plot(grids: Grids, path: Path) -> None:
    """The headline of each task: a bar from the lowest to the highest seed, a point at the median."""
    rows = _rows(grids)
    figure, axes = plt.subplots(figsize=(max(5.0, 1.3 * len(rows)), 4.2), dpi=110, layout="constrained")
    for number, (name, found) in enumerate(grids.items()):
        for place, row in enumerate(rows):
            own = _find(found, row.task)
            if own is None:
                continue
            values = own.scores[own.headline]
            x = place + 0.7 * ((number + 0.5) / len(grids) - 0.5)
            axes.vlines(x, min(values), max(values), color=f"C{number}", linewidth=3, alpha=0.4)
            axes.plot(x, median(values), "o", color=f"C{number}", label=name if own is found[0] else "")
    for place, row in enumerate(rows):
        constant = row.constant[row.headline]
        label = "" if place else "the same answer for every row"
        axes.hlines(constant, place - 0.4, place + 0.4, color="gray", linestyle="--", label=label)
    labels = [f"{row.task}\n{row.headline}" for row in rows]
    axes.set_xticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylabel("percent")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, format="png", metadata={"Software": ""})
    plt.close(figure)
