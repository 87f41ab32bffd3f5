"""Fine-tunes a checkpoint on tasks of GLUE, with several seeds and settings, and makes a table of results.

    python recipes/finetune_glue.py --checkpoint checkpoint_best.pt --glue-dir glue --tasks RTE,MRPC --out runs

--glue-dir has a folder a task, as downloaded from GLUE. Every combination of task, --lr, --batch-size and seed is a
run in a folder of its own, with result.json, model.pt and the predictions; runs that are finished are not done again,
and killed ones go on. The table has the median over seeds and their range, of the best setting of each task. With
--test, the median runs' answers to the test sets go into a zip for GLUE's server.

--jobs N shares the runs among N processes here; slurm/finetune_glue.sh does so among the tasks of a Slurm array.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path

from linformer_fairseq.checkpoints.checkpoint import read
from linformer_fairseq.commands.arguments import command_parser
from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.glue import (
    DIAGNOSTIC,
    DIAGNOSTIC_FILES,
    TASKS,
    Task,
    find_task,
    read_split,
    write_submission,
)
from linformer_fairseq.finetuning.grid import Job, best, do, do_on_processes, parse_part, results
from linformer_fairseq.finetuning.predict import Labels, Predictor
from linformer_fairseq.finetuning.report import read_rows, write_table
from linformer_fairseq.finetuning.tables import Table, read_table
from linformer_fairseq.finetuning.train import MODEL, Run, targets
from linformer_fairseq.inference.tokenizer import tokenizer_of
from linformer_fairseq.plugin import register

Tables = Mapping[str, Table]


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    run(parser().parse_args(words), words)
    return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = command_parser("glue", __doc__)
    top.add_argument("--checkpoint", type=Path, required=True, help="a pretrained one, .pt or .safetensors")
    top.add_argument("--glue-dir", type=Path, required=True, metavar="DIR", help="a folder a task: DIR/RTE/train.tsv …")
    top.add_argument("--tasks", default=",".join(TASKS), metavar="A,B", help="default: all nine")
    top.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each setting (default: 3)")
    defaults = Run(Path(), Labels((), 1), ())
    top.add_argument("--lr", type=float, nargs="+", default=[defaults.lr], help="default: %(default)s")
    top.add_argument("--batch-size", type=int, nargs="+", default=[defaults.batch_size], help="default: %(default)s")
    top.add_argument("--epochs", type=int, default=defaults.epochs, help="default: %(default)s")
    top.add_argument("--from-scratch", action="store_true", help="the same model untrained, to compare with")
    top.add_argument("--data", type=Path, metavar="DIR", help="folder of its tokenizer (default: as pretrained)")
    top.add_argument("--test", action="store_true", help="also answer the test sets, in OUT/submission.zip")
    top.add_argument("--name", default="median (range)", help="of this model in the table")
    top.add_argument(
        "--beside", nargs="+", default=[], metavar="NAME=DIR", help="other models in it: --out of their grids"
    )
    top.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1); logs in OUT/part-*.log")
    top.add_argument("--part", default="1/1", metavar="I/N", help="do the I-th of N parts; the last makes the table")
    top.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the runs")
    return top


def run(a: argparse.Namespace, words: list[str]) -> None:
    """All runs, the table, and the zip."""
    if a.jobs > 1 and a.part != "1/1":
        raise UsageError(f"--part {a.part} is done by one process; leave --jobs {a.jobs} out")
    tasks = [find_task(name) for name in a.tasks.split(",")]
    beside = {name: read_rows(Path(folder)) for name, _, folder in (item.partition("=") for item in a.beside)}
    # Everything is read before anything is trained: a wrong file must not stop the last task of a night.
    tokenizer_of(read(a.checkpoint), a.data)
    jobs = [job for task in tasks for job in _jobs(a, task, *_labelled(a.glue_dir, task))]
    tests = {task.name: _tests(a.glue_dir, task) if a.test else {} for task in tasks}
    register()
    if a.jobs > 1:
        do_on_processes([sys.executable, __file__, *words, "--jobs", "1"], jobs, a.jobs, a.out)
    else:
        do(jobs, parse_part(a.part))
    found = results(jobs)
    if found is None:
        print(f"{a.out}: other parts are not finished; the last one makes the table")
        return
    rows = best(jobs, found)
    print(write_table([row for row, _ in rows.values()], a.out, a.name, beside))
    if a.test:
        answers: dict[str, list[str]] = {}
        for name, (_, job) in rows.items():
            answers |= _answers(job.out / MODEL, a.data, tests[name])
        missing = write_submission(answers, a.out / "submission.zip", force=True)
        print(f"{a.out / 'submission.zip'}" + (f": the server also wants {', '.join(missing)}" if missing else ""))


def _jobs(a: argparse.Namespace, task: Task, train: Table, evaluations: Tables) -> list[Job]:
    labels = Labels(task.classes, len(task.text))
    for labelled in (train, *evaluations.values()):
        targets(labelled, labels)
    found = []
    for lr, batch, seed in product(a.lr, a.batch_size, range(1, a.seeds + 1)):
        settings = Run(a.checkpoint, labels, task.metrics, seed, lr, batch, a.epochs, not a.from_scratch)
        out = a.out / task.name / f"lr{lr:g}-batch{batch}-seed{seed}"
        found.append(Job(task.name, settings.in_words(), settings, train, evaluations, a.data, out))
    return found


def _labelled(glue: Path, task: Task) -> tuple[Table, Tables]:
    return read_split(glue, task, "train"), {f"dev{s}": read_split(glue, task, f"dev{s}") for s in task.evaluations}


def _tests(glue: Path, task: Task) -> Tables:
    """The test sets, by their names in the zip; with MNLI, which answers it, the diagnostic set if it is there."""
    places = zip(task.server, task.evaluations, strict=True)
    found = {name: read_split(glue, task, f"test{suffix}") for name, suffix in places}
    for place in DIAGNOSTIC_FILES if task.name == "MNLI" else ():
        if (glue / place).is_file():
            found["AX.tsv"] = read_table(glue / place, DIAGNOSTIC)
    return found


def _answers(model: Path, data: Path | None, tests: Tables) -> dict[str, list[str]]:
    """Answers of one model to its test sets."""
    checkpoint = read(model)
    predictor = Predictor(checkpoint, tokenizer_of(checkpoint, data))
    return {name: [_answer(value) for value in predictor.predict(table.texts)] for name, table in tests.items()}


def _answer(value: str | float) -> str:
    return value if isinstance(value, str) else f"{min(5.0, max(0.0, value)):.3f}"
