"""Fine-tune a checkpoint on your own labelled texts, and apply it to new ones.

    linformer finetune train --checkpoint best.pt --train a.tsv --dev b.tsv --text-column sentence --out tuned
    linformer finetune tokens --checkpoint best.pt --train a.conll --dev b.conll --out tuned
    linformer finetune answers --checkpoint best.pt --train a.json --dev b.json --out tuned
    linformer finetune pairs --checkpoint best.pt --train a.tsv --dev b.tsv --text-column query passage --out tuned
    linformer finetune predict --checkpoint tuned/model.pt --input new.tsv --text-column sentence --out found.tsv

Tables are .tsv, .csv, .jsonl or .parquet, with one or two columns of text. Without --regression the labels are
classes, whose names are stored in the checkpoint. Without --dev, a tenth of the rows of --train is set aside for it.
The epoch is selected on the dev rows, so their score is slightly optimistic; --test is not used for model selection.
Every row is scored, and OUT/dev.tsv and test.tsv hold each row's label and prediction; confusion.png and
calibration.png show those of the last table. `tokens` gives each word a tag, from columns of CoNLL or JSON lines, and
`answers` finds answers in texts, from SQuAD's JSON; both write OUT/model, a folder for transformers. `pairs` makes the
vectors of queries and their passages alike, writes OUT/model for sentence-transformers, and scores how passages are
found, beside BM25, also by graded --qrels; without --train it scores the checkpoint alone. Several --lr and --seeds
are runs in folders of their own, and OUT/settings.md has a line for each setting. The same command leaves finished
runs alone; interrupted ones are resumed by `train` and `pairs`, and started again by `tokens` and `answers`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from linformer_fairseq.commands.arguments import FLAGS, RUN_FLAGS, command_parser, each_once, shared_flags, text_columns
from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning import BATCH_SIZE, METRICS, OF_CLASSES, OF_PAIRS, OF_SCORES
from linformer_fairseq.inference import POOLINGS
from linformer_fairseq.io.files import check_folder
from linformer_fairseq.ranges import ROWS, real, whole


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in ("train", "tokens", "answers", "pairs", "predict", "-h", "--help"):
        words.insert(0, "train")  # may be left out
    a = parser().parse_args(words)
    if a.command in ("train", "predict"):
        a.text_column = text_columns(a)
    if a.command == "predict":
        _predict(a)
        return 0
    each_once("--lr", a.lr)
    check_folder(a.out)
    if a.command == "train":
        _check_labels(a)
    elif a.command == "pairs":
        _check_pairs(a)

    from linformer_fairseq.plugin import register

    register()
    from linformer_fairseq.finetuning import runs

    getattr(runs, a.command)(a)
    return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = command_parser("finetune", __doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def training(name: str, what: str, *needed: str, batch_size: int = BATCH_SIZE) -> Callable[..., Any]:
        """A subcommand with what all have that train; the result adds flags to it."""
        one = commands.add_parser(name, parents=[shared_flags(*RUN_FLAGS)], help=what)
        add = one.add_argument
        purposes = {"train": "to train on", "dev": "to select the epoch on", "test": "to score at the end"}
        for rows, purpose in purposes.items():
            add(f"--{rows}", type=Path, required=rows in needed, metavar="FILE", help=purpose)
        decay = "learning rate of a layer, as a multiple of that of the layer above (default: 1)"
        add("--layer-lr-decay", type=real(0.01, 1), default=1.0, metavar="X", help=decay)
        add("--batch-size", type=whole(1, ROWS), default=batch_size, help="in rows (default: %(default)s)")
        add("--name", help="of the task in the table of results (default: name of the --train file)")
        add("--out", type=Path, required=True, metavar="DIR", help="folder for the model, results.md, …")
        return add

    add = training("train", "fine-tune and score", "train")
    for name in ("--text-column", "--quoted", "--keep"):
        add(name, **FLAGS[name])
    add("--dev-share", type=real(0, 1, inside=True), metavar="X", help="share of --train, without --dev (default: 0.1)")
    add("--label-column", default="label", metavar="NAME", help="default: label")
    kind = commands.choices["train"].add_mutually_exclusive_group()
    kind.add_argument("--regression", action="store_true", help="labels are numbers to be predicted as such")
    several = "a row has any number of labels, with | between them, or a list of them in JSON lines and Parquet"
    kind.add_argument("--multi-label", action="store_true", help=several)
    add("--balanced", action="store_true", help="every class counts the same in the loss")
    metric = (
        f"{', '.join(METRICS)}: scores; the first, on the dev rows, chooses the epoch (default: accuracy; micro-f1 "
    )
    metric += "and macro-f1 of several labels; pearson and spearman of numbers). f1, precision, recall and auc are of "
    add("--metric", nargs="+", choices=METRICS, metavar="NAME", help=f"{metric}the second class of two")
    commands.choices["train"].set_defaults(keep="head")

    add = training("tokens", "a tag for each word", "train", "dev")
    add("--word-column", metavar="C", help="number, or name in .jsonl (default: 1, tokens)")
    add("--tag-column", metavar="C", help="the same of tags (default: the last, tags)")

    add = training("answers", "answers that are parts of a text", "train", "dev")
    overlap = "tokens that the pieces of a long text share (default: %(default)s)"
    add("--stride", type=whole(0, ROWS), default=128, metavar="N", help=overlap)

    add = training("pairs", "vectors that find passages for queries", batch_size=64)
    commands.choices["pairs"].set_defaults(lr=[2e-5])
    add("--quoted", **FLAGS["--quoted"])
    columns = "query, its passage, and any hard negatives (default: query passage)"
    add("--text-column", nargs="+", default=["query", "passage"], metavar="NAME", help=columns)
    metric = f"{', '.join(OF_PAIRS)}: scores; the first, on the pairs of --dev, chooses the epoch (default: all)"
    add("--metric", nargs="+", choices=OF_PAIRS, default=OF_PAIRS, metavar="NAME", help=metric)
    judged = "to score at the end: grades of documents, in the columns of TREC or the TSV of BEIR"
    add("--qrels", type=Path, metavar="FILE", help=judged)
    add("--queries", type=Path, metavar="TABLE", help="with --qrels: columns _id, text")
    add("--corpus", type=Path, metavar="TABLE", help="with --qrels: columns _id, title, text")
    add("--pooling", choices=POOLINGS[:2], help="of tokens (default: the checkpoint's, or mean)")
    add("--temperature", type=real(0, 100, True), default=0.05, help="of cosines (default: 0.05)")
    chunk = "texts in memory at a time, which changes no result (default: %(default)s; 0: all of a batch)"
    add("--chunk-rows", type=whole(0, ROWS), default=32, metavar="N", help=chunk)

    shared = shared_flags("--checkpoint", "--data", "--text-column", "--quoted", "--force")
    predict = commands.add_parser("predict", parents=[shared], help="apply it to new texts")
    predict.add_argument("--input", type=Path, required=True, metavar="TABLE", help="rows without labels")
    predict.add_argument("--out", type=Path, required=True, metavar="TSV", help="column `prediction`, a line for a row")
    return top


def _check_labels(a: argparse.Namespace) -> None:
    """Check flags of `train` that do not go together, and complete them."""
    if a.dev is not None and a.dev_share is not None:
        raise UsageError(f"--dev-share {a.dev_share}: has no meaning with --dev; leave one of them out")
    a.dev_share = a.dev_share or 0.1
    defaults = OF_SCORES if a.regression else ("micro-f1", "macro-f1") if a.multi_label else ("accuracy",)
    a.metric = a.metric or defaults
    allowed = OF_SCORES if a.regression else [name for name in OF_CLASSES if not (a.multi_label and name == "matthews")]
    for name in a.metric:
        if name not in allowed:
            raise UsageError(f"--metric {name}: is not for such labels; choose from {', '.join(allowed)}")
    if a.balanced and a.regression:
        raise UsageError("--balanced: numbers have no classes; leave it or --regression out")


def _check_pairs(a: argparse.Namespace) -> None:
    query, *others = a.text_column
    judged = [a.qrels, a.queries, a.corpus]
    if any(judged) and not all(judged):
        raise UsageError("--qrels, --queries, --corpus: belong together; name all three or none")
    if not a.dev and (a.train or not a.qrels):
        raise UsageError("--dev: missing; name pairs" + " to select the epoch on" * bool(a.train))
    if not others or len({query, *others}) <= len(others):
        raise UsageError(f"--text-column {' '.join(a.text_column)}: name a query, its passage and others, each once")


def _predict(a: argparse.Namespace) -> None:
    from linformer_fairseq.checkpoints.checkpoint import read
    from linformer_fairseq.checkpoints.folders import as_file
    from linformer_fairseq.inference.predict import labels_of, predict
    from linformer_fairseq.inference.sequences import tokenizer_of
    from linformer_fairseq.io.files import replace_when_done
    from linformer_fairseq.tables import read_table

    with replace_when_done(a.out, a.force) as partial:
        checkpoint = read(as_file(a.checkpoint))
        labels_of(checkpoint, len(a.text_column))
        table = read_table(a.input, a.text_column, quoted=a.quoted)
        found = predict(checkpoint, tokenizer_of(checkpoint, a.data), table.texts)
        partial.write_text("prediction\n" + "".join(f"{value}\n" for value in found), encoding="utf-8")
    print(f"{a.out}: {len(found):,} predictions")
