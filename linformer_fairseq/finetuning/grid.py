"""Many fine-tunings, shared by the processes of one command and by all commands with the same --out; then one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tqdm import tqdm

from linformer_fairseq.finetuning.report import Row
from linformer_fairseq.finetuning.train import RESULT, Result, Run, finetune, read_result
from linformer_fairseq.io.records import WORK
from linformer_fairseq.io.shards import Done, Shard, record_of, run_shards
from linformer_fairseq.tables import Table


@dataclass(frozen=True)
class Job:
    """One fine-tuning of a grid."""

    task: str  # its name in the table
    run: Run  # its settings
    tables: Callable[[], tuple[Table, Mapping[str, Table]]]  # training rows and evaluations; can be pickled
    data: Path | None  # see `train.finetune`
    out: Path


def run_grid(jobs: Sequence[Job], out: Path, processes: int = 1) -> list[Result]:
    """Run all jobs that are not finished, together with all commands that have the same `out`; return all results.

    Args:
        jobs: with folders below `out`.
        out: folder of the grid.
        processes: that work at the same time; one is this process itself.

    Raises:
        UsageError: a run failed, or its folder holds one of other settings.
    """
    shards = []
    for job in jobs:
        shards.append(Shard("-".join(job.out.relative_to(out).parts) or "run", (job,)))
        if read_result(job.run, job.out) is None:
            record_of(out / WORK, shards[-1].name).unlink(missing_ok=True)  # its folder was deleted
    run_shards(out, shards, run_job, processes if processes > 1 else 0, "fine-tuning", " runs")
    return [result for job in jobs if (result := read_result(job.run, job.out)) is not None]


def run_job(job: Job) -> Done:
    """Run one job and print its scores."""
    result = finetune(job.run, *job.tables(), job.data, job.out)
    for name, count in result["longer"].items():
        if count:
            keep = job.run.labels.keep
            read = "they were read in chunks" if keep == "chunks" else f"their {keep} was kept"
            tqdm.write(f"{job.task} {name}: {count:,} rows are longer than the model reads; {read}")
    scores = _flat(result["scores"], named=True)
    tqdm.write(f"{job.out}: {', '.join(f'{name} {value:.2f}' for name, value in scores.items())}")
    return Done({}, [job.out / RESULT])


def best(jobs: Sequence[Job], results: Sequence[Result]) -> dict[str, tuple[Row, Job]]:
    """For each task, the setting with the best median of its first metric, and the job that is its median.

    Of an even number of seeds it is the lower one of the two in the middle.
    """
    settings: dict[tuple[str, str], list[tuple[Job, Result]]] = {}
    for job, result in zip(jobs, results, strict=True):
        settings.setdefault((job.task, job.run.in_words()), []).append((job, result))
    chosen: dict[str, tuple[float, Row, Job]] = {}
    for (task, setting), runs in settings.items():
        result = runs[0][1]
        scores = [_flat(other["scores"]) for _, other in runs]
        by_metric = {name: [found[name] for found in scores] for name in scores[0]}
        values = next(iter(by_metric.values()))
        middle = sorted(range(len(values)), key=values.__getitem__)[(len(values) - 1) // 2]
        if task not in chosen or median(values) > chosen[task][0]:
            row = Row(task, setting, result["rows"], by_metric, _flat(result["constant"]))
            chosen[task] = median(values), row, runs[middle][0]
    return {task: (row, job) for task, (_, row, job) in chosen.items()}


def _flat(scores: Mapping[str, Mapping[str, float]], named: bool = False) -> dict[str, float]:
    """Scores by names such as "dev accuracy"; of a single evaluation the name is left out, unless `named`."""
    return {
        f"{name} {metric}" if named or len(scores) > 1 else metric: value
        for name, found in scores.items()
        for metric, value in found.items()
    }
