"""Tables of results over tasks and seeds, beside other models and the paper's; pictures of predictions."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax
from sklearn.metrics import ConfusionMatrixDisplay

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import replace_when_done, write_json, write_text
from linformer_fairseq.scores import Array

# Dev accuracy in table 2 of the paper (Wang et al. 2020) of models with n = 512, pretrained like RoBERTa-base.
PAPER = {
    "RoBERTa-base (paper)": {"SST-2": 93.1, "IMDB": 94.1, "QNLI": 90.9, "QQP": 90.9},
    "Linformer, k = 256 (paper)": {"SST-2": 93.2, "IMDB": 94.0, "QNLI": 90.6, "QQP": 90.5},
}
BINS = 10  # of the calibration
BASELINE, LINEAR = "majority-class baseline", "TF-IDF + logistic regression"


@dataclass(frozen=True)
class Row:
    """The best setting of one task."""

    task: str  # its name
    setting: str  # learning rate, batch size and epochs
    rows: dict[str, int]  # number of rows of train and of each evaluation
    scores: dict[str, list[float]]  # a percentage a seed; of several evaluations, the keys are "dev accuracy", …
    constant: dict[str, float]  # the same if the majority class in training (or the mean score) is always predicted
    linear: dict[str, float] = field(default_factory=dict)  # the same of `grid.linear`
    constant_name: str = BASELINE  # of what `constant` and `linear` have the scores
    linear_name: str = LINEAR

    @property
    def first(self) -> list[float]:
        """The values of the first metric, on the first evaluation, by which settings and epochs are chosen."""
        return next(iter(self.scores.values()))

    @property
    def headline(self) -> str:
        """The first metric, on the last evaluation, which is the test set if there is one."""
        first = next(iter(self.scores)).split()[-1]
        return [metric for metric in self.scores if metric.split()[-1] == first][-1]

    def scored(self, metric: str) -> int:
        """Number of rows that a metric was computed on."""
        evaluations = [name for name in self.rows if name != "train"]
        return self.rows[metric.split()[0] if len(evaluations) > 1 else evaluations[0]]


Grids = Mapping[str, Sequence[Row]]


def read_rows(folder: Path) -> list[Row]:
    """The rows of a table that `write_table` wrote; UsageError if there is none."""
    path = folder / "results.json"
    if not path.is_file():
        raise UsageError(f"{path}: no such file; `linformer glue` writes it when all runs of a grid are finished")
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def write_table(rows: Sequence[Row], out: Path, name: str = "median (range)", beside: Grids | None = None) -> str:
    """Write results.md, results.csv, results.json and results.png, and return the Markdown table.

    `beside` has other models and their rows; results.json does not, so that it can be shown beside another grid.
    """
    grids = {name: rows, **(beside or {})}
    text = table(grids)
    write_text(out / "results.md", text + "\n")
    write_json(out / "results.json", [asdict(row) for row in rows])
    with replace_when_done(out / "results.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "task", "setting", "metric", "seed", "score"])
        lines = [(model, row, *item) for model, found in grids.items() for row in found for item in row.scores.items()]
        for model, row, metric, values in lines:
            writer.writerows([model, row.task, row.setting, metric, *pair] for pair in enumerate(values, start=1))
    save(_plot(grids), out / "results.png")
    return text


def table(grids: Grids) -> str:
    """A line for each task and metric, a column for each model: median and range over seeds."""
    first = next((row for rows in grids.values() for row in rows), Row("", "", {}, {}, {}))
    head = ["task", "train", "scored", "metric", first.constant_name, first.linear_name, *grids, *PAPER, "setting"]
    lines = [f"| {' | '.join(head)} |", "|---|---:|---:|---|---:|" + "---:|" * (len(head) - 6) + "---|"]
    for models in _by_task(grids):
        row = next(filter(None, models))
        for metric in row.scores:
            found = [_cell(own.scores.get(metric, []) if own else []) for own in models]
            paper = [f"{p[row.task]:.1f}" if metric == row.headline and row.task in p else "" for p in PAPER.values()]
            sizes = [f"{row.rows['train']:,}", f"{row.scored(metric):,}"]
            linear = f"{row.linear[metric]:.1f}" if metric in row.linear else ""
            cells = [row.task, *sizes, metric, f"{row.constant[metric]:.1f}", linear, *found, *paper, row.setting]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f} (one seed)" if values else ""
    return f"{median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def _by_task(grids: Grids) -> list[list[Row | None]]:
    """For each task, the row of every model, None where it has none."""
    tasks = dict.fromkeys(row.task for rows in grids.values() for row in rows)
    return [[next((row for row in rows if row.task == task), None) for rows in grids.values()] for task in tasks]


def _plot(grids: Grids) -> Figure:
    """The headline of each task: a line from the lowest to the highest seed, a point at the median."""
    tasks = _by_task(grids)
    rows = [next(filter(None, models)) for models in tasks]
    figure = Figure(figsize=(max(5.0, 1.3 * len(rows)), 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    for place, (row, models) in enumerate(zip(rows, tasks, strict=True)):
        for number, (name, own) in enumerate(zip(grids, models, strict=True)):
            if own is not None:
                values = own.scores[own.headline]
                x = place + 0.7 * ((number + 0.5) / len(grids) - 0.5)
                axes.vlines(x, min(values), max(values), color=f"C{number}", linewidth=3, alpha=0.4)
                axes.plot(x, median(values), "o", color=f"C{number}", label=name)
        limits = place - 0.4, place + 0.4
        axes.hlines(row.constant[row.headline], *limits, "gray", "--", label=row.constant_name)
        if row.linear:
            axes.hlines(row.linear[row.headline], *limits, "gray", ":", label=row.linear_name)
    axes.set_xticks(range(len(rows)), [f"{row.task}\n{row.headline}" for row in rows], fontsize=8)
    axes.set_ylabel("percent")
    axes.grid(axis="y", alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    axes.legend(named.values(), named.keys(), fontsize=8)
    return figure


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
    save(figure, path)


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
    save(figure, path)
    return error


def save(figure: Figure, path: Path) -> None:
    """Write a PNG that depends on nothing but the figure."""
    with replace_when_done(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": ""})
