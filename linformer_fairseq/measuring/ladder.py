"""Trainings of the recipe `tiny_n512_k128` that differ in settings: perplexity over tokens and over processor minutes.

Each is trained by the real fairseq-train on one CPU thread. Minutes are processor minutes of one core, so that
trainings beside each other can be compared. With several seeds, the table has medians with the least and the greatest,
and the picture the first seed.
"""

import math
import os
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from linformer_fairseq.measuring.plots import Panel, plot_lines
from linformer_fairseq.measuring.study import Cells, Measurement, Options, Results, flag, in_a_process, markdown
from linformer_fairseq.measuring.trainings import TOKENS, schedule, train

Curve = list[dict[str, Any]]
BATCH = "dataset.batch_size"
ROWS = 8  # of the recipe's batches


@dataclass(frozen=True)
class Ladder:
    """The variants of a study: settings that differ from the recipe's, by a name for tables and plots."""

    variants: Mapping[str, Mapping[str, Any]]
    style: Callable[[str], str]  # of a variant's line

    def measurement(self, file: str, about: str | None) -> Measurement:
        """The script."""
        names = list(self.variants)
        flags = [
            flag("data", Path, "folder made by `python -m data_prep binarize`"),
            flag("--updates", 4900, "of 4,096 tokens, more of fewer", quick=20),
            flag("--parallel", 1, "trainings at a time, one thread each", cells=True),
            flag("--seeds", 1, "trainings of a variant", cells=True),
            flag("--variants", names, choices=names, cells=True),
        ]
        return Measurement(file, about, flags, self.measure, self.table, {"curves.png": self.plot})

    def measure(self, options: Options, cells: Cells) -> None:
        os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        work = {}
        for seed in range(1, options.seeds + 1):
            for variant in options.variants:
                run = options.out / f"run-{list(self.variants).index(variant)}-{seed}"
                settings = {"common.seed": seed, **self.variants[variant]}
                name = cell(variant, seed)
                work[name] = in_a_process(train_variant, name, settings, options.data, run, options.updates)
        cells.run(work, parallel=options.parallel)

    def validations(self, results: Results) -> dict[str, list[Curve]]:
        """The points of validation by variant, a curve for each seed."""
        found: dict[str, list[Curve]] = {variant: [] for variant in self.variants}
        for name, points in sorted(results["cells"].items()):
            found[name.partition(", seed ")[0]].append([p for p in points if p["split"] == "valid"])
        return {variant: curves for variant, curves in found.items() if curves}

    def tokens(self, variant: str) -> float:
        """Of an update, in millions."""
        rows: int = self.variants[variant].get(BATCH, ROWS)
        return rows / ROWS * TOKENS / 1e6

    def table(self, results: Results) -> str:
        """Perplexity at equal tokens, and at the minutes in which the first variant was done."""
        curves = self.validations(results)
        name, [first, *_] = next(iter(curves.items()))
        timed = "cpu_seconds" in first[-1]  # not on a GPU that several runs shared
        shown = [first[i]["update"] * self.tokens(name) for i in (len(first) // 4, len(first) // 2, len(first) - 1)]
        rows = []
        for variant, seeds in curves.items():
            size = self.tokens(variant)
            nearest = [[min(valid, key=lambda p: abs(p["update"] * size - t)) for valid in seeds] for t in shown]
            row = [variant, *(of_seeds([point["perplexity"] for point in points]) for points in nearest)]
            if timed:
                row.append(of_seeds([perplexity_at(valid, first[-1]["cpu_seconds"]) for valid in seeds]))
                row.append(f"{median(valid[-1]['cpu_seconds'] / 60 for valid in seeds):.0f}")
            rows.append(row)
        header = ["", *(f"{t:.{0 if shown[-1] >= 10 else 1}f} M tokens" for t in shown)]
        header += [f"at {first[-1]['cpu_seconds'] / 60:.0f} min", "minutes for all"] if timed else []
        return markdown(header, rows)

    def plot(self, results: Results, path: Path) -> None:
        """Perplexity over tokens, and over minutes."""
        curves = {name: seeds[0] for name, seeds in self.validations(results).items()}

        def panel(label: str, at: Callable[[str, dict[str, Any]], float]) -> Panel:
            return Panel(label, {n: [(at(n, p), p["perplexity"]) for p in valid] for n, valid in curves.items()})

        panels = [panel("million tokens", lambda name, p: p["update"] * self.tokens(name))]
        if all("cpu_seconds" in p for valid in curves.values() for p in valid):
            panels.append(panel("minutes of one processor core", lambda _, p: p["cpu_seconds"] / 60))
        plot_lines(path, "validation perplexity", panels, self.style)


def cell(variant: str, seed: int) -> str:
    """The name of a training."""
    return variant if seed == 1 else f"{variant}, seed {seed}"


def train_variant(name: str, settings: Mapping[str, Any], data: Path, run: Path, updates: int) -> Curve:
    """Points of a training: update, split (train or valid), loss (bits), perplexity, processor seconds so far."""
    updates = updates * ROWS // settings.get(BATCH, ROWS)
    start = time.monotonic()
    metrics = train(data, run, {**schedule(updates), "common.log_interval": 50, **settings}, name)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # of the last start, if there were several
    share = (used.ru_utime + used.ru_stime) / (time.monotonic() - start)
    names = ("update", "split", "loss", "perplexity")
    return [{n: m[n] for n in names} | {"cpu_seconds": round(m["seconds"] * share, 1)} for m in metrics]


def of_seeds(values: list[float]) -> str:
    """A figure of each seed: the median, and the least and the greatest of several."""
    found = f"{median(values):.1f}"
    return found if len(values) == 1 else f"{found} ({min(values):.1f}-{max(values):.1f})"


def perplexity_at(valid: Curve, seconds: float) -> float:
    """Validation perplexity after that many processor seconds, interpolated; the last one after the end."""
    times, losses = [p["cpu_seconds"] for p in valid], [math.log(p["perplexity"]) for p in valid]
    return math.exp(np.interp(seconds, times, losses))
