"""What `linformer finetune` does with its arguments: each learning rate and seed is a run, and one table is written."""

import argparse
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import product
from pathlib import Path

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, read
from linformer_fairseq.checkpoints.folders import as_file
from linformer_fairseq.checkpoints.hf_kept import kept_pooling
from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning import conll, grid, heads, retrieval, squad
from linformer_fairseq.finetuning.labels import classes_of, targets
from linformer_fairseq.finetuning.pairs import finetune_pairs
from linformer_fairseq.finetuning.report import Row, write_table
from linformer_fairseq.finetuning.train import MODEL, Run, digests_of
from linformer_fairseq.inference.predict import Labels
from linformer_fairseq.inference.sequences import tokenizer_of
from linformer_fairseq.io.files import digest, write_text
from linformer_fairseq.measuring.study import markdown
from linformer_fairseq.tables import Table, read_table

SETTINGS = ("batch_size", "epochs", "warm_up", "patience", "pretrained", "layer_lr_decay")


def train(a: argparse.Namespace) -> None:
    """Classes or scores of rows."""
    empty = [a.label_column] if a.multi_label else []  # a row may have no label
    read_rows = partial(read_table, text=a.text_column, label=a.label_column, quoted=a.quoted, may_be_empty=empty)
    tables = {name: read_rows(path) for name, path in _files(a).items()}
    classes = () if a.regression else classes_of(tables["train"], a.multi_label)
    labels = Labels(classes, len(a.text_column), a.keep, a.multi_label)
    for table in tables.values():
        targets(table, labels)
    source = _source(a)
    tokenizer_of(source, a.data)
    if a.dev is None:
        rows, dev = tables.pop("train").split(a.dev_share)
        if not (len(rows) and len(dev)):
            raise UsageError(f"--dev-share {a.dev_share}: leaves no rows of {a.train} for one of both; name --dev")
        tables = {"train": rows, "dev": dev, **tables}
    runs = _runs(a, tables, digests_of(source, a.data, tables), labels, a.metric)
    _report(a, runs, grid.run_grid(runs, a.out), MODEL)


def tokens(a: argparse.Namespace) -> None:
    """A tag for each word."""
    read_file = partial(conll.read_sentences, word=a.word_column, tag=a.tag_column)
    sentences = {name: read_file(path) for name, path in _files(a).items()}
    _heads(a, conll.Tagging(sentences, conll.tags_of(sentences)), f"{a.word_column} {a.tag_column}")


def answers(a: argparse.Namespace) -> None:
    """Answers that are parts of a text."""
    questions = {name: squad.read_questions(path) for name, path in _files(a).items()}
    _heads(a, squad.Answering(questions, a.stride), f"{a.stride}")


def _heads(a: argparse.Namespace, task: heads.HeadTask, how: str) -> None:
    files = {name: digest(path) for name, path in _files(a).items()} | {a.command: how}
    runs = _runs(a, {}, digests_of(_source(a), a.data, {}) | files, Labels((), 1), task.metrics)
    _report(a, runs, grid.best([(run, heads.finetune_head(run, task)) for run in runs]), heads.FOLDER)


def pairs(a: argparse.Namespace) -> None:
    """Vectors that find passages for queries; without --train, how the checkpoint's find them."""
    query, _, *negatives = a.text_column
    tables = {}
    for name, path in _files(a).items():
        empty = [] if name == "train" else [query, *negatives]
        tables[name] = read_table(path, a.text_column, quoted=a.quoted, may_be_empty=empty)
    evaluations = {name: retrieval.of_table(table) for name, table in tables.items() if name != "train"}
    judged = {name: path for name in ("qrels", "queries", "corpus") if (path := getattr(a, name))}
    if judged:
        evaluations["qrels"] = retrieval.of_qrels(**judged)
    source = _source(a)
    pooling = a.pooling or kept_pooling(a.data or source.data) or source.pooling or "mean"
    if not a.train:
        _compare(a, source, pooling, evaluations)
        return
    digests = digests_of(source, a.data, tables) | {"pooling": pooling, "temperature": str(a.temperature)}
    digests |= {name: digest(path) for name, path in judged.items()}
    runs = _runs(a, tables, digests, Labels((), len(a.text_column)), a.metric)
    how = pooling, a.temperature, a.chunk_rows
    _report(a, runs, grid.best([(run, finetune_pairs(run, evaluations, *how)) for run in runs]), MODEL)


def _compare(
    a: argparse.Namespace, source: Checkpoint, pooling: str, evaluations: Mapping[str, retrieval.Retrieval]
) -> None:
    metrics = list(dict.fromkeys(a.metric))
    rows = []
    for name, one in evaluations.items():
        for way, scores_of in (
            ("BM25", retrieval.by_bm25(one)),
            ("model", retrieval.by_model(source, a.data, pooling, one)),
        ):
            rows.append([name, way, *map("{:.1f}".format, retrieval.scored(one, scores_of, metrics).values())])
    write_text(a.out / "results.md", text := markdown(["", "", *metrics], rows, 2))
    print(text)


def _files(a: argparse.Namespace) -> dict[str, Path]:
    return {name: path for name in ("train", "dev", "test") if (path := getattr(a, name))}


def _source(a: argparse.Namespace) -> Checkpoint:
    """The checkpoint, of a folder made in --out; `a.checkpoint` is its file from here on."""
    a.checkpoint = as_file(a.checkpoint, a.out)
    return read(a.checkpoint)


def _runs(
    a: argparse.Namespace,
    tables: Mapping[str, Table],
    digests: Mapping[str, str],
    labels: Labels,
    metrics: Iterable[str],
) -> list[Run]:
    """The runs of all learning rates and seeds."""
    settings = {name: getattr(a, name) for name in SETTINGS} | {"balanced": getattr(a, "balanced", False)}
    given = (a.checkpoint, a.data, tables, digests, labels, tuple(dict.fromkeys(metrics)))
    runs = []
    for lr, seed in product(a.lr, range(1, a.seeds + 1)):
        parts = [f"lr{lr:g}"] * (len(a.lr) > 1) + [f"seed{seed}"] * (a.seeds > 1)
        runs.append(Run(a.name or a.train.stem, a.out / "-".join(parts), *given, seed, lr, **settings))
    return runs


def _report(a: argparse.Namespace, runs: list[Run], chosen: Mapping[str, tuple[Row, Run]], model: str) -> None:
    ((row, run),) = chosen.values()
    print(write_table([row], a.out))
    if len(runs) > 1:
        print(grid.settings_table(runs, a.out))
        print(f"{run.out / model} is of the median run of the setting that was chosen on the dev rows")
