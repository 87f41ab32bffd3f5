"""Many fine-tunings, shared by the processes of one command and by all commands with the same --out; then one table.

Beside each task stands what a model must beat: a linear model of TF-IDF features, on the same rows and metrics.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from tqdm import tqdm

from linformer_fairseq.finetuning.labels import targets
from linformer_fairseq.finetuning.report import Row, table
from linformer_fairseq.finetuning.train import RESULT, Result, Run, finetune, read_result
from linformer_fairseq.inference import KEEPS
from linformer_fairseq.io.files import write_text
from linformer_fairseq.io.records import WORK
from linformer_fairseq.io.shards import Done, Shard, record_of, run_shards
from linformer_fairseq.scores import Array, constant, scores_of
from linformer_fairseq.tables import Table


def run_grid(runs: Sequence[Run], out: Path, processes: int = 1) -> dict[str, tuple[Row, Run]]:
    """Finish all runs, together with all commands that have the same `out`, and return what `best` does.

    UsageError if a run failed, or its folder, which is below `out`, holds one of other settings.
    """
    shards = []
    for run in runs:
        shards.append(Shard("-".join(run.out.relative_to(out).parts) or "run", (run,)))
        if read_result(run) is None:
            record_of(out / WORK, shards[-1].name).unlink(missing_ok=True)  # its folder was deleted
    workers = processes if processes > 1 else 0
    run_shards(out, shards, finish_run, workers, "fine-tuning", " runs")
    chosen = best([(run, result) for run in runs if (result := read_result(run)) is not None])
    baselines = {task: baseline_shard(run) for task, (_, run) in chosen.items()}
    done = run_shards(out, list(baselines.values()), linear, workers, "TF-IDF baselines", " tasks")
    found = {task: _flat(done[shard.name]["result"]) for task, shard in baselines.items()}
    return {task: (replace(row, linear=found[task]), run) for task, (row, run) in chosen.items()}


def baseline_shard(run: Run) -> Shard:
    """The work of `linear`, once for all runs with the same rows, classes and metrics."""
    rows = {name: table.digest() for name, table in run.tables.items()}
    settings = [run.task, rows, run.labels.classes, run.labels.several, run.metrics, run.balanced]
    return Shard(f"linear-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]}", (run,))


def linear(run: Run) -> Done:
    """Scores by evaluation of logistic regression, for scores ridge regression, on TF-IDF of words and pairs.

    Both with scikit-learn's defaults; nothing is tuned. Texts are whole, and a column has its own features.
    """
    train = run.tables["train"]
    vectorizers = []
    for texts in zip(*train.texts, strict=True):
        vectorizers.append(TfidfVectorizer(ngram_range=(1, 2)))
        try:
            vectorizers[-1].fit(texts)
        except ValueError:  # punctuation alone, or letters alone, are no words to scikit-learn: then characters are
            vectorizers[-1].set_params(analyzer="char").fit(texts)

    def features(table: Table) -> Any:
        columns = zip(vectorizers, zip(*table.texts, strict=True), strict=True)
        return scipy.sparse.hstack([vectorizer.transform(texts) for vectorizer, texts in columns]).tocsr()

    wanted = {name: targets(table, run.labels) for name, table in run.tables.items()}
    classes, y = len(run.labels.classes), wanted["train"]
    given, model = constant(y, classes), None
    if not classes:
        model = Ridge().fit(features(train), y)
    elif len(np.unique(y, axis=0)) > 1:
        model = LogisticRegression(max_iter=1000, class_weight="balanced" if run.balanced else None)
        model = (OneVsRestClassifier(model) if run.labels.several else model).fit(features(train), y)

    def logits(table: Table) -> Array:
        found = np.tile(given, (len(table), 1))
        if model is not None and not classes:
            found[:, 0] = model.predict(features(table))
        elif model is not None:
            scores = model.decision_function(features(table))
            ids = model.classes_.astype(int)
            found[:, ids] = scores if scores.ndim > 1 else np.stack([-scores, scores], 1) / 2
        return found

    evaluations = {name: table for name, table in run.tables.items() if name != "train"}
    return Done({name: scores_of(run.metrics, wanted[name], logits(table)) for name, table in evaluations.items()})


def finish_run(run: Run) -> Done:
    """Finish one run and print its scores."""
    result = finetune(run)
    for name, count in result["longer"].items():
        if count:
            read = KEEPS[run.labels.keep]
            tqdm.write(f"{run.task} {name}: {count:,} rows are longer than the model reads ({read})")
    scores = _flat(result["scores"], named=True)
    tqdm.write(f"{run.out}: {', '.join(f'{name} {value:.2f}' for name, value in scores.items())}")
    return Done({}, [run.out / RESULT])


def best(results: Sequence[tuple[Run, Result]]) -> dict[str, tuple[Row, Run]]:
    """For each task, the setting with the best median of its first metric, and the run that is its median.

    Of an even number of seeds it is the lower one of the two in the middle.
    """
    chosen: dict[str, tuple[Row, Run]] = {}
    for row, runs in _settings(results):
        if row.task not in chosen or median(row.first) > median(chosen[row.task][0].first):
            middle = sorted(range(len(runs)), key=row.first.__getitem__)[(len(runs) - 1) // 2]
            chosen[row.task] = row, runs[middle]
    return chosen


def settings_table(runs: Sequence[Run], out: Path) -> str:
    """Write settings.md, a line for each setting and metric of finished runs, and return it."""
    found = _settings([(run, result) for run in runs if (result := read_result(run)) is not None])
    text = table({"median (range)": [replace(row, task=f"{row.task}, {row.setting}") for row, _ in found]})
    write_text(out / "settings.md", text + "\n")
    return text


def _settings(results: Sequence[tuple[Run, Result]]) -> list[tuple[Row, list[Run]]]:
    """A row for each setting of each task, and its runs."""
    settings: dict[tuple[str, str], list[tuple[Run, Result]]] = {}
    for run, result in results:
        settings.setdefault((run.task, run.in_words()), []).append((run, result))
    rows = []
    for (task, setting), found in settings.items():
        result = found[0][1]
        scores = [_flat(other["scores"]) for _, other in found]
        by_metric = {name: [one[name] for one in scores] for name in scores[0]}
        beside = {"linear": _flat(result.get("linear", {})), **result.get("names", {})}
        row = Row(task, setting, result["rows"], by_metric, _flat(result["constant"]), **beside)
        rows.append((row, [run for run, _ in found]))
    return rows


def _flat(scores: Mapping[str, Mapping[str, float]], named: bool = False) -> dict[str, float]:
    """Scores by names such as "dev accuracy"; of a single evaluation the name is left out, unless `named`."""
    return {
        f"{name} {metric}" if named or len(scores) > 1 else metric: value
        for name, found in scores.items()
        for metric, value in found.items()
    }
