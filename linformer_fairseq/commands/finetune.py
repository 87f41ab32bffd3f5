"""Fine-tunes a checkpoint on your own labelled texts, and applies it to new ones.

    python recipes/finetune_text.py train --checkpoint checkpoint_best.pt --train a.tsv --dev b.tsv \\
        --text-column sentence --label-column label --out tuned
    python recipes/finetune_text.py predict --checkpoint tuned/model.pt --input new.tsv --text-column sentence \\
        --out predictions.tsv

Tables are .tsv, .csv, .jsonl or .parquet, with one or two columns of text. Without --regression the labels are
classes, whose names the checkpoint keeps. Without --dev, every tenth row of --train is kept for it. The epoch is
chosen by the dev rows, so their score flatters a little; --test rows are scored only at the end. All are scored on
every row, and OUT/dev.tsv and test.tsv hold each row's label and prediction. A training that was killed goes on; a
finished one is not done again.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from linformer_fairseq.checkpoints.checkpoint import read
from linformer_fairseq.commands.arguments import command_parser
from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.grid import Job, best, do, results
from linformer_fairseq.finetuning.predict import Labels, Predictor, labels_of
from linformer_fairseq.finetuning.report import write_table
from linformer_fairseq.finetuning.tables import Layout, Table, read_table
from linformer_fairseq.finetuning.train import Run, targets
from linformer_fairseq.inference.sequences import KEEPS
from linformer_fairseq.inference.tokenizer import tokenizer_of
from linformer_fairseq.io.files import replace_when_done
from linformer_fairseq.plugin import register


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in ("predict", "train", "-h", "--help"):
        words.insert(0, "train")  # may be left out
    arguments = parser().parse_args(words)
    arguments.run(arguments)
    return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = command_parser("finetune", __doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--checkpoint", type=Path, required=True, help=".pt of fairseq, or .safetensors")
    shared.add_argument("--text-column", nargs="+", default=["text"], metavar="NAME", help="one or two (default: text)")
    shared.add_argument("--data", type=Path, metavar="DIR", help="folder of its tokenizer (default: as pretrained)")
    shared.add_argument("--quoted", action="store_true", help='in TSV files, too, " encloses a field')

    train = commands.add_parser("train", parents=[shared], help="fine-tune and score")
    train.set_defaults(run=_train)
    train.add_argument("--train", type=Path, required=True, metavar="TABLE", help="rows to learn from")
    train.add_argument(
        "--dev", type=Path, metavar="TABLE", help="rows to choose the epoch by (default: some of --train)"
    )
    train.add_argument("--dev-share", type=float, default=0.1, metavar="X", help="without --dev (default: %(default)s)")
    train.add_argument("--test", type=Path, metavar="TABLE", help="labelled rows to score at the end")
    train.add_argument("--label-column", default="label", metavar="NAME", help="default: label")
    train.add_argument("--regression", action="store_true", help="labels are numbers to be predicted as such")
    train.add_argument(
        "--keep",
        choices=KEEPS,
        default="head",
        help="of texts longer than the model reads: head (default); head-tail, a quarter from there, the rest from the "
        "end; or chunks, all of it: each chunk learns the text's label, and a text's answer is the mean of its chunks'",
    )
    defaults = Run(Path(), Labels((), 1), ())
    train.add_argument("--epochs", type=int, default=defaults.epochs, help="default: %(default)s")
    train.add_argument("--lr", type=float, default=defaults.lr, help="default: %(default)s")
    train.add_argument("--batch-size", type=int, default=defaults.batch_size, help="rows (default: %(default)s)")
    train.add_argument("--seeds", type=int, default=1, metavar="N", help="trainings, each in its folder (default: 1)")
    train.add_argument("--from-scratch", action="store_true", help="the same model untrained, to compare with")
    train.add_argument("--name", metavar="NAME", help="in the table of results (default: that of the --train file)")
    train.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="model.pt, result.json, results.md, .png …"
    )

    predict = commands.add_parser("predict", parents=[shared], help="apply a fine-tuned checkpoint")
    predict.set_defaults(run=_predict)
    predict.add_argument("--input", type=Path, required=True, metavar="TABLE", help="rows without labels")
    predict.add_argument("--out", type=Path, required=True, metavar="TSV", help="a line per row: prediction")
    predict.add_argument("--force", action="store_true", help="replace it if it exists")
    return top


def _train(a: argparse.Namespace) -> None:
    register()
    layout = _layout(a, a.label_column)
    tables = {name: read_table(path, layout) for name in ("train", "dev", "test") if (path := getattr(a, name))}
    labels = Labels(() if a.regression else classes(tables["train"]), len(layout.text), a.keep)
    for table in tables.values():
        targets(table, labels)
    tokenizer_of(read(a.checkpoint), a.data)
    train, evaluations = tables.pop("train"), tables
    if a.dev is None:
        if not 0 < a.dev_share < 1:
            raise UsageError(f"--dev-share {a.dev_share}: must be above 0 and below 1")
        train, dev = train.split(a.dev_share)
        if not (len(train) and len(dev)):
            raise UsageError(
                f"--dev-share {a.dev_share}: leaves no rows of {a.train} to learn or to choose by; name --dev"
            )
        evaluations = {"dev": dev, **evaluations}
    metrics = ("pearson", "spearman") if a.regression else ("accuracy",)
    jobs = []
    for seed in range(1, a.seeds + 1):
        run = Run(a.checkpoint, labels, metrics, seed, a.lr, a.batch_size, a.epochs, not a.from_scratch)
        out = a.out if a.seeds == 1 else a.out / f"seed{seed}"
        jobs.append(Job(a.name or a.train.stem, run.in_words(), run, train, evaluations, a.data, out))
    do(jobs)
    rows = best(jobs, results(jobs) or [])
    print(write_table([row for row, _ in rows.values()], a.out))


def classes(train: Table) -> tuple[str, ...]:
    """The names of the classes in a table, sorted, numbers by value.

    Raises:
        UsageError: only one class, or labels that are rather scores.
    """
    assert train.labels is not None
    counts = Counter(train.labels)
    if len(counts) < 2:
        raise UsageError(f"{train.path}: all rows have the label {train.labels[0]!r}; two classes are needed")
    try:
        numbers = {name: float(name) for name in counts}
    except ValueError:
        return tuple(sorted(counts))
    if any(value != int(value) for value in numbers.values()):
        example = next(name for name, value in numbers.items() if value != int(value))
        raise UsageError(f"{train.path}: labels such as {example} are scores, not classes; use --regression")
    return tuple(sorted(counts, key=lambda name: numbers[name]))


def _predict(a: argparse.Namespace) -> None:
    if a.out.exists() and not a.force:
        raise UsageError(f"{a.out} exists; choose another --out, or replace it with --force")
    checkpoint = read(a.checkpoint)
    labels = labels_of(checkpoint)
    if labels.columns != len(a.text_column):
        raise UsageError(f"--text-column: the checkpoint reads {labels.columns} texts a row, not {len(a.text_column)}")
    table = read_table(a.input, _layout(a, None))
    predictor = Predictor(checkpoint, tokenizer_of(checkpoint, a.data))
    found = predictor.predict(table.texts)
    with replace_when_done(a.out, a.force) as temporary:
        temporary.write_text("prediction\n" + "".join(f"{value}\n" for value in found), encoding="utf-8")
    print(f"{a.out}: {len(found):,} predictions")


def _layout(a: argparse.Namespace, label: str | None) -> Layout:
    if len(a.text_column) > 2:
        raise UsageError(f"--text-column: one or two columns, not {len(a.text_column)}")
    return Layout(tuple(a.text_column), label, quoted=a.quoted)
