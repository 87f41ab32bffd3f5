"""Fine-tunes a checkpoint on your own labelled texts, and applies it to new ones.

    python recipes/finetune_text.py train --checkpoint checkpoint_best.pt --train a.tsv --dev b.tsv \\
        --text-column sentence --label-column label --out tuned
    python recipes/finetune_text.py predict --checkpoint tuned/model.pt --input new.tsv --text-column sentence \\
        --out predictions.tsv

Tables are .tsv, .csv, .jsonl or .parquet, with one or two columns of text. Without --regression the labels are
classes, whose names the checkpoint keeps. A training that was killed goes on; a finished one is not done again.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from pathlib import Path

from finetuning.predict import Labels, Predictor, labels_of, tokenizer_of
from finetuning.tables import Layout, Table, read_table
from finetuning.train import Run, finetune, targets
from progress import RunError
from recipe import register_project

from linformer_fairseq.checkpoints.checkpoint import atomically
from linformer_fairseq.checkpoints.safe_file import read_any
from linformer_fairseq.compat.errors import UsageError


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in ("predict", "train", "-h", "--help"):
        words.insert(0, "train")  # may be left out
    arguments = parser().parse_args(words)
    try:
        arguments.run(arguments)
    except (UsageError, RunError) as error:
        print(f"finetune_text.py: error: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--checkpoint", type=Path, required=True, help=".pt of fairseq, or .safetensors")
    shared.add_argument("--text-column", nargs="+", default=["text"], metavar="NAME", help="one or two (default: text)")
    shared.add_argument("--data", type=Path, metavar="DIR", help="folder of its tokenizer (default: as pretrained)")
    shared.add_argument("--quoted", action="store_true", help='in TSV files, too, " encloses a field')

    train = commands.add_parser("train", parents=[shared], help="fine-tune and score")
    train.set_defaults(run=_train)
    train.add_argument("--train", type=Path, required=True, metavar="TABLE", help="rows to learn from")
    train.add_argument("--dev", type=Path, required=True, metavar="TABLE", help="rows to choose and score by")
    train.add_argument("--label-column", default="label", metavar="NAME", help="default: label")
    train.add_argument("--regression", action="store_true", help="labels are numbers to be predicted as such")
    train.add_argument(
        "--keep",
        choices=("head", "head-tail"),
        default="head",
        help="of texts longer than the model reads: head (default), or a quarter from there and the rest from the end",
    )
    defaults = Run(Path(), Labels((), 1), ())
    train.add_argument("--epochs", type=int, default=defaults.epochs, help="default: %(default)s")
    train.add_argument("--lr", type=float, default=defaults.lr, help="default: %(default)s")
    train.add_argument("--batch-size", type=int, default=defaults.batch_size, help="rows (default: %(default)s)")
    train.add_argument("--seeds", type=int, default=1, metavar="N", help="trainings, each in its folder (default: 1)")
    train.add_argument("--from-scratch", action="store_true", help="the same model untrained, to compare with")
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="model.pt and result.json")

    predict = commands.add_parser("predict", parents=[shared], help="apply a fine-tuned checkpoint")
    predict.set_defaults(run=_predict)
    predict.add_argument("--input", type=Path, required=True, metavar="TABLE", help="rows without labels")
    predict.add_argument("--out", type=Path, required=True, metavar="TSV", help="a line per row: prediction")
    predict.add_argument("--force", action="store_true", help="replace it if it exists")
    return top


def _train(a: argparse.Namespace) -> None:
    register_project()
    layout = _layout(a, a.label_column)
    train, dev = read_table(a.train, layout), read_table(a.dev, layout)
    labels = Labels(() if a.regression else classes(train), len(layout.text), a.keep)
    targets(train, labels)
    targets(dev, labels)
    metrics = ("pearson", "spearman") if a.regression else ("accuracy",)
    results = []
    for seed in range(1, a.seeds + 1):
        out = a.out if a.seeds == 1 else a.out / f"seed{seed}"
        run = Run(a.checkpoint, labels, metrics, seed, a.lr, a.batch_size, a.epochs, not a.from_scratch)
        result = finetune(run, train, dev, a.data, out)
        results.append(result)
        for name, count in result["shortened"].items():
            if count:
                print(f"{name}: {count:,} rows were longer than the model reads; of them the {a.keep} was kept")
        print(f"{out}: " + ", ".join(f"{name} {value:.2f}" for name, value in result["scores"].items()))
    if a.seeds > 1:
        for name in metrics:
            values = [result["scores"][name] for result in results]
            middle = statistics.median(values)
            print(f"{name}: median {middle:.2f}, from {min(values):.2f} to {max(values):.2f} over {a.seeds} seeds")


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
    checkpoint = read_any(a.checkpoint)
    labels = labels_of(checkpoint)
    if labels.columns != len(a.text_column):
        raise UsageError(f"--text-column: the checkpoint reads {labels.columns} texts a row, not {len(a.text_column)}")
    table = read_table(a.input, _layout(a, None))
    predictor = Predictor(checkpoint, tokenizer_of(checkpoint, a.data))
    found = predictor.predict(table.texts)
    with atomically(a.out, a.force) as temporary:
        temporary.write_text("prediction\n" + "".join(f"{value}\n" for value in found), encoding="utf-8")
    print(f"{a.out}: {len(found):,} predictions")


def _layout(a: argparse.Namespace, label: str | None) -> Layout:
    if len(a.text_column) > 2:
        raise UsageError(f"--text-column: one or two columns, not {len(a.text_column)}")
    return Layout(tuple(a.text_column), label, quoted=a.quoted)


if __name__ == "__main__":
    sys.exit(main())
