"""Short trainings by the real fairseq-train, mostly of the recipe `tiny_n512_k128`, and studies of its variants."""

import math
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, encoder_config, read
from linformer_fairseq.errors import UsageError
from linformer_fairseq.measuring.plots import Panel, plot_lines
from linformer_fairseq.measuring.study import Cells, Measurement, Options, Results, flag, in_a_process, markdown
from linformer_fairseq.paths import RECIPES, USER_DIR
from linformer_fairseq.training.metrics import read_metrics
from linformer_fairseq.training.progress import parse_line, run_logged
from linformer_fairseq.training.recipe import fairseq_train_argv

RECIPE = RECIPES / "pretrain/tiny_n512_k128.yaml"
BATCH, ROWS = "dataset.batch_size", 8  # of the recipe
TOKENS = ROWS * 512  # of an update
Metrics = list[dict[str, Any]]
SPECIAL = 5  # <s>, <pad>, </s>, <unk> come before the symbols of dict.txt, <mask> after them


def schedule(updates: int, validations: int = 10) -> dict[str, Any]:
    """Settings of a training of so many updates that validates and saves so often."""
    every = max(1, updates // validations)
    return {
        "optimization.max_update": updates,
        "lr_scheduler.total_num_update": updates,
        "lr_scheduler.warmup_updates": max(1, updates // 10),
        "dataset.validate_interval_updates": every,
        "checkpoint.save_interval_updates": every,
    }


def longer(tokens: int) -> dict[str, Any]:
    """Settings for inputs of so many tokens, with as many tokens in an update."""
    return {"task.tokens_per_sample": tokens, BATCH: max(1, TOKENS // tokens)}


def train(
    data: Path, run: Path, settings: Mapping[str, Any], label: str, start: Path | None = None, recipe: Path = RECIPE
) -> Metrics:
    """Train with these changes to a recipe, or resume; the lines of RUN/checkpoints/metrics.jsonl.

    The parameters are those of the checkpoint `start`, if there is one. `label` is the text of the progress line.
    """
    argv = fairseq_train_argv(recipe, data, run / "checkpoints", settings)
    if start is not None and not (run / "checkpoints/checkpoint_last.pt").exists():
        argv += ["--restore-file", str(start)]
    run_logged(argv, run / "train.log", settings["optimization.max_update"], label)
    return read_metrics(run / "checkpoints")


def curve(metrics: Metrics) -> list[tuple[int, float]]:
    """Updates and validation perplexities."""
    return [(line["update"], line["perplexity"]) for line in metrics if line["split"] == "valid"]


def perplexity(data: Path, checkpoint: Path, length: int, log: Path) -> float:
    """Perplexity of the masked tokens of the validation set, in blocks of `length` tokens."""
    log.unlink(missing_ok=True)
    argv = ["fairseq-validate", str(data), "--user-dir", str(USER_DIR), "--task", "masked_lm", "--path"]
    argv += [str(checkpoint), "--batch-size", str(max(1, TOKENS // length)), "--required-batch-size-multiple", "1"]
    argv += ["--model-overrides", repr({"tokens_per_sample": length, "data": str(data)}), "--log-format", "json"]
    run_logged(argv, log)
    found = [figures["ppl"] for line in log.read_text().splitlines() if (figures := parse_line(line))]
    return float(found[-1])


def with_symbols(data: Path, symbols: int, folder: Path) -> Path:
    """A folder with the text of `data` by links, and a dictionary with which models have at least `symbols` symbols.

    So a model has the embeddings and the head that it would have in earnest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in data.iterdir():
        link = folder / file.name
        if file.suffix in (".bin", ".idx") and not link.exists():
            link.symlink_to(file.resolve())
    lines = (data / "dict.txt").read_text(encoding="utf-8").splitlines()
    lines += [f"madeupword{number:06d} 0" for number in range(symbols - SPECIAL - len(lines))]
    (folder / "dict.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def students(given: Sequence[str], original: Checkpoint) -> Iterator[tuple[str, Checkpoint]]:
    """Names and models of --student NAME=FILE; UsageError for one that reads other ids than `original`."""
    for word in given:
        name, _, file = word.partition("=")
        if not (name and file) or "/" in name:
            raise UsageError(f"--student {word}: must be NAME=FILE, such as distilled=student.pt")
        student = read(Path(file))
        if encoder_config(student).vocab_size != encoder_config(original).vocab_size:
            raise UsageError(f"--student {word}: has another vocabulary than the original")
        yield name, student


@dataclass(frozen=True)
class Ladder:
    """A study of variants, settings that differ from the recipe's by a name: perplexity over tokens and over minutes.

    Each is trained on one CPU thread. Minutes are processor minutes of one core, so that trainings beside each other
    can be compared. Of several seeds the table has the median, the least and the greatest, the picture the first.
    """

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

    def validations(self, results: Results) -> dict[str, list[Metrics]]:
        """The points of validation by variant, a curve for each seed."""
        found: dict[str, list[Metrics]] = {variant: [] for variant in self.variants}
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


def train_variant(
    name: str, settings: Mapping[str, Any], data: Path, run: Path, updates: int, recipe: Path = RECIPE
) -> Metrics:
    """Points of a training: update, split (train or valid), loss (bits), perplexity, processor seconds so far."""
    updates = updates * ROWS // settings.get(BATCH, ROWS)
    start = time.monotonic()
    metrics = train(data, run, {**schedule(updates), "common.log_interval": 50, **settings}, name, recipe=recipe)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # of the last start, if there were several
    share = (used.ru_utime + used.ru_stime) / (time.monotonic() - start)
    names = ("update", "split", "loss", "perplexity")
    return [{n: m[n] for n in names} | {"cpu_seconds": round(m["seconds"] * share, 1)} for m in metrics]


def of_seeds(values: list[float]) -> str:
    """A figure of each seed: the median, and the least and the greatest of several."""
    found = f"{median(values):.1f}"
    return found if len(values) == 1 else f"{found} ({min(values):.1f}-{max(values):.1f})"


def perplexity_at(valid: Metrics, seconds: float) -> float:
    """Validation perplexity after that many processor seconds, interpolated; the last one after the end."""
    times, losses = [p["cpu_seconds"] for p in valid], [math.log(p["perplexity"]) for p in valid]
    return math.exp(np.interp(seconds, times, losses))
