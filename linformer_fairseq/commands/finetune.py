"""Fine-tune a checkpoint on your own labelled texts, and apply it to new ones.

    linformer finetune train --checkpoint checkpoint_best.pt --train a.tsv --dev b.tsv \\
        --text-column sentence --label-column label --out tuned
    linformer finetune tokens --checkpoint checkpoint_best.pt --train a.conll --dev b.conll --out tuned
    linformer finetune answers --checkpoint checkpoint_best.pt --train a.json --dev b.json --out tuned
    linformer finetune pairs --checkpoint checkpoint_best.pt --train a.tsv --dev b.tsv --text-column query passage \\
        --out tuned
    linformer finetune predict --checkpoint tuned/model.pt --input new.tsv --text-column sentence \\
        --out predictions.tsv

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

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from linformer_fairseq.commands.arguments import FLAGS, RUN_FLAGS, command_parser, shared_flags, text_columns
from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning import BATCH_SIZE, LEARNING_RATE, METRICS, OF_CLASSES, OF_PAIRS, OF_SCORES
from linformer_fairseq.inference import POOLINGS
from linformer_fairseq.io.files import check_folder
from linformer_fairseq.ranges import ROWS, real, whole

if TYPE_CHECKING:
    from linformer_fairseq.finetuning.report import Row
    from linformer_fairseq.finetuning.train import Run
    from linformer_fairseq.inference.predict import Labels
    from linformer_fairseq.tables import Table


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in ("train", "tokens", "answers", "pairs", "predict", "-h", "--help"):
        words.insert(0, "train")  # may be left out
    a = parser().parse_args(words)
    rates = getattr(a, "lr", [])
    if len(set(rates)) < len(rates):
        raise UsageError(f"--lr: {max(rates, key=rates.count)} is there twice; name each once")
    a.run(a)
    return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = command_parser("finetune", __doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = shared_flags("--checkpoint", "--data", "--text-column", "--quoted")

    train = commands.add_parser(
        "train", parents=[shared, shared_flags("--keep", *RUN_FLAGS)], help="fine-tune and score"
    )
    train.set_defaults(run=_train, keep="head")
    train.add_argument("--train", type=Path, required=True, metavar="TABLE", help="rows to train on")
    train.add_argument("--dev", type=Path, metavar="TABLE", help="rows to select the epoch on (default: from --train)")
    train.add_argument("--dev-share", type=real(0, 1, inside=True), metavar="X", help="without --dev (default: 0.1)")
    train.add_argument("--test", type=Path, metavar="TABLE", help="labelled rows to score at the end")
    train.add_argument("--label-column", default="label", metavar="NAME", help="default: label")
    kind = train.add_mutually_exclusive_group()
    kind.add_argument("--regression", action="store_true", help="labels are numbers to be predicted as such")
    several = "a row has any number of labels, with | between them, or a list of them in JSON lines and Parquet"
    kind.add_argument("--multi-label", action="store_true", help=several)
    train.add_argument("--balanced", action="store_true", help="every class counts the same in the loss")
    metric = (
        "scores; the first, on the dev rows, chooses the epoch (default: accuracy; micro-f1 and macro-f1 of several "
    )
    metric += "labels; pearson and spearman of numbers). f1, precision, recall and auc are of the second class of two"
    train.add_argument("--metric", nargs="+", choices=METRICS, metavar="NAME", help=f"{', '.join(METRICS)}: {metric}")
    _add_grid(train)

    kinds = {"tokens": "a tag for each word", "answers": "answers that are parts of a text"}
    for name, what in {**kinds, "pairs": "vectors that find passages for queries"}.items():
        parents = [shared_flags("--checkpoint", "--data", *RUN_FLAGS)]
        head = commands.add_parser(name, parents=parents, help=what)
        head.set_defaults(run=_pairs if name == "pairs" else _heads)
        head.add_argument("--train", type=Path, required=name in kinds, metavar="FILE", help="to train on")
        head.add_argument("--dev", type=Path, required=name in kinds, metavar="FILE", help="to select the epoch on")
        head.add_argument("--test", type=Path, metavar="FILE", help="to score at the end")
        _add_grid(head)
        if name == "tokens":
            head.add_argument("--word-column", metavar="C", help="number, or name in .jsonl (default: 1, tokens)")
            head.add_argument("--tag-column", metavar="C", help="the same of tags (default: the last, tags)")
        elif name == "answers":
            overlap = "tokens that the pieces of a long text share (default: %(default)s)"
            head.add_argument("--stride", type=whole(0, ROWS), default=128, metavar="N", help=overlap)
        else:
            head.set_defaults(lr=[2e-5], batch_size=64)
            head.add_argument("--quoted", **FLAGS["--quoted"])
            columns = "query, its passage, and any hard negatives (default: query passage)"
            head.add_argument("--text-column", nargs="+", default=["query", "passage"], metavar="NAME", help=columns)
            what = "scores; the first, on the pairs of --dev, chooses the epoch (default: all, in this order)"
            head.add_argument(
                "--metric",
                nargs="+",
                choices=OF_PAIRS,
                default=OF_PAIRS,
                metavar="NAME",
                help=f"{', '.join(OF_PAIRS)}: {what}",
            )
            judged = "to score at the end: grades of documents, in the columns of TREC or the TSV of BEIR"
            head.add_argument("--qrels", type=Path, metavar="FILE", help=judged)
            head.add_argument("--queries", type=Path, metavar="TABLE", help="with --qrels: columns _id, text")
            head.add_argument("--corpus", type=Path, metavar="TABLE", help="with --qrels: columns _id, title, text")
            head.add_argument("--pooling", choices=POOLINGS[:2], help="of tokens (default: the checkpoint's, or mean)")
            head.add_argument("--temperature", type=real(0, 100, True), default=0.05, help="of cosines (default: 0.05)")
            chunk = "texts in memory at a time, which changes no result (default: %(default)s; 0: all of a batch)"
            head.add_argument("--chunk-rows", type=whole(0, ROWS), default=32, metavar="N", help=chunk)

    predict = commands.add_parser("predict", parents=[shared, shared_flags("--force")], help="apply it to new texts")
    predict.set_defaults(run=_predict)
    predict.add_argument("--input", type=Path, required=True, metavar="TABLE", help="rows without labels")
    predict.add_argument("--out", type=Path, required=True, metavar="TSV", help="column `prediction`, a line for a row")
    return top


def _add_grid(parser: argparse.ArgumentParser) -> None:
    rates = "several are tried, and the one with the best median on the dev rows is kept (default: %(default)s)"
    parser.add_argument("--lr", type=real(0, 1000, inside=True), nargs="+", default=[LEARNING_RATE], help=rates)
    decay = "learning rate of a layer, as a multiple of that of the layer above (default: 1)"
    parser.add_argument("--layer-lr-decay", type=real(0.01, 1), default=1.0, metavar="X", help=decay)
    parser.add_argument("--batch-size", type=whole(1, ROWS), default=BATCH_SIZE, help="in rows (default: %(default)s)")
    parser.add_argument(
        "--seeds", type=whole(1, 1000), default=1, metavar="N", help="runs, each in its own folder (default: 1)"
    )
    parser.add_argument("--name", help="of the task in the table of results (default: name of the --train file)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the model, results.md, …")


def _runs(
    a: argparse.Namespace,
    tables: Mapping[str, Table],
    digests: Mapping[str, str],
    labels: Labels,
    metrics: tuple[str, ...],
) -> list[Run]:
    """The runs of all learning rates and seeds."""
    from linformer_fairseq.finetuning.train import Run

    runs = []
    for lr, seed in product(a.lr, range(1, a.seeds + 1)):
        parts = ([f"lr{lr:g}"] if len(a.lr) > 1 else []) + ([f"seed{seed}"] if a.seeds > 1 else [])
        given = (a.checkpoint, a.data, tables, digests, labels, metrics)
        more = (a.epochs, a.warm_up, a.patience, getattr(a, "balanced", False), not a.from_scratch, a.layer_lr_decay)
        runs.append(Run(a.name or a.train.stem, a.out / "-".join(parts), *given, seed, lr, a.batch_size, *more))
    return runs


def _report(a: argparse.Namespace, runs: list[Run], row: Row, chosen: Path) -> None:
    from linformer_fairseq.finetuning.grid import settings_table
    from linformer_fairseq.finetuning.report import write_table

    print(write_table([row], a.out))
    if len(runs) > 1:
        print(settings_table(runs, a.out))
        print(f"{chosen} is of the median run of the setting that was chosen on the dev rows")


def _heads(a: argparse.Namespace) -> None:
    check_folder(a.out)

    from linformer_fairseq.plugin import register

    register()
    from linformer_fairseq.checkpoints.checkpoint import read
    from linformer_fairseq.checkpoints.folders import as_file
    from linformer_fairseq.finetuning.conll import Tagging, read_sentences, tags_of
    from linformer_fairseq.finetuning.heads import FOLDER, HeadTask, head_grid
    from linformer_fairseq.finetuning.squad import Answering, read_questions
    from linformer_fairseq.finetuning.train import digests_of
    from linformer_fairseq.inference.predict import Labels
    from linformer_fairseq.io.files import digest

    paths = {name: path for name in ("train", "dev", "test") if (path := getattr(a, name))}
    task: HeadTask
    if a.command == "tokens":
        read_file = partial(read_sentences, word=a.word_column, tag=a.tag_column)
        sentences = {name: read_file(path) for name, path in paths.items()}
        task, how = Tagging(sentences, tags_of(sentences)), f"{a.word_column} {a.tag_column}"
    else:
        task, how = Answering({name: read_questions(path) for name, path in paths.items()}, a.stride), f"{a.stride}"
    a.checkpoint = as_file(a.checkpoint, a.out)
    digests = digests_of(read(a.checkpoint), a.data, {}) | {name: digest(path) for name, path in paths.items()}
    runs = _runs(a, {}, digests | {a.command: how}, Labels((), 1), task.metrics)
    row, chosen = head_grid(runs, task)
    _report(a, runs, row, chosen.out / FOLDER)


def _pairs(a: argparse.Namespace) -> None:
    check_folder(a.out)
    query, *others = a.text_column
    judged = [a.qrels, a.queries, a.corpus]
    if any(judged) and not all(judged):
        raise UsageError("--qrels, --queries, --corpus: belong together; name all three or none")
    if not a.dev and (a.train or not a.qrels):
        raise UsageError("--dev: missing; name pairs" + " to select the epoch on" * bool(a.train))
    if not others or len({query, *others}) <= len(others):
        raise UsageError(f"--text-column {' '.join(a.text_column)}: name a query, its passage and others, each once")

    from linformer_fairseq.plugin import register

    register()
    from linformer_fairseq.checkpoints.checkpoint import read
    from linformer_fairseq.checkpoints.folders import as_file
    from linformer_fairseq.checkpoints.hf_kept import kept_pooling
    from linformer_fairseq.finetuning.grid import best
    from linformer_fairseq.finetuning.pairs import finetune_pairs
    from linformer_fairseq.finetuning.qrels import of_qrels
    from linformer_fairseq.finetuning.retrieval import by_bm25, by_model, of_table, scored
    from linformer_fairseq.finetuning.train import MODEL, digests_of
    from linformer_fairseq.inference.predict import Labels
    from linformer_fairseq.io.files import digest, write_text
    from linformer_fairseq.measuring.study import markdown
    from linformer_fairseq.tables import read_table

    may_be_empty = {"train": [], "dev": [query, *others[1:]], "test": [query, *others[1:]]}
    paths = {name: path for name in may_be_empty if (path := getattr(a, name))}
    tables = {n: read_table(p, a.text_column, None, None, a.quoted, False, may_be_empty[n]) for n, p in paths.items()}
    evaluations = {name: of_table(table) for name, table in tables.items() if name != "train"}
    if a.qrels:
        evaluations["qrels"] = of_qrels(*judged)
    metrics = tuple(dict.fromkeys(a.metric))
    a.checkpoint = as_file(a.checkpoint, a.out)
    source = read(a.checkpoint)
    pooling = a.pooling or kept_pooling(a.data or source.data) or source.pooling or "mean"
    if not a.train:
        ways = {"BM25": partial(by_bm25), "model": partial(by_model, source, a.data, pooling)}
        found = [(name, way, scored(one, ways[way](one), metrics)) for name, one in evaluations.items() for way in ways]
        rows = [[name, way, *map("{:.1f}".format, scores.values())] for name, way, scores in found]
        write_text(a.out / "results.md", text := markdown(["", "", *metrics], rows, 2))
        print(text)
        return
    digests = digests_of(source, a.data, tables) | {"pooling": pooling, "temperature": str(a.temperature)}
    digests |= {name: digest(path) for name, path in zip(("qrels", "queries", "corpus"), judged, strict=True) if path}
    runs = _runs(a, tables, digests, Labels((), len(a.text_column)), metrics)
    how = pooling, a.temperature, a.chunk_rows
    ((row, chosen),) = best([(run, finetune_pairs(run, evaluations, *how)) for run in runs]).values()
    _report(a, runs, row, chosen.out / MODEL)


def _train(a: argparse.Namespace) -> None:
    text = text_columns(a)
    check_folder(a.out)
    if a.dev is not None and a.dev_share is not None:
        raise UsageError(f"--dev-share {a.dev_share}: has no meaning with --dev; leave one of them out")
    share = a.dev_share or 0.1
    defaults = OF_SCORES if a.regression else ("micro-f1", "macro-f1") if a.multi_label else ("accuracy",)
    metrics = tuple(dict.fromkeys(a.metric or defaults))
    allowed = OF_SCORES if a.regression else [name for name in OF_CLASSES if not (a.multi_label and name == "matthews")]
    for name in metrics:
        if name not in allowed:
            raise UsageError(f"--metric {name}: is not for such labels; choose from {', '.join(allowed)}")
    if a.balanced and a.regression:
        raise UsageError("--balanced: numbers have no classes; leave it or --regression out")

    from linformer_fairseq.plugin import register

    register()
    from linformer_fairseq.checkpoints.checkpoint import read
    from linformer_fairseq.checkpoints.folders import as_file
    from linformer_fairseq.finetuning.grid import run_grid
    from linformer_fairseq.finetuning.labels import classes_of, targets
    from linformer_fairseq.finetuning.train import MODEL, digests_of
    from linformer_fairseq.inference.predict import Labels
    from linformer_fairseq.inference.sequences import tokenizer_of
    from linformer_fairseq.tables import read_table

    paths = {name: path for name in ("train", "dev", "test") if (path := getattr(a, name))}
    empty = [a.label_column] if a.multi_label else []  # a row may have no label
    tables = {
        name: read_table(path, text, a.label_column, quoted=a.quoted, may_be_empty=empty)
        for name, path in paths.items()
    }
    classes = () if a.regression else classes_of(tables["train"], a.multi_label)
    labels = Labels(classes, len(text), a.keep, a.multi_label)
    for table in tables.values():
        targets(table, labels)
    a.checkpoint = as_file(a.checkpoint, a.out)
    source = read(a.checkpoint)
    tokenizer_of(source, a.data)
    if a.dev is None:
        train, dev = tables.pop("train").split(share)
        if not (len(train) and len(dev)):
            raise UsageError(f"--dev-share {share}: leaves no rows of {a.train} for one of both; name --dev")
        tables = {"train": train, "dev": dev, **tables}
    runs = _runs(a, tables, digests_of(source, a.data, tables), labels, metrics)
    ((row, middle),) = run_grid(runs, a.out).values()
    _report(a, runs, row, middle.out / MODEL)


def _predict(a: argparse.Namespace) -> None:
    text = text_columns(a)

    from linformer_fairseq.checkpoints.checkpoint import read
    from linformer_fairseq.checkpoints.folders import as_file
    from linformer_fairseq.inference.predict import labels_of, predict
    from linformer_fairseq.inference.sequences import tokenizer_of
    from linformer_fairseq.io.files import replace_when_done
    from linformer_fairseq.tables import read_table

    with replace_when_done(a.out, a.force) as partial:
        checkpoint = read(as_file(a.checkpoint))
        labels_of(checkpoint, len(text))
        table = read_table(a.input, text, quoted=a.quoted)
        found = predict(checkpoint, tokenizer_of(checkpoint, a.data), table.texts)
        partial.write_text("prediction\n" + "".join(f"{value}\n" for value in found), encoding="utf-8")
    print(f"{a.out}: {len(found):,} predictions")
