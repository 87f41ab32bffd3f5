"""Fine-tunes a checkpoint on tasks of GLUE, with several seeds and settings, and makes a table of results.

    python recipes/finetune_glue.py --checkpoint checkpoint_best.pt --glue-dir glue --tasks RTE,MRPC --out runs

--glue-dir has a folder a task, as downloaded from GLUE. Every combination of task, --lr, --batch-size and seed is a
run in a folder of its own; runs that are finished are not done again, and killed ones go on. The table has the median
over seeds, lowest and highest, of the best setting. With --test, the median run's answers to the test sets go into a
zip for GLUE's server.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from finetuning.glue import DIAGNOSTIC, DIAGNOSTIC_FILES, TASKS, Task, find_task, read_split, write_submission
from finetuning.predict import Labels, Predictor, tokenizer_of
from finetuning.report import Row, write_table
from finetuning.tables import Table, read_table
from finetuning.train import MODEL, Run, finetune, score_table
from progress import RunError
from recipe import register_project

from linformer_fairseq.checkpoints.checkpoint import read
from linformer_fairseq.compat.errors import UsageError


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        run(arguments)
    except (UsageError, RunError) as error:
        print(f"finetune_glue.py: error: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = Run(Path(), Labels((), 1), ())
    top.add_argument("--checkpoint", type=Path, required=True, help="a pretrained one, .pt or .safetensors")
    top.add_argument("--glue-dir", type=Path, required=True, metavar="DIR", help="a folder a task: DIR/RTE/train.tsv …")
    top.add_argument("--tasks", default=",".join(TASKS), metavar="A,B", help="default: all nine")
    top.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each setting (default: 3)")
    top.add_argument("--lr", type=float, nargs="+", default=[defaults.lr], help="default: %(default)s")
    top.add_argument("--batch-size", type=int, nargs="+", default=[defaults.batch_size], help="default: %(default)s")
    top.add_argument("--epochs", type=int, default=defaults.epochs, help="default: %(default)s")
    top.add_argument("--from-scratch", action="store_true", help="the same model untrained, to compare with")
    top.add_argument("--data", type=Path, metavar="DIR", help="folder of its tokenizer (default: as pretrained)")
    top.add_argument("--test", action="store_true", help="also answer the test sets, in OUT/submission.zip")
    top.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the runs")
    return top


def run(a: argparse.Namespace) -> None:
    """All runs, the table, and the zip."""
    tasks = [find_task(name) for name in a.tasks.split(",")]
    # Everything is read before anything is trained: a wrong file must not stop the last task of a night.
    tables = {task.name: _tables(a.glue_dir, task) for task in tasks}
    register_project()
    rows: list[Row] = []
    answers: dict[str, list[str]] = {}
    for task in tasks:
        best, chosen = _grid(a, task, *tables[task.name])
        rows.append(best)
        if a.test:
            answers |= _answers(a, task, chosen)
    print(write_table(rows, a.out))
    if a.test:
        missing = write_submission(answers, a.out / "submission.zip", force=True)
        print(f"{a.out / 'submission.zip'}" + (f": the server also wants {', '.join(missing)}" if missing else ""))


def _tables(glue: Path, task: Task) -> tuple[Table, list[Table]]:
    return read_split(glue, task, "train"), [read_split(glue, task, f"dev{suffix}") for suffix in task.evaluations]


def _grid(a: argparse.Namespace, task: Task, train: Table, devs: list[Table]) -> tuple[Row, Path]:
    """The row of the best setting, and the folder of its median run."""
    labels = Labels(task.classes, len(task.text))
    found: list[tuple[float, Row, Path]] = []
    for lr, batch in product(a.lr, a.batch_size):
        results: list[tuple[dict[str, Any], Path]] = []
        for seed in range(1, a.seeds + 1):
            out = a.out / task.name / f"lr{lr:g}-batch{batch}-seed{seed}"
            settings = Run(a.checkpoint, labels, task.metrics, seed, lr, batch, a.epochs, not a.from_scratch)
            result = finetune(settings, train, devs[0], a.data, out)
            print(f"{out}: " + ", ".join(f"{name} {value:.2f}" for name, value in result["scores"].items()))
            results.append((result, out))
        first = [result["scores"][task.metrics[0]] for result, _ in results]
        middle = sorted(range(len(first)), key=first.__getitem__)[(len(first) - 1) // 2]
        scores = {name: [result["scores"][name] for result, _ in results] for name in task.metrics}
        for suffix, dev in zip(task.evaluations[1:], devs[1:], strict=True):
            others = [score_table(out / MODEL, dev, labels, task.metrics, a.data) for _, out in results]
            scores |= {f"{name}{suffix}": [other[name] for other in others] for name in task.metrics}
        row = Row(task.name, f"lr {lr:g}, batch {batch}", results[0][0]["rows"], scores)
        found.append((median(first), row, results[middle][1]))
    _, row, folder = max(found, key=lambda item: item[0])
    return row, folder


def _answers(a: argparse.Namespace, task: Task, folder: Path) -> dict[str, list[str]]:
    """Answers of one model to the test sets of its task, by their names in the zip."""
    checkpoint = read(folder / MODEL)
    predictor = Predictor(checkpoint, tokenizer_of(checkpoint, a.data))
    answers = {}
    for name, suffix in zip(task.server, task.evaluations, strict=True):
        answers[name] = _words(predictor, read_split(a.glue_dir, task, f"test{suffix}"))
    for place in DIAGNOSTIC_FILES if task.name == "MNLI" else ():
        if (a.glue_dir / place).is_file():
            answers["AX.tsv"] = _words(predictor, read_table(a.glue_dir / place, DIAGNOSTIC))
    return answers


def _words(predictor: Predictor, table: Table) -> list[str]:
    found = predictor.predict(table.texts)
    return [value if isinstance(value, str) else f"{min(5.0, max(0.0, value)):.3f}" for value in found]


if __name__ == "__main__":
    sys.exit(main())
