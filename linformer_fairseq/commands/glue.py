"""Fine-tune a checkpoint on tasks of GLUE, with several seeds and settings, and write a table of results.

    linformer glue --checkpoint checkpoint_best.pt --glue-dir glue --tasks RTE,MRPC --out runs

--glue-dir has a folder for each task, as downloaded from GLUE. Every combination of task, --lr, --batch-size and seed
is a run in its own folder, with result.json, model.pt and the predictions. The same command resumes interrupted runs;
finished ones are left alone. The table has the median over seeds and their range, of the best setting of each task.
With --test, the median runs' answers to the test sets go into a zip for GLUE's server.

--jobs N shares the runs among N processes. Several commands with the same --out, such as the tasks of
slurm/finetune_glue.sh, share them too: each takes the next run that no other has taken.
"""

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from linformer_fairseq.commands.arguments import RUN_FLAGS, RUN_SETTINGS, command_parser, each_once, shared_flags
from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning import BATCH_SIZE
from linformer_fairseq.io.files import check_folder
from linformer_fairseq.ranges import PROCESSES, ROWS, whole


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = command_parser("glue", __doc__, parents=[shared_flags(*RUN_FLAGS)])
    top.set_defaults(seeds=3)
    add = top.add_argument
    add("--glue-dir", type=Path, required=True, metavar="DIR", help="a folder a task: DIR/RTE/train.tsv …")
    add("--tasks", metavar="A,B", help="default: all nine")
    add("--batch-size", type=whole(1, ROWS), nargs="+", default=[BATCH_SIZE], help="default: %(default)s")
    add("--test", action="store_true", help="also answer the test sets, in OUT/submission.zip")
    add("--name", default="median (range)", help="of this model in the table (default: %(default)s)")
    add("--beside", nargs="+", default=[], metavar="NAME=DIR", help="other models in the table: --out of their grids")
    add("--jobs", type=whole(1, PROCESSES), default=1, metavar="N", help="processes (default: 1)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the runs")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """All runs, the table, and the zip; returns the exit status."""
    a = parser().parse_args(argv)

    from linformer_fairseq.plugin import register

    register()
    from linformer_fairseq.checkpoints.checkpoint import read
    from linformer_fairseq.checkpoints.folders import as_file
    from linformer_fairseq.finetuning.glue import TASKS, find_task, read_labelled, read_tests, write_submission
    from linformer_fairseq.finetuning.grid import run_grid
    from linformer_fairseq.finetuning.labels import targets
    from linformer_fairseq.finetuning.report import read_rows, write_table
    from linformer_fairseq.finetuning.train import MODEL, Run, digests_of
    from linformer_fairseq.inference.predict import Labels, predict
    from linformer_fairseq.inference.sequences import tokenizer_of

    tasks = [find_task(name) for name in (a.tasks.split(",") if a.tasks else TASKS)]
    for flag, values in (("--tasks", [task.name for task in tasks]), ("--lr", a.lr), ("--batch-size", a.batch_size)):
        each_once(flag, values)
    check_folder(a.out)
    for item in a.beside:
        if not all(item.partition("=")):
            raise UsageError(f"--beside {item}: give it as NAME=DIR")
    beside = {name: read_rows(Path(folder)) for name, _, folder in (item.partition("=") for item in a.beside)}
    # Everything is read before anything is trained: a wrong file must not end a night's work at its last task.
    a.checkpoint = as_file(a.checkpoint, a.out)
    source = read(a.checkpoint)
    tokenizer = tokenizer_of(source, a.data)
    settings = {name: getattr(a, name) for name in RUN_SETTINGS}
    runs = []
    for task in tasks:
        labels = Labels(task.classes, len(task.text))
        tables = read_labelled(a.glue_dir, task)
        for table in tables.values():
            targets(table, labels)
        given = (a.checkpoint, a.data, tables, digests_of(source, a.data, tables), labels, task.metrics)
        for lr, batch, seed in product(a.lr, a.batch_size, range(1, a.seeds + 1)):
            out = a.out / task.name / f"lr{lr:g}-batch{batch}-seed{seed}"
            runs.append(Run(task.name, out, *given, seed, lr, batch, **settings))
    tests = {task.name: read_tests(a.glue_dir, task) for task in tasks if a.test}
    chosen = run_grid(runs, a.out, a.jobs)
    print(write_table([row for row, _ in chosen.values()], a.out, a.name, beside))
    if a.test:
        answers: dict[str, list[str] | list[float]] = {}
        for name, (_, run) in chosen.items():
            tuned = read(run.out / MODEL)
            answers |= {file: predict(tuned, tokenizer, table.texts) for file, table in tests[name].items()}
        missing = write_submission(answers, a.out / "submission.zip")
        print(f"{a.out / 'submission.zip'}" + (f": the server also wants {', '.join(missing)}" if missing else ""))
    return 0
