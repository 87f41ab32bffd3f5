"""Many fine-tunings: one after another, on several processes, or as the tasks of a Slurm array; then one table."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tqdm import tqdm

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.report import Row
from linformer_fairseq.finetuning.tables import Table
from linformer_fairseq.finetuning.train import RESULT, Result, Run, finetune, read_result

_LAST_LINES = 12


@dataclass(frozen=True)
class Job:
    """One fine-tuning of a grid.

    Attributes:
        task: its name in the table.
        setting: what differs between the settings of a task, in words.
        run, train, evaluations, data, out: see `train.finetune`.
    """

    task: str
    setting: str
    run: Run
    train: Table
    evaluations: Mapping[str, Table]
    data: Path | None
    out: Path


def parse_part(text: str) -> tuple[int, int]:
    """`3/8`, the third of eight parts of a grid, as (3, 8).

    Raises:
        UsageError: no such part.
    """
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UsageError(f"--part {text}: must be I/N with I from 1 to N, such as 3/8")
    return int(part), int(parts)


def do(jobs: Sequence[Job], part: tuple[int, int] = (1, 1)) -> None:
    """Runs every job of a part that is not finished, and says what each has reached."""
    for job in jobs[part[0] - 1 :: part[1]]:
        result = finetune(job.run, job.train, job.evaluations, job.data, job.out)
        for name, count in result["longer"].items():
            if count:
                keep = job.run.labels.keep
                kept = "all of it was read, in chunks" if keep == "chunks" else f"of them the {keep} was kept"
                print(f"{job.task} {name}: {count:,} rows were longer than the model reads; {kept}")
        print(f"{job.out}: {in_words(result)}", flush=True)


def in_words(result: Result) -> str:
    """ "dev accuracy 81.5", and so on for all evaluations and metrics."""
    return ", ".join(
        f"{name} {metric} {value:.2f}" for name, found in result["scores"].items() for metric, value in found.items()
    )


def do_on_processes(command: Sequence[str], jobs: Sequence[Job], processes: int, out: Path) -> None:
    """Runs `command --part I/N` as N processes, with a bar over finished jobs.

    Args:
        command: the program and its arguments without `--part`.
        jobs: all of them, to see what is finished.
        processes: N.
        out: for the logs `part-I.log`.

    Raises:
        UsageError: one of them failed; the others are stopped, and what they did is kept.
    """
    out.mkdir(parents=True, exist_ok=True)
    logs = [out / f"part-{i}.log" for i in range(1, processes + 1)]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for i, log in enumerate(logs, start=1):
            with log.open("ab") as file:
                part = ["--part", f"{i}/{processes}"]
                running.append(subprocess.Popen([*command, *part], stdout=file, stderr=subprocess.STDOUT))
        with tqdm(total=len(jobs), unit=" runs", desc=f"{processes} processes") as bar:
            while any(process.poll() is None for process in running):
                bar.update(sum((job.out / RESULT).exists() for job in jobs) - bar.n)
                if any(process.poll() for process in running):
                    break
                time.sleep(0.5)
            bar.update(sum((job.out / RESULT).exists() for job in jobs) - bar.n)
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
            process.wait()
    for process, log in zip(running, logs, strict=True):
        if process.returncode > 0:
            end = "".join(log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[-_LAST_LINES:])
            raise UsageError(f"a part of the grid failed; the end of {log}:\n{end}")


def results(jobs: Sequence[Job]) -> list[Result] | None:
    """The results of all jobs, or None while one is missing."""
    found = [read_result(job.run, job.out) for job in jobs]
    return [result for result in found if result is not None] if all(found) else None


def best(jobs: Sequence[Job], found: Sequence[Result]) -> dict[str, tuple[Row, Job]]:
    """For each task the setting with the best median of its first metric, and the job that is its median.

    Of an even number of seeds it is the lower one of the two in the middle.
    """
    settings: dict[tuple[str, str], list[tuple[Job, Result]]] = {}
    for job, result in zip(jobs, found, strict=True):
        settings.setdefault((job.task, job.setting), []).append((job, result))
    chosen: dict[str, tuple[float, Row, Job]] = {}
    for (task, setting), runs in settings.items():
        first, metric = next(iter(runs[0][0].evaluations)), runs[0][0].run.metrics[0]
        values = [result["scores"][first][metric] for _, result in runs]
        middle = sorted(range(len(values)), key=values.__getitem__)[(len(values) - 1) // 2]
        if task not in chosen or median(values) > chosen[task][0]:
            row = Row(task, setting, runs[0][1]["rows"], _by_metric(runs), _flat(runs[0][1]["constant"]))
            chosen[task] = median(values), row, runs[middle][0]
    return {task: (row, job) for task, (_, row, job) in chosen.items()}


def _by_metric(runs: Sequence[tuple[Job, Result]]) -> dict[str, list[float]]:
    flat = [_flat(result["scores"]) for _, result in runs]
    return {name: [scores[name] for scores in flat] for name in flat[0]}


def _flat(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """ "dev accuracy" and so on; what is scored on a single set of rows needs no name for it."""
    return {
        f"{name} {metric}" if len(scores) > 1 else metric: value
        for name, found in scores.items()
        for metric, value in found.items()
    }
